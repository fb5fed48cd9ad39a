from __future__ import annotations

from pathlib import Path

import data_sources
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcore.data.feeding import windows
from mmcore.data.feeding.windows import WantedRows, Window, cut, in_order, mixed, read_rows, read_window
from mmcore.data.prepared import columns, writer
from mmcore.data.prepared.columns import table_schema, take_rows
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset

FILES = [WantedRows(Path(f"part-{number}"), np.arange(size)) for number, size in enumerate([5, 7, 3, 8, 6, 1])]
NUM_SAMPLES = 30


def given_out(cut_windows: list[Window]) -> list[tuple[str, int]]:
    """Returns (file, row) of each sample, in the order it is given out."""
    result = []
    for window in cut_windows:
        wanted = [(file.path.name, int(row)) for file in window.files for row in file.rows]
        assert sum(window.sizes) == len(window.order)
        result += [wanted[row] for row in window.order]
    return result


class TestMixed:
    def test_every_sample_once_and_files_stay_whole(self) -> None:
        found = mixed(FILES, 10, seed=1, epoch=2)
        assert sorted(given_out(found)) == sorted((file.path.name, int(row)) for file in FILES for row in file.rows)
        assert sorted(file.path.name for window in found for file in window.files) == [f.path.name for f in FILES]

    def test_windows_are_of_about_the_size_asked_for(self) -> None:
        files = [WantedRows(Path(str(number)), np.arange(10)) for number in range(21)]
        sizes = [len(window.order) for window in mixed(files, 40, seed=0, epoch=0)]
        assert sum(sizes) == 210
        assert len(sizes) == 5  # the odd file is in one of them, and makes no sixth
        assert (min(sizes), max(sizes)) == (40, 50)

    def test_a_file_larger_than_a_window_and_a_window_larger_than_all(self) -> None:
        assert len(mixed(FILES, 1, seed=0, epoch=0)) == len(FILES)
        assert len(mixed(FILES, 1000, seed=0, epoch=0)) == 1

    def test_the_order_is_a_function_of_seed_and_epoch(self) -> None:
        orders = [given_out(mixed(FILES, 10, seed, epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (0, 0)]]
        assert orders[0] == orders[3]
        assert orders[0] not in orders[1:3]
        assert orders[1] != orders[2]

    def test_samples_of_a_window_are_mixed_with_each_other(self) -> None:
        (window,) = mixed(FILES, 1000, seed=0, epoch=0)
        assert window.order.tolist() != sorted(window.order.tolist())


class TestCut:
    @pytest.mark.parametrize("max_rows", [1, 3, 100])
    @pytest.mark.parametrize("min_rows", [4, 12, 1000])
    def test_it_gives_what_slices_of_the_whole_order_give(self, min_rows: int, max_rows: int) -> None:
        whole = mixed(FILES, min_rows, seed=3, epoch=0)
        order = given_out(whole)
        shares = [(2, 5), (5, 8), (11, 25), (25, 26), (29, NUM_SAMPLES)]
        found = cut(whole, shares, max_rows)
        assert given_out(found) == [order[place] for start, stop in shares for place in range(start, stop)]
        sizes = [size for window in found for size in window.sizes]
        assert max(sizes) <= max_rows
        ends = set(np.cumsum(sizes).tolist())
        assert ends >= set(np.cumsum([stop - start for start, stop in shares]).tolist())  # no piece crosses an end

    def test_windows_before_the_first_share_are_not_read(self) -> None:
        whole = in_order(FILES)
        assert [window.files for window in cut(whole, [(13, 20)], 100)] == [whole[2].files, whole[3].files]
        assert cut(whole, [(13, 20)], 100)[0].order.tolist() == [1, 2]

    def test_in_order_gives_files_and_rows_as_they_lie(self) -> None:
        order = given_out(cut(in_order(FILES), [(0, NUM_SAMPLES)], 4))
        assert order == [(file.path.name, int(row)) for file in FILES for row in file.rows]


class TestReading:
    @pytest.fixture
    def prepared(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedDataset:
        data_sources.register()
        monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 18 * 5)
        return prepare("toy", {"num_samples": 40}, None, tmp_path)

    def test_rows_are_read_by_row_group(self, prepared: PreparedDataset) -> None:
        (path,) = prepared.files("train")
        assert pq.ParquetFile(path).num_row_groups == 5
        expected = pq.read_table(path)["sample_id"].to_pylist()
        wanted = np.array([0, 4, 5, 16, 23])
        found = list(read_rows(path, wanted))
        assert [table.num_rows for table, _ in found] == [2, 1, 1, 1]
        tables = [table.take(places) for table, places in found]
        assert pa.concat_tables(tables)["sample_id"].to_pylist() == [expected[row] for row in wanted]

    def test_a_row_group_most_of_which_is_wanted_is_not_copied(self, prepared: PreparedDataset) -> None:
        (path,) = prepared.files("train")
        expected = pq.read_table(path)["sample_id"].to_pylist()
        ((table, places),) = read_rows(path, np.array([5, 7, 9]))
        assert (table.num_rows, places.tolist()) == (5, [0, 2, 4])
        assert table["sample_id"].to_pylist() == expected[5:10]

    def test_row_groups_without_a_wanted_row_are_left_alone(
        self, prepared: PreparedDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (path,) = prepared.files("train")
        read: list[int] = []

        class Noted(pq.ParquetFile):
            def read_row_group(self, number: int, **options: object) -> pa.Table:
                read.append(number)
                return super().read_row_group(number, **options)

        monkeypatch.setattr(windows.pq, "ParquetFile", Noted)
        list(read_rows(path, np.array([6, 20])))
        assert read == [1, 4]

    def test_a_window_gives_its_pieces_of_all_columns(self, prepared: PreparedDataset) -> None:
        (path,) = prepared.files("train")
        table = pq.read_table(path)
        rows = [np.array([0, 1, 3, 7, 22]), np.array([0, 23])]  # most of one row group, few of the others
        window = Window(tuple(WantedRows(path, part) for part in rows), np.array([6, 2, 4, 3]), (1, 2, 1))
        expected = table.take([23, 3, 22, 7]).combine_chunks()
        for max_rows, blocks_of in ((1, [(1,), (2,), (1,)]), (3, [(1, 2), (1,)]), (4, [(1, 2, 1)])):
            tables, sizes = zip(*read_window(window, max_rows), strict=True)
            assert list(sizes) == blocks_of
            assert [table.num_rows for table in tables] == [sum(block) for block in blocks_of]
            assert all(column.num_chunks == 1 for table in tables for column in table.columns)
            assert pa.concat_tables(tables).combine_chunks().equals(expected)

    def test_rows_are_taken_from_tables_slices_and_chunks_alike(
        self, prepared: PreparedDataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = pq.read_table(prepared.files("train")[0])
        parts = [table.slice(3, 4), table.slice(0, 0), table.slice(10, 9)]
        rows = np.array([12, 0, 5, 5, 3, 4])
        expected = pa.concat_tables(parts).take(rows)
        for large in (columns.LARGE_BYTES, 1):  # together, and one by one
            monkeypatch.setattr(columns, "LARGE_BYTES", large)
            taken = take_rows(parts, rows)
            assert taken.equals(expected)
            assert taken.schema.equals(table_schema(prepared.spec), check_metadata=True)
