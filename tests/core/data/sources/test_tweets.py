"""The readers of `sarcasm` and `twitter15`, on files in every layout they know."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from raw_files import index_of, kinds, save_picture, save_text

from mmcore.data.media import RawFolder
from mmcore.data.raw.index import Index
from mmcore.data.sources import sarcasm
from mmcore.data.sources.twitter15 import Twitter15, Twitter15Config
from mmcore.data.spec import DATASETS
from mmcore.errors import UsageError


def by_id(index: Index) -> dict[str, tuple[str, int, str]]:
    """Id -> split, label, text."""
    return {entry.sample_id: (entry.split, entry.label, entry.media["text"]) for entry in index.entries}


class TestSarcasm:
    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        for sample_id in (11, 12, 13, 21, 31):
            save_picture(tmp_path / "dataset_image" / f"{sample_id}.jpg")
        save_text(
            tmp_path / "text" / "train.txt",
            "['11', 'so much rain', 1]\n[12, \"it's dry\", 0]\n['13', 'what a joke', 1]\n['14', 'jokester here', 0]\n",
        )
        save_text(tmp_path / "text" / "valid2.txt", "['21', 'a joke , valid', 1, 0]\n")
        save_text(tmp_path / "text" / "test2.txt", "['31', 'lovely', 0, 1]\n")
        return tmp_path

    def test_the_publishers_lists(self, raw: Path) -> None:
        index = index_of("sarcasm", raw)
        # The filter drops whole words, and in train alone; validation and test go by the annotators' label.
        assert by_id(index) == {
            "11": ("train", 1, "so much rain"),
            "12": ("train", 0, "it's dry"),
            "21": ("val", 0, "a joke , valid"),
            "31": ("test", 1, "lovely"),
        }
        assert kinds(index) == {"13": "filtered", "14": "missing"}
        assert index.num_rows == Counter(train=4, val=1, test=1)
        assert not {problem.sample_id for problem in index.faults()} & {"13"}

    def test_the_hashtag_label(self, raw: Path) -> None:
        assert {id: entry[1] for id, entry in by_id(index_of("sarcasm", raw, label="hashtag")).items()} == {
            "11": 1, "12": 0, "21": 1, "31": 0,
        }  # fmt: skip

    @pytest.mark.parametrize("word", sorted(sarcasm.FILTER_WORDS))
    def test_every_word_of_the_filter(self, raw: Path, word: str) -> None:
        save_text(raw / "text" / "train.txt", f"['11', 'so {word} it is', 1]\n['12', 'un{word} it is', 0]\n")
        assert kinds(index_of("sarcasm", raw)) == {"11": "filtered"}

    def test_lists_in_a_folder_of_their_own(self, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        lists = tmp_path_factory.mktemp("lists")
        for path in (raw / "text").iterdir():
            path.rename(lists / path.name)
        assert len(index_of("sarcasm", raw, lists).entries) == 4

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("not python", "the line is no Python list"),
            ("__import__('os')", "the line is no Python list"),
            ("['11', 'text']", "the line must be a list of id, text and 1 label"),
            ("['11', 5, 1]", "the line must be a list of id, text and 1 label"),
            ("['11', 'text', 2]", "unknown class '2'"),
            ("[" * 5000, "the line is no Python list"),
        ],
    )
    def test_bad_lines_are_listed_with_their_place(self, raw: Path, line: str, message: str) -> None:
        save_text(raw / "text" / "train.txt", f"['12', 'fine', 0]\n{line}\n")
        (problem,) = index_of("sarcasm", raw).problems
        assert (problem.sample_id, problem.kind) == ("train.txt:2", "bad row")
        assert message in problem.reason

    def test_a_line_that_is_not_utf_8(self, raw: Path) -> None:
        save_text(raw / "text" / "train.txt", b"['12', 'fine', 0]\n['11', 'b\xe4d', 0]\n")
        assert kinds(index_of("sarcasm", raw)) == {"train.txt:2": "bad row"}

    def test_an_id_listed_twice(self, raw: Path) -> None:
        save_text(raw / "text" / "train.txt", "['11', 'a', 1]\n['11', 'a', 1]\n['21', 'b', 1]\n")
        index = index_of("sarcasm", raw)
        assert [(p.sample_id, p.kind, p.is_fault) for p in index.problems] == [
            ("11", "duplicate", False),
            ("21", "conflict", True),
        ]

    def test_an_id_that_climbs_out(self, raw: Path) -> None:
        save_text(raw / "text" / "train.txt", "['../../11', 'a', 1]\n['12', 'b', 0]\n")
        (problem,) = index_of("sarcasm", raw).problems
        assert (problem.kind, problem.is_fault) == ("missing", True)
        assert "leads out of the raw folder" in problem.reason

    def test_json_lists(self, tmp_path: Path) -> None:
        for split, file in (("train", "train"), ("val", "valid"), ("test", "test")):
            save_picture(tmp_path / "images" / f"{split}.jpg")
            rows = [{"image": f"dataset_image/{split}.jpg", "text": f"{split} joke", "label": 1}, {"image": "x.jpg"}]
            save_text(tmp_path / "annotations" / f"{file}.json", json.dumps(rows))
        index = index_of("sarcasm", tmp_path)
        assert index.layout == "JSON lists"
        assert by_id(index) == {split: (split, 1, f"{split} joke") for split in ("train", "val", "test")}
        assert kinds(index) == {"train.json[1]": "bad row", "valid.json[1]": "bad row", "test.json[1]": "bad row"}

    def test_tab_separated_lists(self, tmp_path: Path) -> None:
        save_picture(tmp_path / "dataset_image" / "7.jpg")
        for name in ("train", "dev", "test"):
            save_text(
                tmp_path / f"{name}.tsv", 'Label\tImageID\tString\n1\t7\t"quoted, said he\n0\t7.jpg\tplain\n0\t7\n'
            )
        index = index_of("sarcasm", tmp_path)
        assert by_id(index)["train.tsv:2"] == ("train", 1, '"quoted, said he')
        assert by_id(index)["dev.tsv:3"] == ("val", 0, "plain")
        assert kinds(index)["test.tsv:4"] == "bad row"
        assert {entry.group for entry in index.entries} == {"7"}

    def test_nothing_known_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"there are no lists .*headacheboy.*dataset_image.*no licence.*--demo"):
            index_of("sarcasm", tmp_path)
        save_text(tmp_path / "text" / "train.txt", "[]")
        with pytest.raises(UsageError, match=r"text/valid2.txt and text/test2.txt is missing"):
            index_of("sarcasm", tmp_path)
        save_text(tmp_path / "other" / "train.json", "{")
        with pytest.raises(UsageError, match=r"train.json is not valid JSON"):
            index_of("sarcasm", tmp_path / "other")


class TestTwitter15:
    TEXT = "$T$ won  today"

    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        for name in ("a", "b", "c"):
            save_picture(tmp_path / "IJCAI2019_data" / "twitter2015_images" / f"{name}.jpg")
        folder = tmp_path / "absa_data" / "twitter2015"
        header = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String"
        save_text(folder / "train.tsv", f"{header}\n1\t0\ta.jpg\t{self.TEXT}\tRome\n2\t2\ta.jpg\t{self.TEXT}\tOslo\n")
        save_text(folder / "dev.tsv", f"{header}\n1\t1\tb.jpg\t{self.TEXT}\tOslo\n")
        # The published header of test.tsv names four columns of five.
        save_text(folder / "test.tsv", f"index\t#1 ImageID\t#2 String\t#3 String\n1\t2\ta.jpg\t{self.TEXT}\tOslo\n")
        return tmp_path

    def test_columns_are_read_by_position(self, raw: Path) -> None:
        assert by_id(index_of("twitter15", raw)) == {
            "train-1": ("train", 0, "  won  today"),
            "train-2": ("train", 2, "  won  today"),
            "dev-1".replace("dev", "val"): ("val", 1, "  won  today"),
            "test-1": ("test", 2, "  won  today"),
        }

    def test_a_picture_on_both_sides_makes_group_the_default(self, raw: Path) -> None:
        source = Twitter15(Twitter15Config())
        index = source.index(RawFolder(raw))
        assert source.rules(index).default_protocol == "group"
        index.entries = [entry for entry in index.entries if entry.split != "test"]
        assert source.rules(index).default_protocol == "holdout"

    @pytest.mark.parametrize(
        ("target", "text"), [("filled", "Rome won  today"), ("marked", "Rome won  today [SEP] Rome")]
    )
    def test_the_target_in_the_text(self, raw: Path, target: str, text: str) -> None:
        assert by_id(index_of("twitter15", raw, target=target))["train-1"][2] == text

    def test_the_txt_twins_have_four_lines_a_sample(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_picture(tmp_path / "twitter2015_images" / f"{name}.jpg")
        save_text(tmp_path / "train.txt", "$T$ won\nRome\n-1\na.jpg\n$T$ lost\nOslo\n1\nb.jpg\n")
        save_text(tmp_path / "dev.txt", "$T$ won\nRome\n0\na.jpg\n")
        save_text(tmp_path / "test.txt", "$T$ won\nRome\n2\na.jpg\n")
        index = index_of("twitter15", tmp_path, target="filled")
        assert by_id(index) == {
            "train-0": ("train", 0, "Rome won"),
            "train-1": ("train", 2, "Oslo lost"),
            "val-0": ("val", 1, "Rome won"),
        }
        assert kinds(index) == {"test.txt:1": "bad row"}
        save_text(tmp_path / "test.txt", "$T$ won\nRome\n2\n")
        with pytest.raises(UsageError, match="must have four lines a sample, got 3"):
            index_of("twitter15", tmp_path)

    def test_tab_separated_label_image_string(self, tmp_path: Path) -> None:
        save_picture(tmp_path / "images" / "9.jpg")
        for name in ("train", "valid", "test"):
            save_text(tmp_path / "annotations" / f"{name}.tsv", "Label\tImageID\tString\n2\t9\thello\n")
        index = index_of("twitter15", tmp_path)
        assert index.layout == "tab-separated Label, ImageID, String"
        assert set(by_id(index).values()) == {(split, 2, "hello") for split in ("train", "val", "test")}

    def test_bad_rows_and_missing_lists(self, raw: Path) -> None:
        path = raw / "absa_data" / "twitter2015" / "train.tsv"
        path.write_bytes(path.read_bytes() + b"3\t1\tb.jpg\tonly four\n4\t1\tb.jpg\tb\xe4d\tX\n5\t1\t\tno picture\tX\n")
        assert kinds(index_of("twitter15", raw)) == {
            "train.tsv:4": "bad row", "train.tsv:5": "bad row", "train.tsv:6": "bad row",
        }  # fmt: skip
        path.unlink()
        with pytest.raises(UsageError, match=r"there is no list for train\. .*TomBERT.*--demo"):
            index_of("twitter15", raw)


@pytest.mark.parametrize("name", ["sarcasm", "twitter15"])
def test_the_demo_is_whole_and_always_the_same(tmp_path: Path, name: str) -> None:
    source = DATASETS.get(name)(DATASETS.get(name).Config(demo=True))
    for folder in ("a", "b"):
        source.write_demo(tmp_path / folder)  # type: ignore[attr-defined]
    files = [sorted(path for path in (tmp_path / folder).rglob("*") if path.is_file()) for folder in ("a", "b")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    index = index_of(name, tmp_path / "a", demo=True)
    assert not index.problems
    assert Counter(entry.split for entry in index.entries) == index.num_rows
    assert set(index.num_rows) == {"train", "val", "test"}
