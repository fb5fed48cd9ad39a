"""From prepared data to batches in memory."""
