"""The YAML file of one's own data: names stay what was written, and everything that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_files import save_text

from mmcore.data.raw.description import read_description
from mmcore.errors import ConfigError, UsageError

BASE = "manifest: t.csv\nlabel: y\nmodalities:\n  facts: {kind: tabular, columns: [a]}\n"


def described(folder: Path, content: str, table: str | bytes = "y,a\nno,1\nyes,2\n") -> dict[str, Any]:
    save_text(folder / "t.csv", table)
    return read_description(save_text(folder / "my.yaml", content))


def problems_of(folder: Path, content: str, table: str = "y,a\nno,1\nyes,2\n") -> list[str]:
    with pytest.raises(ConfigError) as raised:
        described(folder, content, table)
    return raised.value.problems


class TestNames:
    @pytest.mark.parametrize(
        "names", [["no", "yes"], ["on", "off"], ["y", "n"], ["01", "1e3"], ["2024-01-01", "1:30"], ["null", "~"],
                  ["True", "FALSE"], ["0x1F", "1_000"], [".inf", ".nan"], ["=", "1.0"]],
    )  # fmt: skip
    def test_classes_are_what_was_written(self, tmp_path: Path, names: list[str]) -> None:
        rows = "".join(f"{name},1\n" for name in names)
        assert described(tmp_path, f"{BASE}classes: [{', '.join(names)}]", f"y,a\n{rows}")["classes"] == names
        block = "".join(f"\n  - {name}" for name in names)
        left_out = described(tmp_path, f"{BASE}leave_out:{block}\nclasses: [b, c]", f"y,a\n{rows}")["leave_out"]
        assert left_out == names

    def test_columns_modalities_and_paths_are_what_was_written(self, tmp_path: Path) -> None:
        content = """
            manifest: t.csv
            name: 2024
            label: on
            split: no
            group: 01
            id: 1e3
            modalities:
              y: {kind: tabular, columns: [off, 2024-01-01, null]}
              no: {kind: series, column: yes, length: 3, key: 07}
        """
        found = described(
            tmp_path, content, "on,no,01,1e3,off,2024-01-01,null,yes\na,train,g,i,1,2,3,s\nb,test,h,j,1,2,3,s"
        )
        assert (found["name"], found["label"], found["split"], found["group"], found["id"]) == (
            "2024", "on", "no", "01", "1e3",
        )  # fmt: skip
        assert found["modalities"]["y"]["columns"] == ["off", "2024-01-01", "null"]
        assert (found["modalities"]["no"]["column"], found["modalities"]["no"]["key"]) == ("yes", "07")

    def test_what_is_no_name_keeps_its_type(self, tmp_path: Path) -> None:
        content = (
            "manifest: t.csv\nlabel: y\nsplit: null\ngroup: ~\nid:\nmodalities:\n"
            "  facts: {kind: tabular, columns: [a], may_be_missing: yes, fill: 0, encoder: {name: mlp, features: 8}}\n"
        )
        found = described(tmp_path, content)
        assert [found[key] for key in ("split", "group", "id")] == [None] * 3
        facts = found["modalities"]["facts"]
        assert (facts["may_be_missing"], facts["fill"], facts["encoder"]) == (True, 0.0, {"name": "mlp", "features": 8})

    def test_anchors_and_merges_work(self, tmp_path: Path) -> None:
        content = (
            "manifest: t.csv\nlabel: y\nmodalities:\n  one: &same {kind: tabular, columns: [a]}\n"
            "  two: {<<: *same, may_be_missing: true}\n"
        )
        assert described(tmp_path, content)["modalities"]["two"]["columns"] == ["a"]


class TestProblems:
    def test_a_key_that_is_given_twice(self, tmp_path: Path) -> None:
        modalities = "modalities:\n  facts: {kind: text, columns: [a], kind: tabular}\n"
        content = f"manifest: t.csv\nlabel: y\nlabel: z\n{modalities}"
        assert problems_of(tmp_path, content, "y,z,a\nno,1,1\nyes,2,2\n") == [
            "my.yaml: line 3: the key 'label' is given again (first in line 2); keep one",
            "my.yaml: line 5: the key 'kind' is given again (first in line 5); keep one",
        ]

    def test_all_of_them_at_once(self, tmp_path: Path) -> None:
        content = (
            "manifest: t.csv\nlabel: y\nlabel: mood\nsplt: part\ngroup: who\nid: y\nclasses: [no, yes, no, ' b']\n"
            "leave_out: [yes]\nmodalities:\n  facts: {kind: tabular, columns: [a, height], fill: most}\n"
        )
        found = "\n".join(problems_of(tmp_path, content))
        for part in (
            "the key 'label' is given again", "unknown key 'my.yaml.splt': did you mean 'split'?",
            "t.csv has no column 'mood' (label); it has y, a", "t.csv has no column 'who' (group)",
            "t.csv has no column 'height' (facts)", "class 'yes' is in classes and in leave_out",
            "classes: 'no' is listed twice", "classes: ' b' is empty or has blanks around it",
            "my.yaml.modalities.facts.tabular.fill must be", "got 'most'",
        ):  # fmt: skip
            assert part in found

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("delimiter: ab", "my.yaml.delimiter must be one character (or tab), got 'ab'"),
            ("delimiter: '\"'", "my.yaml.delimiter must be one character (or tab)"),
            ("quoting: yes", "my.yaml.quoting must be 'csv' or 'none', got 'yes'"),
            ("classes: [a, ]", "my.yaml.classes must be"),
            ("classes: [a, '']", "classes: '' "),
            ("fill: true", "unknown key 'my.yaml.fill'"),
        ],
    )
    def test_wrong_values(self, tmp_path: Path, line: str, message: str) -> None:
        assert message in "\n".join(problems_of(tmp_path, f"{BASE}{line}\n"))

    @pytest.mark.parametrize("fill", ["true", "1e39", ".nan", "[1]", "max"])
    def test_wrong_fillings(self, tmp_path: Path, fill: str) -> None:
        content = BASE.replace("columns: [a]", f"columns: [a], fill: {fill}")
        assert "fill must be" in "\n".join(problems_of(tmp_path, content))

    def test_one_class_alone(self, tmp_path: Path) -> None:
        (problem,) = problems_of(tmp_path, BASE, "y,a\ncat,1\ncat,2\n")
        assert problem == "column 'y' of t.csv must have 2 classes or more, got cat in 2 rows"
        (problem,) = problems_of(tmp_path, BASE, "y,a\ncat,1,\ndog,2,\n")  # not the labels are to blame
        assert problem.endswith(
            "got none in 0 rows; 2 other rows have none (first: t.csv:2: the row has 3 fields, not 2)"
        )

    def test_one_class_is_left_and_its_rows_alone_are_counted(self, tmp_path: Path) -> None:
        (problem,) = problems_of(tmp_path, f"{BASE}leave_out: [dog]\n", "y,a\ncat,1\ncat,2\ndog,3\ndog,4\ndog,5\n")
        assert problem == "column 'y' of t.csv must have 2 classes or more, got cat in 2 rows"

    def test_one_number_in_two_notations_is_no_two_classes(self, tmp_path: Path) -> None:
        table = "y,a\n1,1\n1.0,2\n2,3\n"
        (problem,) = problems_of(tmp_path, BASE, table)
        assert "holds the labels '1' and '1.0', one number in two notations: write it in one, or list both" in problem
        listed = ["1", "1.0", "2"]
        assert described(tmp_path, f"{BASE}classes: [1, 1.0, 2]\n", table)["classes"] == listed
        assert described(tmp_path, BASE, "y,a\n1,1\n01,2\n1,1\n01,2\n")["classes"] == ["01", "1"]  # codes

    def test_delimiters_by_name_and_by_sign(self, tmp_path: Path) -> None:
        for said, mark in (("tab", "\t"), ('"\\t"', "\t"), ("'\\t'", "\t"), ("';'", ";"), ("'|'", "|")):
            found = described(tmp_path, f"{BASE}delimiter: {said}\n", f"y{mark}a\nno{mark}1\nyes{mark}2\n")
            assert (found["delimiter"], found["classes"]) == (mark, ["no", "yes"])
        (problem,) = problems_of(tmp_path, BASE, "y;a\nno;1\n")[:1]
        assert "has no column 'a' (facts); it has y;a; the header holds ';' 1 times: if that is" in problem

    def test_a_description_of_new_rows_needs_no_labels(self, tmp_path: Path) -> None:
        save_text(tmp_path / "t.csv", "a\n1\n")
        path = save_text(tmp_path / "my.yaml", f"{BASE}group: who\n")
        assert read_description(path, ["x", "z"])["classes"] == ["x", "z"]
        with pytest.raises(UsageError, match=r"no column 'y' \(label\)"):
            read_description(path)

    @pytest.mark.parametrize("name", ["None", "nan", "<NA>", "NA", "N/A", "null"])
    def test_a_label_that_looks_like_none_is_a_class_by_word_alone(self, tmp_path: Path, name: str) -> None:
        table = f"y,a\ncat,1\n{name},2\ndog,3\n"
        assert described(tmp_path, BASE, table)["classes"] == ["cat", "dog"]  # its row is a bad one
        assert described(tmp_path, f"{BASE}leave_out: [{name}]", table)["classes"] == ["cat", "dog"]
        assert described(tmp_path, f"{BASE}classes: [cat, dog, {name}]", table)["classes"] == ["cat", "dog", name]

    def test_values_of_any_shape_are_told_and_break_nothing(self, tmp_path: Path) -> None:
        content = (
            "manifest: t.csv\nlabel: [y]\nclasses: [[a], b]\nleave_out: [[x], {y: z}]\nname: {a: b}\ndelimiter: [a]\n"
            "modalities:\n  facts: {kind: tabular, columns: [a, [b]]}\n  none:\n  list: [1]\n"
        )
        found = "\n".join(problems_of(tmp_path, content))
        for key in ("label", "classes.0", "leave_out.0", "leave_out.1", "name", "delimiter", "modalities.none"):
            assert f"my.yaml.{key}" in found
        for content in ("manifest: t.csv\nlabel: y\nmodalities: [a]\n", "modalities: {a: {kind: audio}}\n", "a: 1\n"):
            assert problems_of(tmp_path, content)

    def test_excels_first_line(self, tmp_path: Path) -> None:
        found = problems_of(tmp_path, f"{BASE}delimiter: ';'\n", "sep=;\ny;a\nno;1\n")
        assert "Excel's sep=, is no header: delete it" in found[0]

    def test_files_that_are_no_yaml_or_text(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="there is no such file"):
            read_description(tmp_path / "none.yaml")
        for content, message in (
            (b"a: [", "is no YAML file"), (b"- a", "must hold a mapping, got list"), (b"", "must hold a mapping"),
            (b"\xff", "line 1 is not UTF-8"), ("a: b".encode("utf-16"), "is UTF-16"), (b"a: &x [*x]", "my.yaml"),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=message):
                read_description(save_text(tmp_path / "my.yaml", content))
        with pytest.raises(UsageError, match=r"t.csv: line 3 is not UTF-8"):
            described(tmp_path, BASE, b"y,a\nyes,1\nn\xf6,1\n")
