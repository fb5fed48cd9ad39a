"""Layers and casts that models and methods share."""
