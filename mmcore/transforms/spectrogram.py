"""Log-spectrograms of waveforms that were padded to one length, by batch, as pure functions.

Shape legend: B samples, T samples of a waveform, V frames of its spectrogram, F frequency bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_FLOOR = 1e-7
"""Added before every logarithm, as the field's preprocessing does."""
KALDI_LOWEST_HZ, KALDI_PREEMPHASIS, KALDI_FLOOR = 20.0, 0.97, torch.finfo(torch.float32).eps
"""Kaldi's defaults: where the filters begin, what is taken off of the sample before, the least a logarithm is of."""


def tile(x: Tensor, lengths: Tensor | None, total: int) -> Tensor:
    """Repeats the first `lengths` (B,) samples of each waveform (B, T) until there are `total`: (B, total)."""
    counts = torch.full_like(x[:, 0], x.shape[1], dtype=torch.int64) if lengths is None else lengths.clamp(min=1)
    return x.gather(1, torch.arange(total, device=x.device) % counts[:, None])


def log_spectrogram(x: Tensor, window: Tensor, hop_length: int, filters: Tensor | None) -> Tensor:
    """Returns log(|STFT| + 1e-7), or log(filters |STFT|^2 + 1e-7): (B, F, V) with V = 1 + T // hop_length.

    Frame v is centred on sample v * hop_length and sees zeros beyond the ends, so that the valid frames of a
    clip do not depend on how much padding follows it.

    Args:
        x: (B, T) floating, in [-1, 1].
        window: (n_fft,).
        hop_length: Samples between frames.
        filters: (F, n_fft // 2 + 1) on the power spectrum, or None.
    """
    n_fft = len(window)
    spectrum = torch.stft(x, n_fft, hop_length, window=window, center=True, pad_mode="constant", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()  # half the time of abs(), which takes care of overflow
    return ((power.sqrt() if filters is None else filters @ power) + LOG_FLOOR).log()


def mel_filters(num_filters: int, n_fft: int, sample_rate_hz: int) -> Tensor:
    """Returns triangular filters (num_filters, n_fft // 2 + 1) of height 1, evenly spaced on the HTK mel scale."""
    frequencies = torch.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1, dtype=torch.float64)
    top_mel = 2595 * math.log10(1 + sample_rate_hz / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top_mel, num_filters + 2, dtype=torch.float64) / 2595) - 1)
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0).to(torch.get_default_dtype())


def kaldi_filterbank(x: Tensor, window: Tensor, hop_length: int, filters: Tensor) -> Tensor:
    """Returns Kaldi's log-mel filterbank features (B, F, V), V = 1 + (T - W) // hop_length, as `compute-fbank-feats`.

    Window v is the W samples from v * hop_length on. Their mean is subtracted; then from each sample 0.97 times the one
    before (from the first: 0.97 times itself). They are multiplied by the window and filled up with zeros to the
    filters' size; the result is log(filters |DFT|^2), at least log(2^-23). There is no dither and no energy.

    Args:
        x: (B, T) floating, T at least W. Kaldi's own scale is that of 16-bit integers; torchaudio's users have [-1, 1].
        window: (W,), Kaldi's Hanning being the symmetric one.
        hop_length: Samples between frames.
        filters: (F, N / 2 + 1) for a transform of N samples, on the power spectrum.
    """
    frames = x.unfold(-1, len(window), hop_length)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    spectrum = torch.fft.rfft((frames - KALDI_PREEMPHASIS * before) * window, n=2 * (filters.shape[1] - 1))
    power = spectrum.real.square() + spectrum.imag.square()
    energies: Tensor = filters @ power.transpose(1, 2)
    return energies.clamp(min=KALDI_FLOOR).log()


def kaldi_filters(num_filters: int, n_fft: int, sample_rate_hz: int) -> Tensor:
    """Returns filters (num_filters, n_fft // 2 + 1) that are triangles on the mel scale itself, from 20 Hz up.

    Where a filter is narrower than the frequencies lie apart it may hold none of them, and stays at the floor.
    """
    frequencies = torch.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1, dtype=torch.float64)
    mels = 1127 * (1 + frequencies / 700).log()
    lowest = 1127 * math.log(1 + KALDI_LOWEST_HZ / 700)
    corners = torch.linspace(lowest, float(mels[-1]), num_filters + 2, dtype=torch.float64)
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (mels - low) / (centre - low), (high - mels) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0).to(torch.get_default_dtype())


def frame_mask(num_frames: Tensor, total: int) -> Tensor:
    """Returns (B, total) bool: True for the first `num_frames` (B,) of each sample."""
    return torch.arange(total, device=num_frames.device) < num_frames[:, None]


def standardise(x: Tensor, valid: Tensor | None) -> Tensor:
    """Returns `x` (B, F, V) with mean 0 and deviation 1 over each sample's valid frames, and 0 elsewhere.

    The deviation is taken as at least 1e-3, so that silence becomes zeros and not amplified rounding.

    Args:
        x: Log-spectrograms.
        valid: (B, V) bool; None: all.
    """
    if valid is None:
        deviation, mean = torch.std_mean(x, dim=(1, 2), correction=0, keepdim=True)
        return (x - mean) / deviation.clamp(min=1e-3)
    valid = valid[:, None]
    count = valid.sum(dim=2, keepdim=True) * x.shape[1]
    mean = torch.where(valid, x, 0).sum(dim=(1, 2), keepdim=True) / count
    centred = torch.where(valid, x - mean, 0)
    return centred / (centred.square().sum(dim=(1, 2), keepdim=True) / count).sqrt().clamp(min=1e-3)


def resample_frames(x: Tensor, num_frames: Tensor | None, frames: int) -> Tensor:
    """Resamples each sample's valid frames to one number of frames, by antialiased linear interpolation.

    Args:
        x: (B, F, V).
        num_frames: (B,) valid frames, from 1 to V; None: all.
        frames: How many to return.

    Returns:
        (B, F, frames).
    """
    total = x.shape[-1]
    if num_frames is None and total == frames:
        return x
    counts = x.new_full((1,), total) if num_frames is None else num_frames.to(x.dtype)
    step = (counts / frames)[:, None, None]
    centres = (torch.arange(frames, device=x.device, dtype=x.dtype) + 0.5) * step - 0.5
    place = torch.arange(total, device=x.device, dtype=x.dtype)[:, None]
    # Triangles about each new frame's centre; wider than one frame where there are fewer of them than before.
    weights = (1 - (place - centres).abs() / step.clamp(min=1)).clamp(min=0)
    weights = torch.where(place < counts[:, None, None], weights, 0)
    return x @ (weights / weights.sum(dim=1, keepdim=True))
