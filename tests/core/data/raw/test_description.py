"""The YAML file of one's own data: names stay what was written, and everything that is wrong is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_files import save_text

from mmcore.data.prepared.columns import INDEX_COLUMNS
from mmcore.data.raw.description import read_description
from mmcore.data.raw.modality_names import modality_name
from mmcore.errors import ConfigError, UsageError
from mmcore.methods.base import FUSED

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
            "my.yaml.modalities.facts.fill must be", "got 'most'",
        ):  # fmt: skip
            assert part in found

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("delimiter: '::'", "my.yaml.delimiter must be one character (or tab), got '::'"),
            ("delimiter: '\"'", "my.yaml.delimiter must be one character (or tab)"),
            ("quoting: yes", "my.yaml.quoting must be 'csv' or 'none', got 'yes'"),
            ("classes: [a, ]", "my.yaml.classes must be a list of 2 entries or more, got ['a']"),
            ("name: a/b", "digits, '.', '_' or '-', 64 characters at most, got 'a/b'"),
            ("classes: [a, '']", "classes: '' "),
            ("fill: true", "unknown key 'my.yaml.fill'"),
        ],
    )
    def test_wrong_values(self, tmp_path: Path, line: str, message: str) -> None:
        assert message in (found := "\n".join(problems_of(tmp_path, f"{BASE}{line}\n")))
        assert found.count(", got ") <= 1

    @pytest.mark.parametrize(
        ("section", "problem"),
        [
            ("kind: table", ".kind must be one of audio, image, video, text, series, tabular, got 'table'"),
            ("kind: [audio]", ".kind must be one of audio, image, video, text, series, tabular, got ['audio']"),
            ("column: a", ".kind is required: one of audio, image, video, text, series, tabular"),
            ("kind: tabular, columns: a", ".columns must be a list, got 'a'"),
            ("kind: tabular, columns: []", ".columns must be a list of 1 entry or more, got []"),
            ("kind: image, column: a, range: [0, 1, 2]", ".range must be a list of 2, got [0, 1, 2]"),
            ("kind: image, column: a, range: [0]", ".range must be a list of 2, got [0]"),
            ("kind: image, column: a, size: 1000000", ".size must be in [2, 4096], got 1000000"),
            ("kind: video, column: a, frames: 3, frames_per_second: 1.0e+9",
             ".frames_per_second must be in (0, 1000], got 1000000000.0"),
            ("kind: video, column: a, frames_per_second: 5",
             ": frames is required beside frames_per_second: the most frames that are stored of a clip"),
            ("kind: video, column: a, frames: 30000, size: 256",
             ": a stored sample must take 1 GiB at most, got 5.5 GiB; make frames or size smaller"),
            ("kind: audio, column: a, seconds: 1.0e-8",
             ": a stored sample must hold something, got nothing; make seconds or sample_rate_hz larger"),
            ("kind: audio, column: a, seconds: 1.0e-5, sample_rate_hz: 40000",
             ": a stored sample must hold something, got nothing; make seconds or sample_rate_hz larger"),
            ("kind: audio, column: a, sample_rate_hz: 100000000000",
             ".sample_rate_hz must be in [1000, 768000], got 100000000000"),
            ("kind: audio, column: a, seconds: 80000",
             ": a stored sample must take 1 GiB at most, got 2.4 GiB; make seconds or sample_rate_hz smaller"),
            ("kind: series, column: a, length: 1000000, channels: 1000",
             ": a stored sample must take 1 GiB at most, got 3.7 GiB; make length or channels smaller"),
            ("kind: text, column: a, max_tokens: 1000000", ".max_tokens must be in [4, 100000], got 1000000"),
        ],
    )  # fmt: skip
    def test_a_wrong_modality_is_told_in_words(self, tmp_path: Path, section: str, problem: str) -> None:
        content = f"manifest: t.csv\nlabel: y\nmodalities:\n  f: {{{section}}}\n"  # one problem, one sentence
        assert problems_of(tmp_path, content) == [f"my.yaml.modalities.f{problem}"]

    def test_an_unknown_key_of_a_modality_gets_a_suggestion(self, tmp_path: Path) -> None:
        (problem,) = problems_of(tmp_path, BASE.replace("columns: [a]", "columns: [a], filll: 0"))
        assert problem.startswith("unknown key 'my.yaml.modalities.facts.filll': did you mean 'fill'? known: columns, ")

    def test_no_modality_and_classes_left_out_by_a_word(self, tmp_path: Path) -> None:
        assert problems_of(tmp_path, "manifest: t.csv\nlabel: y\nmodalities: {}\n") == [
            "my.yaml.modalities must be a mapping of 1 entry or more, got {}"
        ]
        assert problems_of(tmp_path, f"{BASE}leave_out: u\n") == ["my.yaml.leave_out must be a list, got 'u'"]

    @pytest.mark.parametrize(
        "name", ["label", "sample_id", "group", "source", "replicate", "split", "Fused", "mixed", "f__present", "f.g",
                 "a/b", "a b", "", "_a", "1a", "é", "values", "training", "type", "x__"],
    )  # fmt: skip
    def test_names_that_no_modality_may_have(self, tmp_path: Path, name: str) -> None:
        content = f"manifest: t.csv\nlabel: y\nmodalities:\n  '{name}': {{kind: tabular, columns: [a]}}\n"
        (problem,) = problems_of(tmp_path, content)
        assert problem.startswith(f"my.yaml.modalities.{name}: a modality's name must be a letter, then letters")
        assert problem.endswith(f", got '{name}'; rename it")

    def test_every_column_of_prepared_files_is_no_name(self) -> None:
        for name in (*INDEX_COLUMNS, FUSED):
            with pytest.raises(ValueError, match="a modality's name must be"):
                modality_name(name)
        for name in ("audio", "text", "rgb-flow", "f_1", "labels", "no"):
            assert modality_name(name) == name

    @pytest.mark.parametrize("fill", ["true", "1e39", "[1]", "max"])
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
            (b"a: [", "is not valid YAML"), (b"- a", "must hold a mapping, got a list"), (b"", "must hold a mapping"),
            (b"\xff", "line 1 is not UTF-8"), ("a: b".encode("utf-16"), "is UTF-16"), (b"a: &x [*x]", "my.yaml"),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=message):
                read_description(save_text(tmp_path / "my.yaml", content))
        with pytest.raises(UsageError, match=r"t.csv: line 3 is not UTF-8"):
            described(tmp_path, BASE, b"y,a\nyes,1\nn\xf6,1\n")
