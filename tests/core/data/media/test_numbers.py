"""Files of numbers as they are written in practice, and what float32 can not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import save_text

from mmcore.data.media import RawFolder, Series
from mmcore.data.medium import Note
from mmcore.errors import DataError


def series(path: Path, channels: int = 2, **how: Any) -> list[list[float]]:
    decoded = Series("s", 4, channels, **how).read(RawFolder(path.parent), path.name)
    return decoded.array[: decoded.length].tolist()


@pytest.mark.parametrize(
    "text",
    ["1,2\n3,4\n", "1;2\n3;4\n", "1\t2\r\n3\t4\r\n", "1 2\n3  4\n", "x,y\n1,2\n3,4\n", "\ufefftime;a (m)\n1;2\n3;4",
     "# 2 channels\n1.0e0 2.0e0\n3.0e0 4.0e0\n", "\nx\ty\n\n1\t2\n\n3\t4\n", "1,2 # first\n3,4\n"],
)  # fmt: skip
def test_text_by_stated_rules(tmp_path: Path, text: str) -> None:
    assert series(save_text(tmp_path / "a.csv", text)) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,5;2,5\n3,5;4,5\n", "it holds commas and semicolons; if the commas are decimal ones, write points"),
        ("x;y\n1,5;2,5\n", "it holds commas and semicolons"),
        ("1,5\t2,5\n", "it holds commas and tabs"),
        ("0,1\n3,4\n", "may be numbers, or the names pandas gives columns; say header: true or header: false"),
        ("1,2\n\n3\n", "line 3 must have as many fields as the first, 2, got 1"),
        ("1,\n3,4\n", "line 1 has an empty field"),
        ("x,1\n3,4\n", "line 1: 'x' is no number"),
        ("time,value\n# units\ns,V\n1,2\n", "line 3: 's' is no number"),
        ("1_0,2\n", "line 1: '1_0' is no number"),
        ("1,2\n#N/A,#N/A\n3,4\n", "line 2, #N/A,#N/A, holds an error of a spreadsheet, and no number"),
        ("x,y\n", "it holds a header and no numbers"),
        ("\n", "it holds no numbers"),
        ("1,2,3\n", r"must be of shape \(steps, 2\), got \(1, 3\)"),
        ("x,y\n1,2\n".encode("utf-16"), "is UTF-16"),
    ],
)
def test_text_that_may_be_read_in_two_ways_or_in_none(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        series(save_text(tmp_path / "a.csv", text))


@pytest.mark.parametrize(
    "first", [",", "NA,NA", "-,?", "0x10,0x20", "1D3,2d-3", '"1","2"', '"1","NA"', "true,FALSE", "<NA>,n/a", "0b1,0o7",
              "None,null", "5%,$5"],
)  # fmt: skip
def test_a_first_line_without_numbers_or_names_is_no_header(tmp_path: Path, first: str) -> None:
    """A step of which no field can be read was dropped as a header."""
    path = save_text(tmp_path / "a.csv", f"# two channels\n{first}\n1,2\n3,4\n")
    with pytest.raises(DataError, match=r"a.csv can not be read as numbers: line 2, .*, holds neither plain"):
        series(path)
    assert series(path, header=True) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("first", ["x,NA", '"x","y"', "e1,e2", "電圧,Δt", "10Hz,3d", "#channels\nNaCl,-"])
def test_a_first_line_with_a_name_is_a_header(tmp_path: Path, first: str) -> None:
    assert series(save_text(tmp_path / "a.csv", f"{first}\n1,2\n3,4\n")) == [[1, 2], [3, 4]]


def test_a_header_by_word(tmp_path: Path) -> None:
    path = save_text(tmp_path / "a.csv", "0,1\n3,4\n")
    assert series(path, header=True) == [[3, 4]]
    assert series(path, header=False) == [[0, 1], [3, 4]]


def test_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", np.array([[1, 2]]))
    np.savez_compressed(tmp_path / "two.npz", a=np.array([[1, 2]]), b=np.array([[3, 4]]))
    assert series(tmp_path / "one.npz") == [[1, 2]]
    assert series(tmp_path / "two.npz", key="b") == [[3, 4]]
    np.save(tmp_path / "one.npy", np.array([[1, 2]]))
    save_text(tmp_path / "one.csv", "1,2\n")
    for name, what in (("one.npy", "one array"), ("one.csv", "text")):
        with pytest.raises(DataError, match=rf"{name} .* key: b names an array of a .npz file, this is {what}"):
            series(tmp_path / name, key="b")
    for how, message in (({}, "it holds the arrays a, b; say which: key: NAME"), ({"key": "c"}, "no array 'c'")):
        with pytest.raises(DataError, match=rf"two.npz .*{message}"):
            series(tmp_path / "two.npz", **how)
    for name, content in (("cut.npz", (tmp_path / "two.npz").read_bytes()[:90]), ("no.npz", b"x" * 90)):
        with pytest.raises(DataError, match=f"{name} can not be read as numbers"):
            series(save_text(tmp_path / name, content))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 1 + 2j), "its type is complex128; it must hold real numbers"),
        (np.array([["1", "2"]]), "its type is <U1; it must hold real numbers"),
        (np.array([[1, 2]], dtype="m8[s]"), r"its type is timedelta64\[s\]; it must hold real numbers"),
        (np.full((8, 2), 1e300), r"holds 16 numbers beyond float32's 3.4e38, as 1e\+300"),
        (np.full((8, 2), -1e-60), "holds only numbers that float32 rounds to 0"),
        (np.array([[1, np.nan]]), "holds 1 values that are no finite numbers"),
    ],
)
def test_arrays_that_are_no_series(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=f"a.npy {message}|a.npy can not be read as numbers: {message}"):
        series(tmp_path / "a.npy")


def test_files_that_numpy_would_advise_on(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([[1], [2, 3]], dtype=object), allow_pickle=True)
    save_text(tmp_path / "text.npy", "1,2\n3,4\n")
    for name, message in (("rows", "it holds Python objects, as of rows"), ("text", "its content is no NumPy file")):
        with pytest.raises(DataError, match=message) as raised:
            series(tmp_path / f"{name}.npy")
        assert "pickle" not in str(raised.value)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([[True, 5], [2, 3]], r"must hold numbers, got \[True, 5\] as step 1"),
        ([[1, 5], [2, False]], r"must hold numbers, got \[2, False\] as step 2"),
        ([[1, 5], [2]], r"as many numbers as the first, \[1, 5\], got \[2\] as step 2"),
        ([[1, 5], 2], r"as many numbers as the first, \[1, 5\], got 2 as step 2"),
        ([1, True], "must hold numbers, got True as step 2"),
        ([[1, None]], "must hold numbers"),
        ([], r"must be of shape \(steps, 2\)"),
    ],
)
def test_lists_that_are_no_series(steps: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Series("s", 4, 2).decode(steps)


def test_numbers_float32_rounds(tmp_path: Path) -> None:
    """The tail of a filter fades below float32: that is rounding, and noted, as long as not all of it is lost."""
    np.save(tmp_path / "a.npy", np.array([[3.4e38, 1e-60], [0, -0.1]]))
    assert series(tmp_path / "a.npy") == np.array([[3.4e38, 0], [0, -0.1]], np.float32).tolist()
    notes = Series("s", 4, 2).read(RawFolder(tmp_path), "a.npy").notes
    assert notes == (Note("numbers became 0", "1 of 4, nearer to 0 than float32's 1e-45"),)
    assert not Series("s", 1, 1).decode([1.0, 1e-60]).notes[:-1]  # it is cut off, which alone is noted
    np.save(tmp_path / "b.npy", np.zeros((2, 2)))
    assert not Series("s", 4, 2).read(RawFolder(tmp_path), "b.npy").notes
    assert series(tmp_path / "b.npy") == [[0, 0], [0, 0]]
