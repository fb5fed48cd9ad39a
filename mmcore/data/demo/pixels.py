"""Pictures with noise, stored as bytes without cutting the noise off at black and white."""

from __future__ import annotations

import numpy as np

LOW, HIGH = -1.0, 2.0
"""Brightness stored as 0 and 255; black is 0.0 and white 1.0, so noise of up to 0.3 keeps 3 deviations."""


def noisy_bytes(images: np.ndarray, noise_std: float, generator: np.random.Generator) -> np.ndarray:
    """Returns pictures in [0, 1] with Gaussian noise of `noise_std` as uint8 between LOW and HIGH, same shape."""
    noisy = images + noise_std * generator.normal(size=images.shape)
    return np.clip(np.round((noisy - LOW) / (HIGH - LOW) * 255), 0, 255).astype(np.uint8)


def stored_statistics(mean: float, std: float, noise_std: float) -> tuple[float, float]:
    """Returns mean and deviation, for stored bytes as [0, 1], of pictures with these before the noise."""
    return (mean - LOW) / (HIGH - LOW), float(np.hypot(std, noise_std)) / (HIGH - LOW)
