"""What `compare` does: begins studies, runs what is left of them, adds to them."""
