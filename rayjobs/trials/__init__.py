"""Trials: one run each, in a process of its own or in a Ray Train worker group."""
