"""Data: what a data set is, raw files, the prepared format, protocols, feeding."""
