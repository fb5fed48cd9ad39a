"""Kaldi's filterbank features: against a loop written from the definition, and against transformers' own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mmcore.batch import Batch
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.errors import ConfigError
from mmcore.transforms.batch_transforms import BatchTransforms, build_transforms
from mmcore.transforms.spectrogram import kaldi_filterbank, kaldi_filters

RATE = 16_000
SETTINGS = {"kaldi": True, "n_fft": 400, "hop_length": 160, "n_mels": 128, "standardise": False}
EPSILON = 1.1920928955078125e-07


def transforms_of(num_samples: int, dtype: str = "int16", **settings: Any) -> BatchTransforms:
    modality = Modality("audio", "audio", (num_samples,), dtype, RATE, variable_length=True)
    return build_transforms(DatasetSpec("x", ("a",), (modality,)), {"audio": {**SETTINGS, **settings}})


def clips(lengths: list[int], total: int) -> Batch:
    """Noise at several levels, about a level of their own, zeros behind their ends."""
    generator = np.random.default_rng(0)
    waves = np.zeros((len(lengths), total), np.int16)
    for row, length in enumerate(lengths):
        waves[row, :length] = generator.normal(200 * row, 30.0 ** (row + 1), length).clip(-32768, 32767)
    labels = torch.zeros(len(lengths), dtype=torch.int64)
    return Batch({"audio": torch.from_numpy(waves)}, labels, lengths={"audio": torch.tensor(lengths)})


def naive(clip: np.ndarray, window: int, hop: int, num_filters: int) -> np.ndarray:
    """Kaldi's definition, frame by frame and filter by filter, in double precision: (F, V)."""
    size = 1
    while size < window:
        size *= 2

    def mel(hz: float) -> float:
        return 1127 * math.log(1 + hz / 700)

    width = (mel(RATE / 2) - mel(20)) / (num_filters + 1)
    basis = np.exp(-2j * np.pi * np.outer(np.arange(size // 2), np.arange(window)) / size)
    columns = []
    for start in range(0, len(clip) - window + 1, hop):
        frame = clip[start : start + window] - clip[start : start + window].mean()
        emphasised = [frame[0] - 0.97 * frame[0]] + [frame[i] - 0.97 * frame[i - 1] for i in range(1, window)]
        hanning = [0.5 - 0.5 * math.cos(2 * math.pi * i / (window - 1)) for i in range(window)]
        power = np.abs(basis @ (np.array(emphasised) * hanning)) ** 2
        column = []
        for number in range(num_filters):
            left = mel(20) + number * width
            energy = 0.0
            for k in range(size // 2):
                place = (mel(k * RATE / size) - left) / width  # 0 at its left end, 1 in its middle, 2 at its right end
                energy += max(0.0, min(place, 2 - place)) * power[k]
            column.append(math.log(max(energy, EPSILON)))
        columns.append(column)
    return np.array(columns).T


@pytest.fixture
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("window", "hop", "num_filters"), [(400, 160, 128), (256, 100, 23)])
def test_it_is_the_definition(double: None, window: int, hop: int, num_filters: int) -> None:
    lengths = [2000, 1234, 700]
    batch = clips(lengths, 2000)
    found = transforms_of(2000, n_fft=window, hop_length=hop, n_mels=num_filters)(batch, training=False)
    got = found.inputs["audio"]
    assert got.shape == (3, 1, num_filters, 2000 // hop)
    for row, length in enumerate(lengths):
        expected = naive(batch.inputs["audio"][row, :length].numpy() / 32768, window, hop, num_filters)
        assert found.lengths["audio"][row] == expected.shape[1] == 1 + (length - window) // hop
        np.testing.assert_allclose(got[row, 0, :, : expected.shape[1]], expected, rtol=0, atol=1e-9)
        assert not got[row, 0, :, expected.shape[1] :].any()


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_it_is_what_transformers_gives_ast() -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(257, 128, 20, RATE // 2, RATE, None, "kaldi", triangularize_in_mel_space=True)
    batch = clips([8000], 8000)
    expected = spectrogram(
        batch.inputs["audio"][0].double().numpy() / 32768,
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=EPSILON,
        remove_dc_offset=True,
    )
    got = transforms_of(8000)(batch, training=False).inputs["audio"][0, 0]
    assert (expected == math.log(EPSILON)).any()  # filters narrower than the frequencies lie apart
    np.testing.assert_allclose(got[:, : expected.shape[1]], expected, rtol=0, atol=2e-3)


def test_ten_seconds_have_the_published_1024_frames_the_last_two_of_zeros() -> None:
    samples = round(10.24 * RATE)
    found = transforms_of(samples, mean=-5.081, std=4.4849)(clips([samples, 16_000], samples), training=False)
    assert found.inputs["audio"].shape == (2, 1, 128, 1024)
    assert found.lengths["audio"].tolist() == [1022, 98]
    filled = found.inputs["audio"][1, 0, :, 98:]  # with zeros before mean and deviation, as the published code
    torch.testing.assert_close(filled, torch.full_like(filled, 5.081 / 4.4849))


def test_a_constant_does_not_matter_and_silence_is_the_floor(double: None) -> None:
    filters, window = kaldi_filters(20, 512, RATE), torch.hann_window(400, periodic=False)
    wave = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        kaldi_filterbank(wave + 3, window, 160, filters), kaldi_filterbank(wave, window, 160, filters)
    )
    silence = kaldi_filterbank(torch.full((1, 1000), 0.25), window, 160, filters)
    assert (silence == math.log(EPSILON)).all()


def test_a_clip_shorter_than_a_window_has_one_frame() -> None:
    found = transforms_of(2000)(clips([100], 2000), training=False)
    assert found.lengths["audio"].tolist() == [1]
    assert found.inputs["audio"].isfinite().all()


def test_without_lengths_all_frames_but_the_filling_count() -> None:
    modality = Modality("audio", "audio", (2000,), "float32", RATE)
    settings = {**SETTINGS, "standardise": True}
    transforms = build_transforms(DatasetSpec("x", ("a",), (modality,)), {"audio": settings})
    wave = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    found = transforms(Batch({"audio": wave}, torch.zeros(2, dtype=torch.int64)), training=False)
    assert found.lengths == {}
    valid = found.inputs["audio"][..., : 1 + (2000 - 400) // 160]
    torch.testing.assert_close(valid.mean(dim=(1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(valid.std(dim=(1, 2, 3), correction=0), torch.ones(2))
    assert not found.inputs["audio"][..., valid.shape[-1] :].any()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"n_mels": None}, r"audio\.n_mels must be given where kaldi is true"),
        ({"n_fft": 3000}, r"where kaldi is true, n_fft and hop_length must be at most 2000, a clip's samples"),
        ({"standardise": True, "mean": -5.081}, r"audio\.standardise must be false where mean or std is given"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        transforms_of(2000, **settings)
