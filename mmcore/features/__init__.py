"""Features of frozen encoders: computed once, stored, trained on."""
