from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcore.batch import NUM_UNIFORMS, Batch
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.errors import ConfigError
from mmcore.transforms.augmentation import crop_boxes
from mmcore.transforms.batch_transforms import BatchTransforms, build_transforms
from mmcore.transforms.spectrogram import log_spectrogram, mel_filters, tile

RATE = 8000
AUDIO = Modality("audio", "audio", (1600,), "int16", RATE, variable_length=True)
IMAGE = Modality("image", "image", (3, 20, 28), "uint8")
VIDEO = Modality("video", "image", (4, 3, 12, 16), "uint8", variable_length=True)
TEXT = Modality("text", "tokens", (9,), "int32")
FEATURES = Modality("features", "features", (5, 7), "float16")
VIEWS = Modality("views", "features", (4, 7), "float16", views=3)


def _spec(*modalities: Modality) -> DatasetSpec:
    return DatasetSpec("made_up", ("a", "b"), modalities)


def _build(modality: Modality, dtype: torch.dtype = torch.float64, **settings: object) -> BatchTransforms:
    # The constants are made in the default type; the references are computed in float64.
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return build_transforms(_spec(modality), {modality.name: settings})
    finally:
        torch.set_default_dtype(before)


def _stored(modality: Modality, num_samples: int, generator: torch.Generator) -> Tensor:
    shape = (num_samples, *modality.shape)
    if modality.kind == "audio":
        return (torch.randn(shape, generator=generator) * 3000).to(torch.int16)
    if modality.kind == "features":
        return torch.randn(shape, generator=generator).half()
    return torch.randint(0, 256, shape, generator=generator, dtype=getattr(torch, modality.dtype))


def _batch(*modalities: Modality, num_samples: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = {modality.name: _stored(modality, num_samples, generator) for modality in modalities}
    lengths = {}
    for modality in modalities:
        if modality.variable_length:
            lengths[modality.name] = torch.randint(1, modality.shape[0] + 1, (num_samples,), generator=generator)
            for row, length in enumerate(lengths[modality.name]):
                inputs[modality.name][row, length:] = 0
    uniforms = torch.rand(num_samples, NUM_UNIFORMS, generator=generator)
    return Batch(inputs, torch.zeros(num_samples, dtype=torch.int64), lengths, uniforms=uniforms)


# Pictures


def _naive_resize(picture: np.ndarray, box: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """Bilinear samples of (C, H, W) at the centres of `size` equal cells of the box (top, left, height, width)."""
    channels, height, width = picture.shape
    result = np.zeros((channels, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((box[0] + (i + 0.5) / size[0] * box[2]) * height - 0.5, 0), height - 1)
            x = min(max((box[1] + (j + 0.5) / size[1] * box[3]) * width - 0.5, 0), width - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            for di, wy in ((0, top + 1 - y), (1, y - top)):
                for dj, wx in ((0, left + 1 - x), (1, x - left)):
                    result[:, i, j] += wy * wx * picture[:, top + di, left + dj]
    return result


def _naive_box(uniforms: np.ndarray, height: int, width: int, scale: tuple[float, float]) -> tuple[float, ...]:
    area = scale[0] + (scale[1] - scale[0]) * uniforms[0]
    low, high = (min(max(r * height / width, area), 1 / area) for r in (3 / 4, 4 / 3))
    shape = math.exp(math.log(low) + (math.log(high) - math.log(low)) * uniforms[1])
    box_height, box_width = min(math.sqrt(area / shape), 1), min(math.sqrt(area * shape), 1)
    return (1 - box_height) * uniforms[2], (1 - box_width) * uniforms[3], box_height, box_width


@pytest.mark.parametrize("modality", [IMAGE, VIDEO])
def test_training_pictures_equal_a_loop(modality: Modality) -> None:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    transforms = _build(modality, mean=mean, std=std, crop_scale=[0.3, 0.9], flip=True, size=[10, 9])
    batch = _batch(modality)
    got = transforms(batch, training=True).inputs[modality.name]
    assert got.dtype == torch.float64
    for row in range(batch.num_samples):
        assert batch.uniforms is not None
        uniforms = batch.uniforms[row].double().numpy()
        frames = batch.inputs[modality.name][row].double().numpy().reshape(-1, *modality.shape[-3:])
        expected = []
        for frame in frames:
            picture = frame[:, :, ::-1] if uniforms[4] < 0.5 else frame
            box = _naive_box(uniforms, *picture.shape[1:], scale=(0.3, 0.9))
            cut = _naive_resize(picture / 255, box, (10, 9))
            expected.append((cut - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1)))
        np.testing.assert_allclose(got[row].reshape(len(frames), 3, 10, 9), np.stack(expected), rtol=0, atol=1e-10)


def test_evaluation_resizes_the_whole_picture() -> None:
    batch = _batch(IMAGE)
    got = _build(IMAGE, size=(9, 30), crop_scale=(0.1, 0.2), flip=True)(batch, training=False).inputs["image"]
    for row in range(batch.num_samples):
        picture = batch.inputs["image"][row].double().numpy() / 255
        np.testing.assert_allclose(got[row], _naive_resize(picture, (0, 0, 1, 1), (9, 30)), rtol=0, atol=1e-12)


def test_pictures_are_only_normalised_by_default() -> None:
    batch = _batch(IMAGE)
    for training in (False, True):
        got = _build(IMAGE, dtype=torch.float32, mean=0.25, std=0.5)(batch, training=training).inputs["image"]
        torch.testing.assert_close(got, (batch.inputs["image"].float() / 255 - 0.25) / 0.5)
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_flip_alone_keeps_every_pixel() -> None:
    batch = _batch(IMAGE, num_samples=20)
    got = _build(IMAGE, dtype=torch.float32, flip=True)(batch, training=True).inputs["image"]
    stored = batch.inputs["image"] / 255
    assert batch.uniforms is not None
    mirrored = batch.uniforms[:, 4] < 0.5
    assert 0 < mirrored.sum() < 20
    torch.testing.assert_close(got[mirrored], stored[mirrored].flip(-1))
    torch.testing.assert_close(got[~mirrored], stored[~mirrored])


def test_crop_boxes_lie_inside_and_have_their_area_and_shape() -> None:
    uniforms = torch.rand(5000, NUM_UNIFORMS, dtype=torch.float64)
    top, left, height, width = crop_boxes(uniforms, 20 / 28, (0.08, 1.0), (3 / 4, 4 / 3)).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-12
    torch.testing.assert_close(height * width, 0.08 + 0.92 * uniforms[:, 0])
    ratio = (width * 28) / (height * 20)
    small = uniforms[:, 0] < 0.5  # so small that every shape of the range fits into the picture
    assert ratio[small].min() >= 3 / 4 - 1e-9
    assert ratio[small].max() <= 4 / 3 + 1e-9


def test_augmentation_does_not_depend_on_how_a_batch_is_cut() -> None:
    batch = _batch(IMAGE, AUDIO, num_samples=8)
    transforms = build_transforms(
        _spec(AUDIO, IMAGE), {"image": {"crop_scale": [0.5, 1], "flip": True}, "audio": {"n_fft": 128, "frames": 20}}
    )
    whole = transforms(batch, training=True)
    parts = [transforms(batch.select(start, stop), training=True) for start, stop in ((0, 3), (3, 8))]
    for name in ("image", "audio"):
        torch.testing.assert_close(whole.inputs[name], torch.cat([part.inputs[name] for part in parts]))


def test_augmentation_needs_random_numbers() -> None:
    batch = _batch(IMAGE)
    batch.uniforms = None
    with pytest.raises(ValueError, match="needs uniforms"):
        _build(IMAGE, flip=True)(batch, training=True)
    _build(IMAGE, flip=True)(batch, training=False)
    _build(IMAGE)(batch, training=True)


# Spectrograms


def _naive_spectrogram(clip: np.ndarray, n_fft: int, hop: int, num_mels: int | None) -> np.ndarray:
    """Log-spectrogram (F, V) of one clip, by the definition of the Fourier transform; zeros beyond its ends."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.concatenate([np.zeros(n_fft // 2), clip, np.zeros(n_fft)])
    basis = np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft)
    frames = [basis @ (window * padded[v * hop : v * hop + n_fft]) for v in range(1 + len(clip) // hop)]
    magnitude = np.abs(np.stack(frames, axis=1))
    if num_mels is not None:
        magnitude = mel_filters(num_mels, n_fft, RATE).double().numpy() @ magnitude**2
    return np.log(magnitude + 1e-7)


def _naive_resample(spectrogram: np.ndarray, frames: int) -> np.ndarray:
    num_bins, total = spectrogram.shape
    step = total / frames
    result = np.zeros((num_bins, frames))
    for j in range(frames):
        centre = (j + 0.5) * step - 0.5
        weights = np.array([max(0.0, 1 - abs(t - centre) / max(step, 1)) for t in range(total)])
        result[:, j] = spectrogram @ (weights / weights.sum())
    return result


@pytest.mark.parametrize("n_mels", [None, 12])
@pytest.mark.parametrize("frames", [None, 10, 60])
@pytest.mark.parametrize("normalise", [True, False])
def test_spectrograms_equal_a_loop(n_mels: int | None, frames: int | None, normalise: bool) -> None:
    transforms = _build(AUDIO, n_fft=128, hop_length=48, n_mels=n_mels, frames=frames, standardise=normalise)
    if n_mels:
        transforms.transforms["audio"].filters = mel_filters(n_mels, 128, RATE).double()
    batch = _batch(AUDIO, num_samples=4)
    result = transforms(batch, training=False)
    got = result.inputs["audio"]
    assert got.shape == (4, 1, n_mels or 65, frames or 1 + 1600 // 48)
    for row in range(batch.num_samples):
        length = int(batch.lengths["audio"][row])
        expected = _naive_spectrogram(batch.inputs["audio"][row, :length].double().numpy() / 32768, 128, 48, n_mels)
        if normalise:
            expected = (expected - expected.mean()) / expected.std()
        if frames:
            expected = _naive_resample(expected, frames)
        else:
            assert result.lengths["audio"][row] == expected.shape[1]
            floor = 0.0 if normalise else math.log(1e-7)
            expected = np.pad(expected, ((0, 0), (0, got.shape[-1] - expected.shape[1])), constant_values=floor)
        np.testing.assert_allclose(got[row, 0], expected, rtol=0, atol=1e-8)
    assert ("audio" in result.lengths) == (frames is None)


def test_clips_of_full_length_need_no_lengths() -> None:
    batch = _batch(AUDIO)
    batch.lengths["audio"] = torch.full((6,), 1600)
    transforms = _build(AUDIO, n_fft=128, hop_length=48, frames=20)
    with_lengths = transforms(batch, training=False).inputs["audio"]
    batch.lengths = {}
    torch.testing.assert_close(transforms(batch, training=False).inputs["audio"], with_lengths)


def test_a_clip_does_not_depend_on_the_padding_it_is_stored_with() -> None:
    batch = _batch(AUDIO)
    short = Modality("audio", "audio", (1000,), "int16", RATE, variable_length=True)
    batch.lengths["audio"].clamp_(max=1000)
    batch.inputs["audio"][:, 1000:] = 0
    settings = {"n_fft": 128, "hop_length": 48, "frames": 20}
    long = _build(AUDIO, **settings)(batch, training=False).inputs["audio"]
    batch.inputs["audio"] = batch.inputs["audio"][:, :1000]
    torch.testing.assert_close(_build(short, **settings)(batch, training=False).inputs["audio"], long)


def test_resampling_is_antialiased_interpolation() -> None:
    transforms = _build(AUDIO, n_fft=128, hop_length=16, frames=30, standardise=False)
    batch = _batch(AUDIO)
    got = transforms(batch, training=False).inputs["audio"]
    for row, length in enumerate(batch.lengths["audio"].tolist()):
        window = torch.hann_window(128, dtype=torch.float64)
        clip = batch.inputs["audio"][row : row + 1, :length].double() / 32768
        spectrogram = log_spectrogram(clip, window, 16, None)[None]
        expected = F.interpolate(spectrogram, (65, 30), mode="bilinear", align_corners=False, antialias=True)
        torch.testing.assert_close(got[row], expected[0])


def test_silence_and_a_missing_clip_become_zeros() -> None:
    batch = _batch(AUDIO)
    batch.inputs["audio"].zero_()
    batch.lengths["audio"][0] = 0
    got = _build(AUDIO, dtype=torch.float32, n_fft=128, n_mels=12, frames=9)(batch, training=False).inputs["audio"]
    assert got.abs().max() < 1e-2


def test_mel_filters_equal_those_of_transformers() -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    for num_filters, n_fft, rate in ((40, 512, 16000), (12, 128, 8000), (128, 2048, 22050)):
        expected = audio_utils.mel_filter_bank(n_fft // 2 + 1, num_filters, 0, rate / 2, rate, mel_scale="htk")
        np.testing.assert_allclose(mel_filters(num_filters, n_fft, rate).T, expected, rtol=0, atol=1e-5)


# All kinds together


def test_features_become_floating_and_tokens_stay() -> None:
    batch = _batch(TEXT, FEATURES)
    result = build_transforms(_spec(TEXT, FEATURES), {})(batch, training=True)
    assert result.inputs["text"] is batch.inputs["text"]
    assert torch.equal(result.inputs["features"], batch.inputs["features"].float())


def test_training_draws_one_of_the_augmented_views_and_evaluation_takes_the_plain_one() -> None:
    batch = _batch(VIEWS, num_samples=300)
    assert batch.uniforms is not None
    stored = batch.inputs["views"].double()
    transforms = _build(VIEWS)
    torch.testing.assert_close(transforms(batch, training=False).inputs["views"], stored[:, 0])
    drawn = transforms(batch, training=True).inputs["views"]
    views = [1 + int(3 * float(uniform)) for uniform in batch.uniforms[:, 6]]
    torch.testing.assert_close(drawn, torch.stack([stored[row, view] for row, view in enumerate(views)]))
    assert set(views) == {1, 2, 3}
    batch.uniforms[:, 6] = 1 - 2**-24  # the largest there is
    torch.testing.assert_close(transforms(batch, training=True).inputs["views"], stored[:, 3])
    batch.uniforms = None
    with pytest.raises(ValueError, match="needs uniforms"):
        transforms(batch, training=True)


def test_the_given_batch_is_not_changed() -> None:
    batch, same = _batch(IMAGE, AUDIO, VIDEO), _batch(IMAGE, AUDIO, VIDEO)
    settings = {"image": {"flip": True, "crop_scale": [0.5, 1]}, "audio": {"n_fft": 128}}
    result = build_transforms(_spec(AUDIO, IMAGE, VIDEO), settings)(batch, training=True)
    assert all(torch.equal(batch.inputs[name], same.inputs[name]) for name in batch.inputs)
    assert all(torch.equal(batch.lengths[name], same.lengths[name]) for name in batch.lengths)
    assert result.labels is batch.labels
    assert torch.equal(result.lengths["video"], batch.lengths["video"])


def test_on_the_meta_device() -> None:
    spec = _spec(AUDIO, IMAGE, VIDEO, TEXT, FEATURES)
    picture = {"crop_scale": [0.5, 1], "flip": True, "size": [8, 8]}
    audio = {"n_fft": 128, "n_mels": 12}
    for settings in ({"image": picture, "video": picture, "audio": {**audio, "frames": 9}}, {"audio": audio}):
        transforms = build_transforms(spec, settings)
        batch = _batch(*spec.modalities)
        for training in (True, False):
            real = transforms.to("cpu")(batch, training=training)
            meta = transforms.to("meta")(batch.to("meta"), training=training)
            assert {n: x.shape for n, x in meta.inputs.items()} == {n: x.shape for n, x in real.inputs.items()}
            assert {x.device.type for x in [*meta.inputs.values(), *meta.lengths.values()]} == {"meta"}
            transforms = build_transforms(spec, settings)  # a module does not come back from meta


def test_no_checkpoint_holds_the_constants() -> None:
    transforms = build_transforms(_spec(AUDIO, IMAGE), {"audio": {"n_mels": 12}})
    assert not transforms.state_dict()
    assert {buffer.dtype for buffer in transforms.double().buffers()} == {torch.float64}


def test_overrides_replace_single_keys() -> None:
    defaults = {"image": {"mean": 0.5, "std": 0.25, "flip": True}}
    transforms = build_transforms(_spec(IMAGE), defaults, {"image": {"flip": False}})
    settings = transforms.transforms["image"].settings
    assert (settings.mean, settings.std, settings.flip) == ((0.5,), (0.25,), False)


def test_every_problem_of_the_settings_is_listed() -> None:
    spec = _spec(AUDIO, IMAGE, TEXT)
    overrides = {
        "imag": {},
        "image": {"flop": True, "std": [0.1, -1, 0.2], "crop_scale": [0.9, 0.2]},
        "audio": {"hop_length": 0, "n_mels": 0},
        "text": {"flip": True},
    }
    with pytest.raises(ConfigError) as caught:
        build_transforms(spec, {}, overrides)
    assert caught.value.problems == [
        "unknown modality 'dataset.transforms.imag': did you mean 'image'? known: audio, image, text",
        "dataset.transforms.audio.hop_length must be in [1, 100000000], got 0",
        "dataset.transforms.audio.n_mels must be in [1, 100000000], got 0",
        "dataset.transforms.image.std.1 must be greater than 0, got -1",
        "dataset.transforms.image.crop_scale must be a pair (low, high) with low <= high, got [0.9, 0.2]",
        "unknown key 'dataset.transforms.image.flop': did you mean 'flip'? "
        "known: crop_ratio, crop_scale, flip, mean, middle_scale, size, std, train_frames",
        "unknown key 'dataset.transforms.text.flip': nothing can be set here",
    ]


def test_settings_must_fit_what_is_stored() -> None:
    mute = Modality("mute", "audio", (800,), "int16")
    stereo = Modality("stereo", "audio", (2, 800), "int16", RATE)
    with pytest.raises(ConfigError) as caught:
        build_transforms(
            _spec(IMAGE, AUDIO, mute, stereo),
            {"image": {"mean": [0.1, 0.2], "std": [1, 1]}, "audio": {"n_fft": 64, "n_mels": 40}, "mute": {"n_mels": 8}},
        )
    assert caught.value.problems == [
        "dataset.transforms.image.mean must have 1 or 3 values, got (0.1, 0.2)",
        "dataset.transforms.image.std must have 1 or 3 values, got (1.0, 1.0)",
        "dataset.transforms.audio.n_mels must be smaller, or n_fft larger: "
        "4 of 40 filters hold none of the 33 frequencies",
        "dataset.transforms.mute.n_mels must be none: the data set states no sample rate",
        "dataset.transforms.stereo: a spectrogram is made of a waveform (T,), got (2, 800)",
    ]


class TestTile:
    def test_repeats_the_valid_part(self) -> None:
        x = torch.tensor([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5], [7, 0, 0, 0, 0]], dtype=torch.int16)
        tiled = tile(x, torch.tensor([3, 5, 1]), 7)
        assert tiled.tolist() == [[1, 2, 3, 1, 2, 3, 1], [1, 2, 3, 4, 5, 1, 2], [7] * 7]

    def test_cuts_what_is_longer_and_takes_all_without_lengths(self) -> None:
        x = torch.arange(10).reshape(2, 5)
        assert tile(x, None, 3).tolist() == [[0, 1, 2], [5, 6, 7]]
        assert tile(x, None, 6).tolist() == [[0, 1, 2, 3, 4, 0], [5, 6, 7, 8, 9, 5]]
        assert tile(x, torch.tensor([0, 5]), 3).tolist() == [[0, 0, 0], [5, 6, 7]]

    def test_a_tiled_clip_has_the_papers_shape_and_no_length(self) -> None:
        spec = DatasetSpec("x", ("a",), (Modality("audio", "audio", (110_250,), "int16", 22050, variable_length=True),))
        settings = {"n_fft": 512, "hop_length": 353, "standardise": False, "tile_to": 441_000}
        transforms = build_transforms(spec, {"audio": settings})
        x = torch.zeros(1, 110_250, dtype=torch.int16)
        batch = Batch({"audio": x}, torch.zeros(1, dtype=torch.int64), lengths={"audio": torch.tensor([66_150])})
        out = transforms(batch, training=False)
        assert out.inputs["audio"].shape == (1, 1, 257, 1250)
        assert out.lengths == {}
