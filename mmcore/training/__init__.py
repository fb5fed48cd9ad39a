"""Training: the one loop, the engine beneath it, and what a run leaves behind."""
