"""Searches: their spaces, schedulers and saved states, and the Tune run that holds them."""
