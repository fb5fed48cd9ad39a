from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.config.schema import ProtocolConfig
from mmcore.data.demo.pixels import noisy_bytes, stored_statistics
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.prepared.columns import Arrays, columns_to_arrays, to_batch
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.sources.digits import (
    COLUMN_HZ,
    KEYPAD,
    ROW_HZ,
    SAMPLE_RATE_HZ,
    Digits,
    DigitsConfig,
    second_view,
    touch_tone,
)
from mmcore.data.spec import Sample
from mmcore.training.trainer import Trainer
from mmcore.transforms.batch_transforms import build_transforms


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare("digits", {"third": "view"}, None, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def arrays(digits: PreparedDataset) -> Arrays:
    return columns_to_arrays(digits.read_table(), digits.spec)


def spectrum_peaks(wave: np.ndarray) -> tuple[float, float]:
    """Returns the strongest frequency under and over 1,075 Hz."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 15))
    frequencies = np.fft.rfftfreq(1 << 15, 1 / SAMPLE_RATE_HZ)
    low, high = power * (frequencies < 1075), power * (frequencies > 1075)
    return float(frequencies[low.argmax()]), float(frequencies[high.argmax()])


@pytest.mark.parametrize("digit", range(10))
def test_touch_tone_is_the_digits_pair_of_q23(digit: int) -> None:
    pairs = {1: (697, 1209), 2: (697, 1336), 3: (697, 1477), 4: (770, 1209), 5: (770, 1336), 6: (770, 1477),
             7: (852, 1209), 8: (852, 1336), 9: (852, 1477), 0: (941, 1336)}  # fmt: skip
    row, column = KEYPAD[digit]
    assert (ROW_HZ[row], COLUMN_HZ[column]) == pairs[digit]
    wave = touch_tone(digit, 40, np.random.default_rng(digit))
    low, high = spectrum_peaks(wave)
    assert low == pytest.approx(pairs[digit][0], rel=0.02)
    assert high == pytest.approx(pairs[digit][1], rel=0.02)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 10.0])
def test_noise_is_as_strong_as_the_option_says(snr_db: float) -> None:
    generator = np.random.default_rng(0)
    wave = np.mean([np.abs(np.fft.rfft(touch_tone(5, snr_db, generator).astype(float))) ** 2 for _ in range(200)], 0)
    frequencies = np.fft.rfftfreq(2000, 1 / SAMPLE_RATE_HZ)
    noise = wave[frequencies > 2500].mean() * len(wave)
    assert 10 * np.log10((wave.sum() - noise) / noise) == pytest.approx(snr_db, abs=0.5)


def test_shapes_counts_and_splits(digits: PreparedDataset, arrays: Arrays) -> None:
    assert digits.spec.modality_names == ("image", "audio", "view")
    assert arrays.inputs["image"].shape == (1797, 1, 8, 8)
    assert arrays.inputs["image"].dtype == np.uint8
    assert arrays.inputs["audio"].shape == (1797, 2000)
    assert arrays.inputs["audio"].dtype == np.int16
    assert arrays.inputs["view"].shape == (1797, 1, 8, 8)
    assert [digits.metadata["splits"][split]["num_rows"] for split in ("train", "val", "test")] == [1079, 359, 359]
    assert min(digits.metadata["splits"]["val"]["class_counts"]) >= 35


def test_the_holdout_protocol_is_the_split_on_disk(digits: PreparedDataset) -> None:
    assignment = digits.assign(ProtocolConfig())
    split = digits.index["split"].to_numpy()
    assert all(set(split[assignment.rows(name)]) == {name} for name in ("train", "val", "test"))


def test_it_is_constructed_and_says_so(digits: PreparedDataset) -> None:
    assert digits.constructed
    assert digits.card.startswith("CONSTRUCTED")


def first_sample(**options: Any) -> Sample:
    return next(sample for _, sample in Digits(DigitsConfig(**options)).samples(None))


def test_samples_depend_on_their_id_and_the_seed_alone() -> None:
    first, again, other = first_sample(), first_sample(third="view"), first_sample(seed=1)
    quieter = first_sample(audio_snr_db=30)
    np.testing.assert_array_equal(first.arrays["audio"], again.arrays["audio"])
    np.testing.assert_array_equal(first.arrays["image"], again.arrays["image"])
    np.testing.assert_array_equal(first.arrays["image"], quieter.arrays["image"])
    assert not np.array_equal(first.arrays["audio"], other.arrays["audio"])
    assert not np.array_equal(first.arrays["image"], other.arrays["image"])


def test_an_image_without_noise_is_the_scan() -> None:
    scan = load_digits().images[0] / 16
    np.testing.assert_allclose(
        first_sample(image_noise=0).arrays["image"][0] / 255 * 3 - 1, scan, atol=0.5 * 3 / 255 + 1e-9
    )


def test_noise_is_not_cut_off_at_black() -> None:
    stored = noisy_bytes(np.zeros((200, 8, 8)), 0.3, np.random.default_rng(0)) / 255
    mean, std = stored_statistics(0, 0, 0.3)
    assert stored.mean() == pytest.approx(mean, abs=0.002)
    assert stored.std() == pytest.approx(std, rel=0.02)


def test_second_view_keeps_the_digit_in_the_picture() -> None:
    image = np.zeros((8, 8))
    image[2:6, 2:6] = 1
    views = [second_view(image, np.random.default_rng(seed)) for seed in range(50)]
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    assert all(view[3:5, 3:5].min() == pytest.approx(1, abs=0.2) for view in views)
    assert all(view.sum() == pytest.approx(16, rel=0.5) for view in views)
    assert not np.allclose(views[0], views[1])


def test_default_transforms_standardise(digits: PreparedDataset, arrays: Arrays) -> None:
    source = Digits(DigitsConfig.model_validate(digits.options))
    transforms = build_transforms(digits.spec, source.default_transforms(), {})
    batch = transforms(to_batch(digits.read_table().slice(0, 500), digits.spec), training=True)
    assert set(source.default_encoders()) == set(digits.spec.modality_names) == set(batch.inputs)
    for name, x in batch.inputs.items():
        assert float(x.mean()) == pytest.approx(0, abs=0.15), name
        assert float(x.std()) == pytest.approx(1, abs=0.15), name


@pytest.mark.slow
def test_joint_training_leaves_the_audio_at_least_10_points_under_what_it_reaches_alone(tmp_path: Path) -> None:
    prepared = prepare("digits", None, None, tmp_path)

    def probe_accuracy(method: dict[str, Any], seed: int) -> float:
        values = {"dataset": {"name": "digits"}, "method": method, "optimizer": {"lr": 0.03}, "seed": seed}
        config = complete_config(parse_config({**values, "trainer": {"max_epochs": 15}}))
        loader = TensorLoader.from_prepared(prepared, prepared.assign(config.protocol), 64, seed=seed)
        transforms = build_run_transforms(config, prepared.spec)
        trainer = Trainer(config, build_method(config, prepared.spec), loader, transforms)
        return float(trainer.fit().last_row["val/audio/probe_accuracy"])

    alone = [probe_accuracy({"name": "unimodal", "modality": "audio"}, seed) for seed in range(3)]
    joint = [probe_accuracy({"name": "joint"}, seed) for seed in range(3)]
    assert np.mean(alone) > 0.35  # chance is 0.1
    assert np.mean(alone) - np.mean(joint) > 0.1
