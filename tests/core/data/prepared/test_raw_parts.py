"""From an index to a prepared data set: what is left out, what is kept over a kill, what stays untouched."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import save_picture, save_text, save_vocab

from mmcore.data.media import AudioFile, ImageFile, Medium, RawFolder
from mmcore.data.prepared import raw_parts, writer
from mmcore.data.prepared.columns import columns_to_arrays
from mmcore.data.prepared.part_files import run_here
from mmcore.data.prepared.prepare import HowToPrepare, prepare
from mmcore.data.prepared.raw_parts import Part, PartWriter
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.index import Entry, Index, counted
from mmcore.data.raw.source import RawConfig, RawSource, index_table
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError

NUM_TRAIN = 10


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Ten training tweets, two of validation and of test; sample i has brightness 10 i and i words."""
    folder = tmp_path / "raw"
    save_vocab(folder, "word")
    numbers = {"train": range(1, 11), "valid2": range(11, 13), "test2": range(13, 15)}
    for name, ids in numbers.items():
        lines = []
        for i in ids:
            save_picture(folder / "dataset_image" / f"{i}.png".replace("png", "jpg"), 10 * i, (16, 16))
            labels = (i % 2,) if name == "train" else (i % 2, i % 2)
            lines.append(repr([str(i), "word " * i, *labels]))
        save_text(folder / "text" / f"{name}.txt", "\n".join(lines))
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four samples of the small pictures below in a file, two in a row group."""
    sample_bytes = 3 * 8 * 8 + 4 * 8
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 2 * sample_bytes)
    monkeypatch.setattr(writer, "PART_BYTES", 4 * sample_bytes)


OPTIONS = {"image_size": 8, "max_tokens": 8}


def make(raw: Path | None, data: Path, on_missing: str = "fail", run: Any = run_here, **more: Any) -> PreparedDataset:
    how = HowToPrepare(on_missing=on_missing, run=run)  # type: ignore[arg-type]
    return prepare("sarcasm", {**OPTIONS, **more}, raw, data, how=how)


class Counting:
    """A runner that counts what it is given and can stop after some parts, as a killed run does."""

    def __init__(self, stop_after: int = 10**9):
        self.reports: list[dict[str, Any]] = []
        self.decoded: list[str] = []
        self._stop_after = stop_after

    def __call__(self, writer: PartWriter, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        for part in parts:
            if len(self.reports) == self._stop_after:
                raise KeyboardInterrupt
            stored = writer._stored(part)
            self.decoded += [] if stored else [entry.sample_id for entry in part.entries]
            self.reports.append(writer(part))
            yield self.reports[-1]


def test_samples_are_what_the_files_hold(raw: Path, tmp_path: Path, small_parts: None) -> None:
    prepared = make(raw, tmp_path / "data")
    arrays = columns_to_arrays(prepared.read_table(), prepared.spec)
    assert len(prepared.files("train")) == 3
    assert prepared.metadata["splits"]["train"] == {"num_rows": 10, "class_counts": [5, 5]}
    for row, sample_id in enumerate(arrays.sample_ids.tolist()):
        number = int(sample_id)
        assert abs(int(arrays.inputs["image"][row].mean()) - 10 * number) <= 1
        assert arrays.labels[row] == number % 2
        assert arrays.lengths["text"][row] == min(number + 2, 8)
    assert sorted(map(int, arrays.sample_ids)) == list(range(1, 15))
    assert arrays.sample_ids.tolist()[:10] != sorted(arrays.sample_ids.tolist()[:10], key=int)
    cropped = {entry["sample_id"]: entry["reason"] for entry in prepared.metadata["noted"]}
    assert cropped["14"] == "text cropped to 8 of 16 tokens"
    assert set(cropped) == {str(number) for number in range(7, 15)}


def test_again_is_nothing_new_and_a_touched_file_is(raw: Path, tmp_path: Path, small_parts: None) -> None:
    first = make(raw, tmp_path / "data")
    counting = Counting()
    assert make(raw, tmp_path / "data", run=counting).fingerprint == first.fingerprint
    assert not counting.reports
    save_picture(raw / "dataset_image" / "3.jpg", 200, (16, 16))
    os.utime(raw / "dataset_image" / "3.jpg", (1, 1))
    changed = make(raw, tmp_path / "data", run=counting)
    assert changed.fingerprint != first.fingerprint
    arrays = columns_to_arrays(changed.read_table(), changed.spec)
    row = arrays.sample_ids.tolist().index("3")
    assert abs(int(arrays.inputs["image"][row].mean()) - 200) <= 1


def test_another_vocabulary_is_another_data_set(raw: Path, tmp_path: Path) -> None:
    first = make(raw, tmp_path / "data")
    save_vocab(raw, "new", "word")
    second = make(raw, tmp_path / "data")
    assert first.fingerprint != second.fingerprint
    assert second.spec.modalities[1].num_values == 7


def test_a_killed_run_is_gone_on_with(raw: Path, tmp_path: Path, small_parts: None) -> None:
    killed, resumed = Counting(stop_after=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        make(raw, tmp_path / "data", run=killed)
    with pytest.raises(UsageError, match="is not a prepared data set"):
        PreparedDataset.open(next((tmp_path / "data").glob(".*.partial")))
    prepared = make(raw, tmp_path / "data", run=resumed)
    assert len(killed.decoded) == 8
    assert sorted([*killed.decoded, *resumed.decoded], key=int) == [str(number) for number in range(1, 15)]
    whole = make(raw, tmp_path / "other")
    assert prepared.read_table().equals(whole.read_table())
    assert not list((tmp_path / "data").glob(".*.partial"))
    assert not (prepared.directory / "reports").exists()


def test_a_part_cut_off_is_written_again(raw: Path, tmp_path: Path, small_parts: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(raw, tmp_path / "data", run=Counting(stop_after=2))
    partial = next((tmp_path / "data").glob(".*.partial"))
    one, other = sorted(partial.glob("train/part-*"))
    one.write_bytes(one.read_bytes()[:100])
    (partial / "reports" / f"{other.stem}-train.json").write_text('{"num_rows": 4')
    resumed = Counting()
    assert make(raw, tmp_path / "data", run=resumed).num_samples == 14
    assert len(resumed.decoded) == 14


def test_parts_of_other_raw_files_do_not_stay(raw: Path, tmp_path: Path, small_parts: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(raw, tmp_path / "data", run=Counting(stop_after=3))
    os.utime(raw / "dataset_image" / "1.jpg", (1, 1))
    os.utime(raw / "dataset_image" / "2.jpg", (1, 1))
    prepared = make(raw, tmp_path / "data")
    assert sorted(prepared.directory.rglob("part-*")) == sorted(prepared.files())


def test_missing_files_are_an_error_that_says_how_many_and_what_to_do(raw: Path, tmp_path: Path) -> None:
    for number in (2, 3, 4, 5, 6, 7):
        (raw / "dataset_image" / f"{number}.jpg").unlink()
    with pytest.raises(DataError) as raised:
        make(raw, tmp_path / "data")
    lines = str(raised.value).splitlines()
    assert lines[0] == (
        "sarcasm: 6 of 14 samples can not be used (6 missing); pass --on-missing skip to leave them out"
    )
    assert lines[1].endswith("missing: image: dataset_image/2.jpg is not there")
    assert lines[-1] == "  and 1 more; prepare --check lists them"
    prepared = make(raw, tmp_path / "data", on_missing="skip")
    assert prepared.num_samples == 8
    missing = [entry for entry in prepared.metadata["skipped"] if entry["reason"].startswith("missing")]
    assert len(missing) == 6
    assert make(raw, tmp_path / "data").fingerprint == prepared.fingerprint  # made with skip, and found again


def test_damaged_files_are_all_named_and_what_is_good_is_kept(raw: Path, tmp_path: Path, small_parts: None) -> None:
    for number in (2, 9):
        save_text(raw / "dataset_image" / f"{number}.jpg", b"no picture")
    counting = Counting()
    with pytest.raises(DataError, match=r"2 of 14 samples can not be used \(2 damaged\)") as raised:
        make(raw, tmp_path / "data", run=counting)
    assert "2.jpg can not be read as a picture" in str(raised.value)
    assert "9.jpg can not be read as a picture" in str(raised.value)
    assert not (tmp_path / "data" / "sarcasm+image_size=8+max_tokens=8").exists()
    again = Counting()
    assert make(raw, tmp_path / "data", on_missing="skip", run=again).num_samples == 12
    assert len(counting.decoded) == 14
    assert not again.decoded


def test_what_was_there_stays_until_all_is_written(
    raw: Path, tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(raw, tmp_path / "data")
    os.utime(raw / "dataset_image" / "1.jpg", (1, 1))

    def full(samples: Sequence[Any], spec: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(raw_parts, "samples_to_table", full)
    with pytest.raises(DataError, match=r"sarcasm: train/part-.*No space left on device; what is written is kept"):
        make(raw, tmp_path / "data")
    after = PreparedDataset.open(before.directory)
    after.verify()
    assert after.fingerprint == before.fingerprint
    assert not list(tmp_path.rglob("*.parquet.*"))
    monkeypatch.undo()
    assert make(raw, tmp_path / "data").fingerprint != before.fingerprint


def test_a_folder_without_any_media_says_where_they_are_to_be_had(raw: Path, tmp_path: Path) -> None:
    (raw / "dataset_image").rename(raw / "elsewhere")
    with pytest.raises(UsageError, match=r"not one of the 14 samples listed has its files in .*headacheboy.*--demo"):
        make(raw, tmp_path / "data", on_missing="skip")
    with pytest.raises(UsageError, match=r"pass --raw-dir. The lists are at .*headacheboy"):
        make(None, tmp_path / "data")


def test_all_samples_damaged(raw: Path, tmp_path: Path) -> None:
    for number in range(1, 15):
        save_text(raw / "dataset_image" / f"{number}.jpg", b"x")
    with pytest.raises(DataError, match=r"14 of 14 samples can not be used \(14 damaged\); not one sample is left"):
        make(raw, tmp_path / "data", on_missing="skip")


def test_the_source_alone_yields_the_same_samples(raw: Path) -> None:
    source = DATASETS.get("sarcasm")(DATASETS.get("sarcasm").Config(**OPTIONS))
    samples = {sample.sample_id: (split, sample) for split, sample in source.samples(raw)}
    assert samples["13"][0] == "test"
    assert samples["13"][1].lengths == {"text": 8}
    assert abs(int(samples["13"][1].arrays["image"].mean()) - 130) <= 1


class Partial(RawSource):
    """Pictures that may be missing, sounds that may not."""

    name = "partial"
    classes = ("a", "b")

    def media(self) -> Sequence[Medium]:
        image = ImageFile("image", 4)
        from dataclasses import replace

        image.modality = replace(image.modality, may_be_missing=True)
        return (AudioFile("audio", 8000, 0.01), image)

    def read_index(self, folder: RawFolder) -> Index:
        index = Index("test", [])
        index.add(Entry("both", 0, "train", {"audio": "a.wav", "image": "a.png"}))
        index.add(Entry("no image", 1, "train", {"audio": "a.wav", "image": None}))
        index.add(Entry("no audio", 1, "train", {"audio": None, "image": "a.png"}))
        return index

    def write_demo(self, directory: Path) -> None:
        raise NotImplementedError

    def card(self) -> str:
        return ""


def test_a_modality_that_may_be_missing(tmp_path: Path) -> None:
    from raw_files import save_wave

    save_wave(tmp_path / "a.wav")
    save_picture(tmp_path / "a.png", 7)
    source = Partial(RawConfig())
    index = source.index(RawFolder(tmp_path))
    assert [(p.sample_id, p.kind, p.reason) for p in index.problems] == [("no audio", "missing", "no audio")]
    samples = {entry.sample_id: source.decode(entry, RawFolder(tmp_path))[0] for entry in index.entries}
    assert samples["both"].present == {"image": True}
    assert samples["no image"].present == {"image": False}
    assert not samples["no image"].arrays["image"].any()
    assert np.unique(samples["both"].arrays["image"]).tolist() == [7]


def test_relative_folders_are_found_from_other_working_directories(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw / "vocab.txt").rename(tmp_path / "words.txt")
    (raw / "text").rename(tmp_path / "lists")
    monkeypatch.chdir(tmp_path)
    seen: list[RawFolder] = []

    def run(writer: PartWriter, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        seen.append(writer.folder)
        monkeypatch.chdir("/")
        assert writer.directory is not None
        assert writer.directory.is_absolute()
        return run_here(writer, parts)

    how = HowToPrepare(Path("lists"), Path("words.txt"), run=run)
    assert prepare("sarcasm", OPTIONS, Path("raw"), tmp_path / "data", how=how).num_samples == 14
    assert seen == [RawFolder(raw, tmp_path / "lists", tmp_path / "words.txt")]


def test_reports_are_plain_values(raw: Path, tmp_path: Path) -> None:
    counting = Counting()
    make(raw, tmp_path / "data", run=counting)
    assert json.loads(json.dumps(counting.reports)) == counting.reports


def test_what_the_check_splits_is_what_training_splits(raw: Path, tmp_path: Path) -> None:
    """An index becomes the same table as the prepared data set has, row order aside."""
    source = DATASETS.get("sarcasm")(DATASETS.get("sarcasm").Config(**OPTIONS))
    entries = source.index(RawFolder(raw)).entries  # type: ignore[attr-defined]
    stored = make(raw, tmp_path / "data").index
    assert index_table(entries).select(stored.column_names).sort_by("sample_id").to_pylist() == (
        stored.sort_by("sample_id").to_pylist()
    )


def test_samples_of_one_source_are_a_group_where_none_is_named(tmp_path: Path) -> None:
    """Else two cuts of one recording would lie on both sides."""
    entry = Entry("cut 1", 0, "train", {"audio": None, "image": None}, source="recording")
    source = Partial(RawConfig())
    sample, _ = source.decode(entry, RawFolder(tmp_path))
    table = index_table([entry, Entry("alone", 0, "train", {}), Entry("named", 0, "train", {}, "anna", "recording 2")])
    assert (sample.group, sample.source) == ("recording", "recording")
    assert table["group"].to_pylist() == ["recording", "alone", "anna"]
    assert table["source"].to_pylist() == ["recording", "alone", "recording 2"]


def test_lists_that_are_not_whole_are_not_prepared(tmp_path: Path) -> None:
    class HalfListed(Partial):
        def read_index(self, folder: RawFolder) -> Index:
            return Index("test", [], absent={"train": "there is no train list beside test.csv"})

    with pytest.raises(UsageError, match=r"partial: there is no train list beside test.csv\."):
        HalfListed(RawConfig()).index(RawFolder(tmp_path))


def test_problems_are_counted_in_words() -> None:
    numbers = [(1, "bad row"), (12, "bad row"), (2, "conflict"), (3, "duplicate"), (2, "missing"), (2, "a note")]
    assert [counted(*number) for number in numbers] == [
        "1 bad row", "12 bad rows", "2 conflicts", "3 duplicates", "2 missing", "2 a note",
    ]  # fmt: skip
