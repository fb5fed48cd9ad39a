from __future__ import annotations

from pathlib import Path

import pytest
from raw_files import save_text

from mmcore.data.raw.lists import class_index, read_records, read_rows, split_csv
from mmcore.errors import DataError, UsageError


def test_lines_end_with_lf_or_crlf_and_nothing_else(tmp_path: Path) -> None:
    # A line separator, a next-line mark and a form feed inside a tweet are no ends of lines for git, wc or its authors.
    path = save_text(tmp_path / "a.txt", "\ufeffone\r\ntwo\u2028still\x85two\x0c\n\n  \nthree")
    assert [row.text for row in read_rows(path)] == ["one", "two\u2028still\x85two\x0c", "three"]
    assert [row.place for row in read_rows(path)] == ["a.txt:1", "a.txt:2", "a.txt:5"]


def test_a_line_that_is_not_utf_8_is_one_bad_line(tmp_path: Path) -> None:
    path = save_text(tmp_path / "a.txt", b"good\nb\xe4d\ngood again\n")
    assert [row.text for row in read_rows(path)] == ["good", None, "good again"]


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can not be read: Is a directory"):
        list(read_rows(tmp_path))


def test_fields_with_commas_stand_in_quotes() -> None:
    assert split_csv('abc, 30 ,"playing violin, fiddle",train') == ["abc", "30", "playing violin, fiddle", "train"]
    assert split_csv("") == []


def test_unknown_classes_name_the_known_ones() -> None:
    assert class_index("b", ("a", "b")) == 1
    assert class_index("x", {"x": 7}) == 7
    with pytest.raises(DataError, match="unknown class 'HPY': did you mean 'HAP'"):
        class_index("HPY", ("NEU", "HAP"))


class TestRecords:
    def rows(self, tmp_path: Path, text: str) -> list[list[str] | str]:
        path = save_text(tmp_path / "list.csv", text)
        return [fields for _, fields in read_records(path, ("file", "label"))]

    def test_a_header_finds_columns_in_rows_of_its_length_alone(self, tmp_path: Path) -> None:
        text = "label,x,y,file\ncat,1,2,a.mp4\ndog,b.mp4\nfox,1,2,c.mp4,9\n"
        assert self.rows(tmp_path, text) == [["a.mp4", "cat"], "2 fields, not 4", "5 fields, not 4"]

    def test_a_label_with_a_comma_needs_quotes(self, tmp_path: Path) -> None:
        text = 'a.mp4,playing violin, fiddle\nb.mp4,"playing violin, fiddle"\n'
        assert self.rows(tmp_path, text) == ["3 fields, not 2", ["b.mp4", "playing violin, fiddle"]]

    def test_quotes_that_are_none(self, tmp_path: Path) -> None:
        unclosed, followed, fine = self.rows(tmp_path, f'a.mp4,"cat\nb.mp4,"dog" x\nc.mp4,{"z" * 200_000}\n')
        assert "unexpected end of data" in str(unclosed)
        assert "expected after" in str(followed)
        assert fine == ["c.mp4", "z" * 200_000]

    @pytest.mark.parametrize(
        ("header", "message"),
        [("file,label,label", "names label twice"), ("file,label,x,FILE", "names file twice")],
    )
    def test_a_header_with_a_column_twice(self, tmp_path: Path, header: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            self.rows(tmp_path, f"{header}\na,b,c,d\n")
