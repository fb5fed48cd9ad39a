"""Prepares and encodes data sets on Ray."""
