from __future__ import annotations

from pathlib import Path

import pytest
from raw_files import save_text

from mmcore.data.lists import class_index, read_rows, split_csv
from mmcore.errors import DataError


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
