"""Experiments: the request, its folder, its plan."""
