"""Files people write are plain values within limits; whatever else they hold is one message that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcore.config.documents import (
    MAX_DEPTH,
    MAX_VALUES,
    MAX_YAML_BYTES,
    parse_json,
    parse_yaml,
    read_json,
    read_named,
    read_yaml,
)
from mmcore.config.texts import decoded
from mmcore.errors import ConfigError, UsageError


def saved(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_values(tmp_path: Path) -> None:
    text = "a: [1, -2.5, true, null, '1']\nb: {1: x, no: y}\nc: 2024-01-01\nd: =\ne: &e {f: 1}\ng: {<<: *e, h: 2}\n"
    assert read_yaml(saved(tmp_path, text)) == {
        "a": [1, -2.5, True, None, "1"], "b": {"1": "x", "no": "y"}, "c": "2024-01-01", "d": "=", "e": {"f": 1},
        "g": {"f": 1, "h": 2},
    }  # fmt: skip
    assert read_yaml(saved(tmp_path, json.dumps({"a": {"b": [1, None]}}))) == {"a": {"b": [1, None]}}


def test_names_stay_what_was_written(tmp_path: Path) -> None:
    content, problems = read_named(saved(tmp_path, "a: no\nb: no\nc: ~\n"), [("a",)], [("c",)])
    assert (content, problems) == ({"a": "no", "b": False, "c": None}, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "line 1, column 5: while parsing a flow node expected the node content"),
        ("a: !!python/object:os.system x", "the tag !!python/object:os.system is not allowed"),
        ("a: !!binary aGk=", "line 1, column 4: the tag !!binary is not allowed"),
        ("a: !!set {b}", "the tag !!set is not allowed"),
        ("a: !!bool maybe", "the tag !!bool is not allowed"),
        ("a: !!int ''", "the tag !!int is not allowed"),
        ("a: .nan", "line 1, column 4: a number must be finite, got .nan"),
        ("b: 1\na: -.inf", "line 2, column 4: a number must be finite, got -.inf"),
        (f"a: {2**63}", "a whole number must fit in 64 bits"),
        (f"a: {'9' * 5000}", "digits"),
        ('a: "b\\0"', "a text must not hold NUL"),
        ('"\\ud800": 1', "half a character"),
        ("a: *b", "undefined alias"),
        ("a: &x [*x]", "an alias stands inside of what it repeats"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: \x01", r"the character '\x01' is not allowed"),
        ("a: 1\n--- b", "expected a single document"),
        (b"a: \xff", "line 1 is not UTF-8"),
        (b"a: 1\nb: \0", "line 2 holds a NUL character"),
        ("a: 1".encode("utf-16"), "is UTF-16"),
        ("- a", "must hold a mapping, got a list"),
        ("a", "must hold a mapping, got a text"),
        ("", "must hold a mapping, got nothing"),
        ("a: 1\nb: {c: 1, c: 2}\na: 3", "a.yaml: line 2: the key 'c' is given again (first in line 2); keep one"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_yaml(saved(tmp_path, content))
    assert message in str(raised.value)
    assert "a.yaml" in str(raised.value)


def test_all_keys_that_are_there_twice_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_yaml(saved(tmp_path, "a: 1\n1: 2\na: 3\n'1': 4\n"))
    assert len(raised.value.problems) == 2


class TestLimits:
    def test_depth(self, tmp_path: Path) -> None:
        def nested(levels: int) -> str:
            return f"a: {'[' * levels}{']' * levels}"

        assert read_yaml(saved(tmp_path, nested(MAX_DEPTH - 1)))
        for levels in (MAX_DEPTH, 100_000):
            with pytest.raises(UsageError, match=f"nested deeper than {MAX_DEPTH} levels"):
                read_yaml(saved(tmp_path, nested(levels)))
            with pytest.raises(UsageError, match="nested deeper"):
                parse_yaml(nested(levels))

    def test_depth_by_aliases(self, tmp_path: Path) -> None:
        lines = ["a0: &a0 [1]", *(f"a{number}: &a{number} [*a{number - 1}]" for number in range(1, 100))]
        with pytest.raises(UsageError, match=f"nested deeper than {MAX_DEPTH} levels"):
            read_yaml(saved(tmp_path, "\n".join(lines)))

    @pytest.mark.parametrize("repeat", ["[{0}, {0}, {0}, {0}, {0}, {0}]", "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}]}}"])
    def test_a_small_file_that_stands_for_billions(self, tmp_path: Path, repeat: str) -> None:
        lines = ["a0: &a0 {b: 1}", *(f"a{n}: &a{n} {repeat.format(f'*a{n - 1}')}" for n in range(1, 12))]
        with pytest.raises(UsageError, match=f"stands for more than {MAX_VALUES:,} values"):
            read_yaml(saved(tmp_path, "\n".join(lines)))

    def test_size(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"a.yaml is too large: a file of this kind must have 1 MiB at most"):
            read_yaml(saved(tmp_path, "#" * (MAX_YAML_BYTES + 1)))
        with pytest.raises(UsageError, match="too large"):  # no file ends it
            read_yaml(Path("/dev/zero"))

    def test_json(self) -> None:
        assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
        for levels in (MAX_DEPTH + 1, 200_000):
            with pytest.raises(ValueError, match="nested deeper"):
                parse_json("[" * levels + "]" * levels)


def test_json_files(tmp_path: Path) -> None:
    for content, message in (
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"), ("[NaN]", "NaN is no number"), ("{", "is not valid JSON"),
        (b"\xff", "not UTF-8"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            read_json(saved(tmp_path, content))


def test_what_is_no_file_of_text(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is a folder; name a file"), (tmp_path / "none", "there is no such file"),
        (tmp_path / "a.txt" / "b", "can not be read"), (Path("a\0b"), "can not be read"),
    ):  # fmt: skip
        (tmp_path / "a.txt").touch()
        with pytest.raises(UsageError, match=message):
            decoded(path)
