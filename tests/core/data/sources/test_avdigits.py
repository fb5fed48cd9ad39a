from __future__ import annotations

import gzip
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from places import SHARED

from mmcore.config.schema import ProtocolConfig
from mmcore.data.media import read_audio
from mmcore.data.prepared.columns import columns_to_arrays
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.sources.avdigits import IMAGE_FILE, IMAGE_MAGIC, LABEL_FILE, LABEL_MAGIC, loudest_part, read_idx
from mmcore.errors import DataError, UsageError

RAW = SHARED / "data" / "avdigits"
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason=f"the real data set is not in {RAW}")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def avdigits(data_dir: Path) -> PreparedDataset:
    return prepare("avdigits", None, RAW, data_dir)


@pytest.fixture
def small_raw(tmp_path: Path) -> Path:
    """Two digits, three speakers, two takes; eight images of each digit."""
    raw = tmp_path / "raw"
    (raw / "recordings").mkdir(parents=True)
    for digit in range(2):
        for number, speaker in enumerate(("theo", "nicolas", "lucas")):
            for take in (0, 20):
                wave = np.full(1000 + 100 * take, 100 * (1 + digit + 2 * number), dtype=np.int16)
                soundfile.write(raw / "recordings" / f"{digit}_{speaker}_{take}.wav", wave, 8000)
    images = np.stack([np.full((28, 28), 10 * number, dtype=np.uint8) for number in range(16)])
    write_idx(raw / IMAGE_FILE, IMAGE_MAGIC, images)
    write_idx(raw / LABEL_FILE, LABEL_MAGIC, np.repeat(np.arange(2, dtype=np.uint8), 8))
    return raw


def write_idx(path: Path, magic: int, array: np.ndarray) -> None:
    header = b"".join(number.to_bytes(4, "big") for number in (magic, *array.shape))
    path.write_bytes(gzip.compress(header + array.tobytes()))


@needs_raw
class TestReal:
    @pytest.mark.parametrize(
        ("protocol", "sizes"),
        [("holdout", (7200, 300, 600)), ("group", (6000, 500, 1000)), ("default", (6000, 500, 1000))],
    )
    def test_protocols_are_those_of_the_data_sets_description(
        self, avdigits: PreparedDataset, protocol: str, sizes: tuple[int, ...]
    ) -> None:
        assignment = avdigits.assign(ProtocolConfig.model_validate({"name": protocol}))
        labels = avdigits.index["label"].to_numpy()
        for split, size in zip(("train", "val", "test"), sizes, strict=True):
            assert np.bincount(labels[assignment.rows(split)]).tolist() == [size // 10] * 10

    def test_group_holds_out_theo_and_nicolas(self, avdigits: PreparedDataset) -> None:
        assignment = avdigits.assign(ProtocolConfig())
        groups = avdigits.index["group"].to_numpy()
        assert set(groups[assignment.test]) == {"theo"}
        assert set(groups[assignment.val]) == {"nicolas"}
        assert set(groups[assignment.train]) == {"george", "jackson", "lucas", "yweweler"}

    def test_holdout_is_by_take(self, avdigits: PreparedDataset) -> None:
        assignment = avdigits.assign(ProtocolConfig(name="holdout"))
        takes = np.array([int(source.split("_")[2]) for source in avdigits.index["source"].to_pylist()])
        assert (takes[assignment.test].min(), takes[assignment.test].max()) == (0, 4)
        assert (takes[assignment.val].min(), takes[assignment.val].max()) == (5, 9)
        assert (takes[assignment.train].min(), takes[assignment.train].max()) == (10, 49)

    def test_cv_tests_one_speaker_a_fold(self, avdigits: PreparedDataset) -> None:
        groups = avdigits.index["group"].to_numpy()
        tested = set()
        for fold in range(6):
            assignment = avdigits.assign(ProtocolConfig(name="cv", folds=6, fold=fold))
            speakers = set(groups[assignment.test])
            assert len(speakers) == 1
            assert len(assignment.test) >= 990
            tested |= speakers
        assert len(tested) == 6

    def test_images_are_of_their_class_and_used_once(self, avdigits: PreparedDataset) -> None:
        arrays = columns_to_arrays(avdigits.read_table(), avdigits.spec)
        known = read_idx(RAW / IMAGE_FILE, IMAGE_MAGIC)
        labels = dict(zip((image.tobytes() for image in known), read_idx(RAW / LABEL_FILE, LABEL_MAGIC), strict=True))
        used = Counter(image.tobytes() for image in arrays.inputs["image"])
        assert len(labels) == 10_000  # no image occurs twice, so that bytes name it
        assert set(used.values()) == {1}
        assert [labels[image.tobytes()] for image in arrays.inputs["image"]] == arrays.labels.tolist()

    def test_audio_is_the_clip(self, avdigits: PreparedDataset) -> None:
        arrays = columns_to_arrays(avdigits.read_table(), avdigits.spec)
        for row in range(0, len(arrays.labels), 1000):
            wave, _ = soundfile.read(RAW / "recordings" / f"{arrays.sample_ids[row][:-2]}.wav", dtype="int16")
            length = arrays.lengths["audio"][row]
            assert length == len(wave)
            np.testing.assert_array_equal(arrays.inputs["audio"][row][:length], wave)
            assert not arrays.inputs["audio"][row][length:].any()

    def test_what_was_left_out_is_recorded(self, avdigits: PreparedDataset) -> None:
        reasons = Counter(entry["reason"].split(" ")[0] for entry in avdigits.metadata["skipped"])
        rules = Counter(entry["rule"] for entry in avdigits.metadata["noted"])
        assert (reasons, rules) == ({"MNIST's": 8}, {"audio cropped to its loudest second": 20})
        assert avdigits.num_samples == 9000 - 8

    def test_classes_are_mixed_in_the_files(self, avdigits: PreparedDataset) -> None:
        labels = avdigits.index["label"].to_numpy()[:600]
        assert np.bincount(labels, minlength=10).min() > 20

    @pytest.mark.parametrize(("image", "shape"), [("pooled", (1, 7, 7)), ("noisy", (1, 7, 7))])
    def test_image_options_change_the_image_alone(
        self, avdigits: PreparedDataset, data_dir: Path, image: str, shape: tuple[int, ...]
    ) -> None:
        other = prepare("avdigits", {"image": image}, RAW, data_dir)
        assert other.directory.name == f"avdigits+image={image}"
        assert other.index.equals(avdigits.index)
        ours = columns_to_arrays(other.read_table(), other.spec).inputs["image"][:50] / 255
        clean = columns_to_arrays(avdigits.read_table(), avdigits.spec).inputs["image"][:50] / 255
        pooled = clean.reshape(50, 7, 4, 7, 4).mean(axis=(2, 4))[:, None]
        assert ours.shape[1:] == shape
        if image == "pooled":
            np.testing.assert_allclose(ours, pooled, atol=0.5 / 255 + 1e-9)
        else:
            noise = (3 * ours - 1) - pooled
            assert noise.std() == pytest.approx(0.3, rel=0.05)
            assert abs(noise.mean()) < 0.03


class TestSmall:
    def test_scarce_images_leave_short_the_clips_that_never_train(self, small_raw: Path, tmp_path: Path) -> None:
        prepared = prepare("avdigits", None, small_raw, tmp_path / "data")
        per_clip = Counter(prepared.index["source"].to_pylist())
        assert sum(per_clip.values()) == 16
        # 8 images for 6 clips of each digit: every clip has one before any has two, clips that train first.
        short = {clip for clip, number in per_clip.items() if number == 1}
        assert {"0_theo_0", "0_nicolas_0", "1_theo_0", "1_nicolas_0"} <= short
        assert len(prepared.metadata["skipped"]) == 36 - 16

    def test_another_seed_is_another_pairing(self, small_raw: Path, tmp_path: Path) -> None:
        first, other = (prepare("avdigits", {"seed": seed}, small_raw, tmp_path / "data") for seed in (0, 1))
        images = [columns_to_arrays(data.read_table(), data.spec).inputs["image"] for data in (first, other)]
        assert first.index.equals(other.index)
        assert not np.array_equal(*images)

    def test_other_rates_and_channels_are_converted(self, tmp_path: Path) -> None:
        time_s = np.arange(16000) / 16000
        wave = np.round(8000 * np.sin(2 * np.pi * 440 * time_s)).astype(np.int16)
        soundfile.write(tmp_path / "a.wav", np.stack([wave, wave], axis=1), 16000)
        read = read_audio(tmp_path / "a.wav", 8000)
        assert read.dtype == np.int16
        assert len(read) == 8000
        expected = 8000 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
        assert np.abs(read - expected)[100:-100].max() < 200

    def test_loudest_part(self) -> None:
        wave = np.array([0, 1, 0, 5, -6, 2, 0, 3], dtype=np.int16)
        assert loudest_part(wave, 3).tolist() == [5, -6, 2]

    def test_long_clips_are_cropped_and_recorded(self, small_raw: Path, tmp_path: Path) -> None:
        soundfile.write(small_raw / "recordings" / "0_lucas_20.wav", np.ones(9600, np.int16), 8000)
        prepared = prepare("avdigits", None, small_raw, tmp_path / "data")
        assert {
            "sample_id": "0_lucas_20",
            "reason": "audio cropped to its loudest second (1.20 s long)",
            "rule": "audio cropped to its loudest second",
        } in prepared.metadata["noted"]
        arrays = columns_to_arrays(prepared.read_table(), prepared.spec)
        assert arrays.lengths["audio"].max() == 8000


class TestBadInput:
    @pytest.mark.parametrize("missing", ["recordings", IMAGE_FILE, LABEL_FILE])
    def test_missing_parts_of_the_raw_folder(self, small_raw: Path, tmp_path: Path, missing: str) -> None:
        path = small_raw / missing
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(UsageError) as raised:
            prepare("avdigits", None, small_raw, tmp_path / "data")
        for part in (missing, "free-spoken-digit-dataset", "CC BY-SA", "recordings/{digit}_{speaker}_{take}.wav"):
            assert part in str(raised.value)

    def test_missing_and_empty_raw_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"does not exist. It needs recordings/.*CC BY-SA 4.0"):
            prepare("avdigits", None, tmp_path / "nowhere", tmp_path / "data")
        (tmp_path / "empty").mkdir()
        with pytest.raises(UsageError, match=r"is empty. It needs recordings/.*CC BY-SA 4.0"):
            prepare("avdigits", None, tmp_path / "empty", tmp_path / "data")

    @pytest.mark.parametrize(
        ("num_bytes", "message"),
        [
            (1000, r"1_lucas_20.wav is truncated: 1000 bytes, its header says \d+"),
            (44, "1_lucas_20.wav (is truncated|holds no audio)"),
            (20, "1_lucas_20.wav is truncated: 20 bytes"),
            (0, "1_lucas_20.wav can not be read as audio: it is empty"),
        ],
    )
    def test_truncated_wav(self, small_raw: Path, tmp_path: Path, num_bytes: int, message: str) -> None:
        path = small_raw / "recordings" / "1_lucas_20.wav"
        path.write_bytes(path.read_bytes()[:num_bytes])
        with pytest.raises(DataError, match=message):
            prepare("avdigits", None, small_raw, tmp_path / "data")
        assert not any(path.is_dir() and path.name == "avdigits" for path in (tmp_path / "data").iterdir())

    def test_no_wav_at_all(self, small_raw: Path, tmp_path: Path) -> None:
        (small_raw / "recordings" / "1_lucas_20.wav").write_bytes(b"hello, I am text and not sound" * 10)
        with pytest.raises(DataError, match=r"1_lucas_20.wav can not be read as audio: it is .* no format known here"):
            prepare("avdigits", None, small_raw, tmp_path / "data")

    def test_clip_with_another_name(self, small_raw: Path, tmp_path: Path) -> None:
        (small_raw / "recordings" / "0_lucas_20.wav").rename(small_raw / "recordings" / "zero.wav")
        with pytest.raises(UsageError, match=r"zero.wav: a clip's name must be \{digit\}_\{speaker\}_\{take\}.wav"):
            prepare("avdigits", None, small_raw, tmp_path / "data")

    @pytest.mark.parametrize("name", [IMAGE_FILE, LABEL_FILE])
    def test_gz_that_is_no_idx_file(self, small_raw: Path, tmp_path: Path, name: str) -> None:
        (small_raw / name).write_bytes(gzip.compress(b"\x00\x00\x00\x07 something else"))
        magic = {IMAGE_FILE: 2051, LABEL_FILE: 2049}[name]
        with pytest.raises(
            DataError, match=rf"{name} is no IDX file: its magic number must be {magic}, got 7 \(0x00000007"
        ):
            prepare("avdigits", None, small_raw, tmp_path / "data")

    def test_images_and_labels_exchanged(self, small_raw: Path, tmp_path: Path) -> None:
        shutil.copy(small_raw / LABEL_FILE, small_raw / IMAGE_FILE)
        with pytest.raises(DataError, match=rf"{IMAGE_FILE} is no IDX file: its magic number must be 2051, got 2049"):
            prepare("avdigits", None, small_raw, tmp_path / "data")

    def test_no_gzip_and_truncated_gzip(self, small_raw: Path, tmp_path: Path) -> None:
        data = (small_raw / IMAGE_FILE).read_bytes()
        for damaged in (b"plain text", data[: len(data) // 2]):
            (small_raw / IMAGE_FILE).write_bytes(damaged)
            with pytest.raises(DataError, match=rf"{IMAGE_FILE} can not be read as gzip"):
                prepare("avdigits", None, small_raw, tmp_path / "data")

    def test_idx_with_another_shape_than_its_header(self, small_raw: Path, tmp_path: Path) -> None:
        content = gzip.decompress((small_raw / IMAGE_FILE).read_bytes())
        (small_raw / IMAGE_FILE).write_bytes(gzip.compress(content[:-5]))
        with pytest.raises(DataError, match=rf"{IMAGE_FILE} is damaged: .* do not fit its shape \(16, 28, 28\)"):
            prepare("avdigits", None, small_raw, tmp_path / "data")

    def test_images_and_labels_of_different_number(self, small_raw: Path, tmp_path: Path) -> None:
        write_idx(small_raw / LABEL_FILE, LABEL_MAGIC, np.zeros(15, dtype=np.uint8))
        with pytest.raises(DataError, match=rf"{LABEL_FILE} has 15 labels for 16 images"):
            prepare("avdigits", None, small_raw, tmp_path / "data")
