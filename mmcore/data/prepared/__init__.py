"""The prepared data set: how it is written, what it holds, how it is opened."""
