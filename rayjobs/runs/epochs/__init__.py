"""What a run tells at the end of each epoch, to whom, and by which names."""
