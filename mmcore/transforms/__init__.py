"""Transforms of whole batches on the device: augmentation, spectrograms, normalisation."""
