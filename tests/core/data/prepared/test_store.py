from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import data_sources
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcore.data.prepared import writer
from mmcore.data.prepared.columns import columns_to_arrays, to_batch
from mmcore.data.prepared.prepare import prepare, prepared_dir
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import ConfigError, DataError, UsageError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedDataset:
    """60 samples; train in files of 8 rows."""
    return data_sources.prepare_in_many_files(monkeypatch, tmp_path / "data", 60, rows_per_file=8)


@pytest.fixture
def raw_dir(tmp_path: Path) -> Path:
    data_sources.register()
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "list.txt").write_text("0 1 2 3")
    return folder


def edit_metadata(prepared: PreparedDataset, **changes: Any) -> None:
    path = prepared.directory / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_read_is_what_the_source_made(toy: PreparedDataset) -> None:
    table = toy.read_table()
    arrays = columns_to_arrays(table, toy.spec)
    numbers = [int(sample_id[-3:]) for sample_id in arrays.sample_ids]
    assert sorted(numbers) == list(range(60))
    for row, number in enumerate(numbers):
        length = 1 + number % 5
        assert arrays.inputs["sound"][row].tolist() == [number] * length + [0] * (5 - length)
        assert arrays.inputs["features"][row].tolist() == [number, -number]
        assert arrays.lengths["sound"][row] == length
        assert arrays.present["features"][row] == (number % 4 != 0)
        assert arrays.labels[row] == number % 3
    assert table["group"].to_pylist() == [f"group-{number % 6}" for number in numbers]
    assert table["source"].to_pylist() == [f"source-{number:03d}" for number in numbers]


def test_metadata(toy: PreparedDataset) -> None:
    assert toy.spec.classes == ("a", "b", "c")
    assert toy.spec == data_sources.Toy(data_sources.ToyConfig()).spec()
    assert toy.options == {"num_samples": 60, "scale": 1.0, "note": ""}
    assert toy.default_protocol == "group"
    assert toy.metadata["skipped"] == [{"sample_id": "sample-x", "reason": "no sound", "kind": "by rule"}]
    assert toy.metadata["splits"]["train"] == {"num_rows": 36, "class_counts": [12, 12, 12]}
    assert [path.parent.name for path in toy.files()] == ["train"] * 5 + ["val"] * 2 + ["test"] * 2
    assert (toy.num_samples, toy.num_bytes) == (60, 60 * (10 + 8))
    assert (toy.card, toy.constructed, dict(toy.replicates)) == ("A toy.", False, {})


def test_index_rows_are_the_table_rows(toy: PreparedDataset) -> None:
    assert toy.index["sample_id"].to_pylist() == toy.read_table()["sample_id"].to_pylist()
    assert toy.index["split"].to_pylist() == ["train"] * 36 + ["val"] * 12 + ["test"] * 12
    assert toy.index.column_names == ["sample_id", "label", "group", "source", "replicate", "split"]


def test_columns_are_fixed_size_binary_with_shape_and_dtype_in_the_schema(toy: PreparedDataset) -> None:
    schema = pq.read_schema(toy.files("train")[0])
    assert schema.field("sound").type == pa.binary(10)
    layout = json.loads(schema.metadata[b"equipoise"])
    assert layout["sound"] == {"shape": [5], "dtype": "int16"}
    assert "sound__length" in schema.names
    assert "sound__present" not in schema.names


def test_views_share_the_column_and_respect_offsets(toy: PreparedDataset) -> None:
    batch = toy.read_table().combine_chunks().to_batches()[0]
    whole = columns_to_arrays(batch, toy.spec)
    part = columns_to_arrays(batch.slice(7, 5), toy.spec)
    assert np.shares_memory(whole.inputs["sound"], part.inputs["sound"])
    np.testing.assert_array_equal(part.inputs["sound"], whole.inputs["sound"][7:12])
    np.testing.assert_array_equal(part.labels, whole.labels[7:12])
    np.testing.assert_array_equal(part.present["features"], whole.present["features"][7:12])
    assert part.sample_ids.tolist() == whole.sample_ids[7:12].tolist()


def test_to_batch_of_nothing(toy: PreparedDataset) -> None:
    batch = to_batch(toy.read_table().slice(0, 0), toy.spec)
    assert batch.inputs["sound"].shape == (0, 5)
    assert batch.num_samples == 0


def test_directory_names_the_options_that_are_not_default() -> None:
    data_sources.register()
    assert prepared_dir("d", "toy") == Path("d/toy")
    assert prepared_dir("d", "toy", {"scale": 1.0}) == Path("d/toy")
    assert prepared_dir("d", "toy", {"scale": 0.5, "num_samples": 3}) == Path("d/toy+num_samples=3+scale=0.5")
    assert prepared_dir("d", "toy", {"note": "../a b"}) == Path("d/toy+note=.._a_b")


def test_preparing_again_returns_what_is_there(toy: PreparedDataset) -> None:
    before = {path: path.stat().st_mtime_ns for path in toy.files()}
    again = prepare("toy", {"num_samples": 60}, None, toy.directory.parent)
    assert again.fingerprint == toy.fingerprint
    assert {path: path.stat().st_mtime_ns for path in toy.files()} == before


def test_fingerprint_changes_with_the_content(toy: PreparedDataset, tmp_path: Path) -> None:
    other = prepare("toy", {"num_samples": 59}, None, tmp_path / "data")
    assert other.fingerprint != toy.fingerprint


def test_changed_raw_files_are_prepared_again(raw_dir: Path, tmp_path: Path) -> None:
    assert prepare("toyraw", None, raw_dir, tmp_path / "data").num_samples == 4
    (raw_dir / "list.txt").write_text("0 1 2")
    assert prepare("toyraw", None, raw_dir, tmp_path / "data").num_samples == 3
    assert prepare("toyraw", None, None, tmp_path / "data").num_samples == 3
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == ["toyraw"]


def test_an_interrupted_prepare_leaves_nothing_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_sources.register()
    original = data_sources.Toy.sample

    def interrupted(self: data_sources.Toy, number: int) -> Any:
        if number == 30:
            raise KeyboardInterrupt
        return original(self, number)

    monkeypatch.setattr(data_sources.Toy, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("toy", None, None, tmp_path)
    with pytest.raises(UsageError, match="not a prepared data set"):
        PreparedDataset.open(tmp_path / "toy")
    monkeypatch.setattr(data_sources.Toy, "sample", original)
    assert prepare("toy", None, None, tmp_path).num_samples == 60
    assert not (tmp_path / ".toy.partial").exists()


def test_progress_is_told(tmp_path: Path) -> None:
    data_sources.register()
    seen: list[tuple[int, int | None]] = []
    prepare("toy", {"num_samples": 3}, None, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, None), (2, None), (3, None)]


def test_pickles_small_and_whole(toy: PreparedDataset) -> None:
    assert toy.index.num_rows == 60  # cached in the object, and not to be carried along
    copy = pickle.loads(pickle.dumps(toy))
    assert copy.fingerprint == toy.fingerprint
    assert copy.index.equals(toy.index)
    assert len(pickle.dumps(toy)) < 10_000


class TestBadInput:
    def test_not_a_prepared_data_set(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"not a prepared data set \(no dataset.json\); make one with rayjobs"):
            PreparedDataset.open(tmp_path)

    def test_other_format_version(self, toy: PreparedDataset) -> None:
        edit_metadata(toy, format_version=7)
        with pytest.raises(DataError, match=r"dataset.json has format version 7, this version reads 1; prepare it"):
            PreparedDataset.open(toy.directory)

    @pytest.mark.parametrize("content", ['{"format_version": 1', "[]", '{"format_version": 1}'])
    def test_damaged_metadata(self, toy: PreparedDataset, content: str) -> None:
        (toy.directory / "dataset.json").write_text(content)
        with pytest.raises(DataError, match=r"dataset.json is damaged"):
            PreparedDataset.open(toy.directory)

    def test_missing_file(self, toy: PreparedDataset) -> None:
        toy.files("val")[0].unlink()
        with pytest.raises(DataError, match=r"val/part-00000.parquet is missing"):
            PreparedDataset.open(toy.directory)

    def test_truncated_file(self, toy: PreparedDataset) -> None:
        path = toy.files("train")[2]
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(DataError, match=rf"train/part-00002.parquet is damaged: 100 bytes, expected {size}"):
            PreparedDataset.open(toy.directory)

    def test_flipped_byte(self, toy: PreparedDataset) -> None:
        path = toy.files("test")[0]
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(bytes(data))
        opened = PreparedDataset.open(toy.directory)
        with pytest.raises(DataError, match=r"test/part-00000.parquet is damaged: its sha256") as raised:
            opened.verify()
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)

    def test_embedded_data_is_made_again_where_damaged(self, toy: PreparedDataset) -> None:
        toy.files("test")[0].unlink()
        prepare("toy", {"num_samples": 60}, None, toy.directory.parent).verify()

    def test_damaged_without_raw_files_to_make_it_again(self, raw_dir: Path, tmp_path: Path) -> None:
        prepare("toyraw", None, raw_dir, tmp_path / "data").files()[0].unlink()
        with pytest.raises(DataError, match=r"part-00000.parquet is missing"):
            prepare("toyraw", None, None, tmp_path / "data")

    def test_raw_folder(self, raw_dir: Path, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(UsageError, match=r"pass --raw-dir. It needs list.txt from example.org"):
            prepare("toyraw", None, None, tmp_path / "data")
        with pytest.raises(UsageError, match=r"nowhere does not exist. It needs list.txt"):
            prepare("toyraw", None, tmp_path / "nowhere", tmp_path / "data")
        with pytest.raises(UsageError, match=r"raw folder .*empty is empty. It needs list.txt"):
            prepare("toyraw", None, empty, tmp_path / "data")
        assert not (tmp_path / "data").exists()

    def test_unknown_name_and_options(self, tmp_path: Path) -> None:
        data_sources.register()
        with pytest.raises(UsageError, match="unknown data set 'digit': did you mean 'digits'"):
            prepare("digit", None, None, tmp_path)
        with pytest.raises(ConfigError) as raised:
            prepare("toy", {"num_sample": 3, "scale": "x"}, None, tmp_path)
        assert "unknown key 'dataset.options.num_sample': did you mean 'num_samples'" in str(raised.value)
        assert "dataset.options.scale must be" in str(raised.value)

    def test_source_without_samples(self, tmp_path: Path) -> None:
        data_sources.register()
        with pytest.raises(DataError, match="toy: the source yielded no samples"):
            prepare("toy", {"num_samples": 0}, None, tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label": 3}, r"sample-000: label must be in \[0, 2\], got 3"),
            ({"sample_id": "same"}, "sample same occurs twice"),
            (
                {"arrays": {"sound": np.zeros(4, np.int16), "features": np.zeros(2, np.float32)}},
                r"sample-000: sound must be int16 \(5,\), got int16 \(4,\)",
            ),
            (
                {"arrays": {"sound": np.zeros(5, np.int32), "features": np.zeros(2, np.float32)}},
                r"sample-000: sound must be int16 \(5,\), got int32 \(5,\)",
            ),
        ],
    )
    def test_bad_samples(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
    ) -> None:
        data_sources.register()
        original = data_sources.Toy.sample

        def changed(self: data_sources.Toy, number: int) -> Any:
            sample = original(self, number)
            for name, value in change.items():
                setattr(sample, name, value)
            return sample

        monkeypatch.setattr(data_sources.Toy, "sample", changed)
        with pytest.raises(DataError, match=message):
            prepare("toy", None, None, tmp_path)


def test_row_groups_and_parts_are_sized_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 18 * 4)
    monkeypatch.setattr(writer, "PART_BYTES", 18 * 12)
    data_sources.register()
    prepared = prepare("toy", None, None, tmp_path)
    files = [pq.ParquetFile(path) for path in prepared.files("train")]
    assert [file.metadata.num_rows for file in files] == [12, 12, 12]
    assert [file.metadata.row_group(0).num_rows for file in files] == [4, 4, 4]
