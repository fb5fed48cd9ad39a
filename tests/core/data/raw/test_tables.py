"""Tables as they are written in practice: every cell as it stands, or a reason with its line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import save_text

from mmcore.data.raw.tables import read_table
from mmcore.errors import UsageError


def rows_of(path: Path, **form: Any) -> dict[str, Any]:
    """Place -> cells, or the reason why there are none."""
    table = read_table(path, **form)
    return dict(table.rows(table.columns))


def cells_of(path: Path, **form: Any) -> list[list[Any]]:
    return [list(record.values()) for record in rows_of(path, **form).values()]


class TestDelimited:
    @pytest.mark.parametrize(
        ("name", "form", "content", "cells"),
        [
            ("a.csv", {}, 'a,b\n1,"x, ""y"""\n', [["1", 'x, "y"']]),
            ("a.csv", {}, 'a,b\r\n1,"two\r\nlines"\r\n', [["1", "two\r\nlines"]]),
            ("a.csv", {}, "\ufeffa,b\n1,é\n", [["1", "é"]]),
            ("a.csv", {}, "a,b\r1,2\r3,4", [["1", "2"], ["3", "4"]]),
            ("a.csv", {}, "\na,b\n\n  \n1,2\n\n", [["1", "2"]]),
            ("a.csv", {}, ' a , b\n1,he said "hi"\n', [["1", 'he said "hi"']]),
            ("a.csv", {"delimiter": ";"}, 'a;b\n1,5;"x;y"\n', [["1,5", "x;y"]]),
            ("a.csv", {"quoting": "none"}, 'a,b\n"1",2\n', [['"1"', "2"]]),
            ("a.tsv", {}, 'a\tb\n1\t"so fun\n2\t"and\n', [["1", '"so fun'], ["2", '"and']]),
            ("A.TSV", {}, "a\tb\r\n\t2\r\n", [["", "2"]]),
            ("a.tab", {}, "a\tb\r1\t2", [["1", "2"]]),
            ("a.tsv", {}, 'a\tb\n1\t"\n', [["1", '"']]),
            ("a.tsv", {"quoting": "csv"}, 'a\tb\n1\t"x\ty"\n', [["1", "x\ty"]]),
            ("a.tsv", {"quoting": "none"}, 'a\tb\n1\t"x"\n', [["1", '"x"']]),
            ("a.txt", {"delimiter": "|"}, "a|b\n1|2\n", [["1", "2"]]),
        ],
    )
    def test_cells(self, tmp_path: Path, name: str, form: dict[str, str], content: str, cells: list[Any]) -> None:
        path = save_text(tmp_path / name, content)
        assert read_table(path, **form).columns == ("a", "b")
        assert cells_of(path, **form) == cells

    def test_a_tweet_keeps_what_others_take_for_a_lines_end(self, tmp_path: Path) -> None:
        for name, mark in (("a.tsv", "\t"), ("a.csv", ",")):
            path = save_text(tmp_path / name, f"a{mark}b\n1{mark}x\u2028y\x85z\x0c!\n")
            assert cells_of(path) == [["1", "x\u2028y\x85z\x0c!"]]

    def test_rows_are_named_by_the_line_they_begin_in(self, tmp_path: Path) -> None:
        path = save_text(tmp_path / "a.csv", 'a,b\n1,"x\n\ny"\n\n2,3\n4\n5,6,7\n')
        assert rows_of(path) == {
            "a.csv:2": {"a": "1", "b": "x\n\ny"},
            "a.csv:6": {"a": "2", "b": "3"},
            "a.csv:7": "the row has 1 fields, not 2",
            "a.csv:8": "the row has 3 fields, not 2",
        }

    def test_a_long_cell_is_read_and_the_limit_of_others_stays(self, tmp_path: Path) -> None:
        long = "z" * 300_000
        path = save_text(tmp_path / "a.csv", f'a,b\n1,{long}\n2,"{long}\n{long}"\n')
        before = csv.field_size_limit()
        rows = read_table(path).rows(())
        assert next(rows)[1]["b"] == long  # type: ignore[index]
        assert csv.field_size_limit() == before  # while the rows are worked on
        assert next(rows)[1]["b"] == f"{long}\n{long}"  # type: ignore[index]
        assert csv.field_size_limit() == before

    @pytest.mark.parametrize(
        ("content", "line", "what"),
        [
            ('id,y,a\nr1,cat,1\n"r2,dog,2\nr3,cat,3\n', 3, "a quote opens a cell that is never closed"),
            ('id,y,a\nr1,cat,"he said "hi" to me"\n', 2, "after the quote that closes a cell, in line 2"),
            ('id,y,a\nr1,"cat,1\nr2,dog,2\nr3,c"at,3\n', 2, "after the quote that closes a cell, in line 4"),
            ('id,y,a\n"r1,cat,1\nr2,dog,2\nr3",cat,3\n', 2, "goes on to line 4 and seems to hold whole rows"),
            ('id,y,a\n"r1,cat,1\nr2",dog,2\n', 2, "goes on to line 3 and seems to hold whole rows"),
            ('id,y,a\nr1,cat,"1\nr2,dog,2"\nr3,cat,3\n', 2, "goes on to line 3 and seems to hold whole rows"),
            ('id,y,a\nr1,"cat,1\nr2,"dog, big",2\nr3,"cat",3\n', 2, "after the quote that closes a cell, in line 3"),
        ],
    )
    def test_a_quote_that_swallows_rows(self, tmp_path: Path, content: str, line: int, what: str) -> None:
        path = save_text(tmp_path / "a.csv", content)
        with pytest.raises(UsageError, match=rf"a.csv: line {line}: .*{what}.*quoting: none"):
            rows_of(path)

    @pytest.mark.parametrize("blanks", [(1, 2, 3, 4), (2,), (4,)])
    def test_rows_with_blanks_after_delimiters_are_not_swallowed_either(
        self, tmp_path: Path, blanks: tuple[int, ...]
    ) -> None:
        def line(*cells: str) -> str:
            return ",".join(" " * (number in blanks) + cell for number, cell in enumerate(cells))

        rows = [line({3: '"hello', 7: 'bye"'}.get(n, "k"), f"r{n}", "cd"[n % 2], str(n), "0") for n in range(12)]
        path = save_text(tmp_path / "a.csv", "\n".join([line("n", "id", "y", "a", "b"), *rows]))
        with pytest.raises(UsageError, match=r"line 5: a quoted cell goes on to line 9 and seems to hold whole rows"):
            rows_of(path)

    def test_a_letter_over_several_lines_is_no_swallowed_row(self, tmp_path: Path) -> None:
        letter = "Dear Ann,\nyes, I came, saw, and left.\n\nYours,\nBen"
        path = save_text(tmp_path / "a.csv", f'id,txt\nr1,"{letter}"\n')
        assert cells_of(path) == [["r1", letter]]
        some = f'id,txt\nr0, one blank\nr1,"{letter}\nso, so"\nr2,x\nr3,y\n'
        assert cells_of(save_text(tmp_path / "c.csv", some))[1] == ["r1", f"{letter}\nso, so"]
        listed = "a\nb,c\nd"  # may be rows: only whoever wrote it knows
        path = save_text(tmp_path / "b.csv", f'id,txt\nr1,"{listed}"\n')
        with pytest.raises(UsageError, match=r"line 2: .* say quoting: csv if the cell is meant so"):
            rows_of(path)
        assert cells_of(path, quoting="csv") == [["r1", listed]]

    def test_a_blank_before_a_quote(self, tmp_path: Path) -> None:
        path = save_text(tmp_path / "a.csv", 'a, b\n1, 2\n3, "so"\n')
        with pytest.raises(UsageError, match=r"line 3: a cell has a blank before its quote"):
            rows_of(path)
        assert cells_of(path, quoting="csv") == [["1", " 2"], ["3", ' "so"']]
        fine = 'he said, "yes"'
        assert cells_of(save_text(tmp_path / "b.csv", f"a,b\n1,{json.dumps(fine).replace(chr(92), chr(34))}\n")) == [
            ["1", fine]
        ]

    def test_quoted_cells_between_tabs_may_be_meant_either_way(self, tmp_path: Path) -> None:
        path = save_text(tmp_path / "a.tsv", 'a\tb\n1\tx\n2\t"so it is"\n')
        with pytest.raises(UsageError, match=r'line 3: the cell "so it is" begins and ends.*quoting: csv .* none'):
            rows_of(path)
        header = save_text(tmp_path / "b.tsv", '"a"\t"b"\n1\t2\n')
        with pytest.raises(UsageError, match="line 1: the cell"):
            read_table(header)
        assert read_table(header, quoting="csv").columns == ("a", "b")

    def test_another_delimiter_in_the_header_is_hinted_at(self, tmp_path: Path) -> None:
        for mark, said in ((";", "';'"), ("\t", "tab"), ("|", "'|'")):
            table = read_table(save_text(tmp_path / "a.csv", f"id{mark}y{mark}a\n1{mark}2{mark}3\n"))
            (problem,) = table.problems({"y": "label"})
            assert f"the header holds {said} 2 times: if that is the delimiter, say delimiter: {said}" in problem
        table = read_table(save_text(tmp_path / "b.csv", "id,y;z,a\n1,2,3\n"))
        assert table.problems({"y": "label"}) == ["b.csv has no column 'y' (label); it has id, y;z, a"]

    def test_columns_of_one_name_are_refused_where_they_are_used(self, tmp_path: Path) -> None:
        table = read_table(save_text(tmp_path / "a.csv", "a,b,a\n1,2,3\n"))
        assert table.problems({"b": "label"}) == []
        assert table.problems({"a": "facts"}) == [
            "a.csv: column 'a' (facts) is there twice; give each column its own name"
        ]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a,b\n1,2\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
            ("a,b\n1,2\n".encode("utf-16-le"), "is UTF-16; save it as UTF-8"),
            (b"a,b\n1,\xe9\n", "line 2 is not UTF-8"),
            (b"a,b\n1,\x00\n", "line 2 holds a NUL character"),
            (b"a,b\n\n", "has no rows"),
            (b"", "has no rows"),
        ],
    )
    def test_what_is_no_table(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            read_table(save_text(tmp_path / "a.csv", content))

    def test_what_is_no_file_of_a_table(self, tmp_path: Path) -> None:
        (tmp_path / "folder.csv").mkdir()
        save_text(tmp_path / "a.xlsx", "x")
        save_text(tmp_path / "a.jsonl", "{}")
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 7\n"
        save_text(tmp_path / "kept.csv", pointer)
        save_text(tmp_path / "kept.parquet", pointer)
        for name, form, message in (
            ("folder.csv", {}, "folder.csv is a folder; name a .csv"),
            ("none.csv", {}, "none.csv does not exist"),
            ("kept.csv", {}, "kept.csv is a Git LFS pointer"),
            ("kept.parquet", {}, "kept.parquet is a Git LFS pointer"),
            ("a.xlsx", {}, "must be a .csv, .tsv, .* got a.xlsx; other text needs delimiter:"),
            ("a.jsonl", {"delimiter": ";"}, "are of delimited text, a.jsonl is none"),
        ):
            with pytest.raises(UsageError, match=message):
                read_table(tmp_path / name, **form)


class TestJsonl:
    def test_rows_and_lines_that_are_none(self, tmp_path: Path) -> None:
        lines = [
            '\ufeff{"a": "x\u2028y", "b": [1, 2]}\r', "", "  ", '{"a": null}', "no json", "[1]", '{"a": NaN}',
            '{"a": 1, "b": 2, "a": 3}', '{"a": "\\ud800"}', '{"a": "\\ud83d\\ude00"}', "[" * 100_000, '{"a": Infinity}',
        ]  # fmt: skip
        found = rows_of(save_text(tmp_path / "a.ndjson", "\n".join(lines)))
        assert found["a.ndjson:1"] == {"a": "x\u2028y", "b": [1, 2]}
        assert found["a.ndjson:4"] == {"a": None}
        assert found["a.ndjson:10"] == {"a": "😀"}
        reasons = {place: reason for place, reason in found.items() if isinstance(reason, str)}
        for line, reason in {
            5: "not valid JSON", 6: "not a JSON object", 7: "NaN is no number; write null",
            8: "the key 'a' is given twice", 9: "half a character", 11: "not valid JSON", 12: "Infinity is no number",
        }.items():  # fmt: skip
            assert reason in reasons.pop(f"a.ndjson:{line}")
        assert not reasons

    def test_a_list_in_one_piece_is_no_table(self, tmp_path: Path) -> None:
        path = save_text(tmp_path / "a.jsonl", json.dumps([{"a": 1}, {"a": 2}], indent=1))
        with pytest.raises(UsageError, match=r"one JSON object a line \(a.jsonl:1: the line is not valid JSON"):
            read_table(path)


class TestParquet:
    def test_cells_keep_their_types_and_rows_their_numbers(self, tmp_path: Path) -> None:
        table = pa.table({
            "y": pa.array(["no", None, "yes"]).dictionary_encode(), "n": pa.array([1, 2, None], pa.int32()),
            "s": [[1.5], [], None], "where": [{"x": 1}] * 3, "a.b": ["p", "q", "r"],
        })  # fmt: skip
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
        found = read_table(tmp_path / "a.parquet")
        assert found.problems({"y": "label", "n": "group", "s": "beat", "a.b": "id"}) == []
        assert dict(found.rows({"y", "n", "s", "a.b"})) == {
            "a.parquet:1": {"y": "no", "n": 1, "s": [1.5], "a.b": "p"},
            "a.parquet:2": {"y": None, "n": 2, "s": [], "a.b": "q"},
            "a.parquet:3": {"y": "yes", "n": None, "s": None, "a.b": "r"},
        }

    @pytest.mark.parametrize(
        "column", [[{"x": 1}], [True], [b"x"], pa.array([1], pa.date32()), pa.array([1], pa.decimal128(5)), [["x"]],
                   [[{"x": 1}]]]
    )  # fmt: skip
    def test_columns_of_other_types_are_refused_where_they_are_used(self, tmp_path: Path, column: Any) -> None:
        pq.write_table(pa.table({"y": ["a"], "x": column}), tmp_path / "a.parquet")
        found = read_table(tmp_path / "a.parquet")
        assert found.problems({"y": "label"}) == []
        (problem,) = found.problems({"x": "facts"})
        assert re.search(r"column 'x' \(facts\) holds .*, which is no text, number or list of numbers", problem)

    def test_columns_of_one_name(self, tmp_path: Path) -> None:
        pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "a.parquet")
        assert "is there twice" in read_table(tmp_path / "a.parquet").problems({"x": "facts"})[0]

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"y": ["a"] * 1000}), tmp_path / "a.parquet")
        content = (tmp_path / "a.parquet").read_bytes()
        with pytest.raises(UsageError, match="is not a valid Parquet file"):
            read_table(save_text(tmp_path / "cut.parquet", content[:-20]))
        damaged = save_text(tmp_path / "bad.parquet", content[:8] + b"\xff" * 40 + content[48:])
        with pytest.raises(UsageError, match="can not be read after row 0"):
            rows_of(damaged)
        pq.write_table(pa.table({"y": pa.array([], pa.string())}), tmp_path / "empty.parquet")
        with pytest.raises(UsageError, match="has no rows"):
            read_table(tmp_path / "empty.parquet")
