"""From prepared data to batches through Ray: shared in the object store, or streamed."""
