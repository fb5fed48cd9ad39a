"""The readers of the audio-video data sets, on files in every layout they know, and on the real public lists."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from places import SHARED
from raw_files import index_of, kinds, save_picture, save_text, save_wave

from mmcore.config.schema import ProtocolConfig
from mmcore.data.demo.clip_files import save_clip
from mmcore.data.media import RawFolder
from mmcore.data.prepared import raw_check
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.raw_check import examine
from mmcore.data.raw.index import Index
from mmcore.data.sources import kinetics_sounds, vggsound
from mmcore.data.sources.clips import youtube_id
from mmcore.data.spec import DATASETS
from mmcore.errors import DataError, UsageError

SPLITS = SHARED / "data" / "splits"
needs_lists = pytest.mark.skipif(not SPLITS.is_dir(), reason=f"the real lists are not in {SPLITS}")


def labels(index: Index) -> dict[str, tuple[str, int]]:
    return {entry.sample_id: (entry.split, entry.label) for entry in index.entries}


def clip_files(
    root: Path, clip: str, sounds: str = "AudioWAV", pictures: str = "Image-01-FPS", number: int = 2
) -> None:
    save_wave(root / sounds / f"{clip}.wav")
    for place in range(1, number + 1):
        save_picture(root / pictures / clip / f"{place:05d}.jpg", 50 * place)


@needs_lists
class TestRealLists:
    @pytest.mark.parametrize(("name", "counts"), [("cremad", (6698, 0, 744)), ("kinetics_sounds", (14799, 0, 2597))])
    def test_have_the_published_counts(self, name: str, counts: tuple[int, ...]) -> None:
        source = DATASETS.get(name)(DATASETS.get(name).Config())
        report = examine(source, RawFolder(SPLITS / name), with_media=False)  # type: ignore[arg-type]
        assert tuple(report["splits"][split]["usable"] for split in ("train", "val", "test")) == counts
        assert report["matches"] == "OGM-GE's lists"
        assert report["problems"] == []

    def test_cremad_by_class_and_actor(self) -> None:
        source = DATASETS.get("cremad")(DATASETS.get("cremad").Config())
        report = examine(source, RawFolder(SPLITS / "cremad"), with_media=False)  # type: ignore[arg-type]
        # Order of OGM-GE's indices: NEU, HAP, SAD, FEA, DIS, ANG.
        assert list(report["labels"]["train"].values()) == [973, 1148, 1131, 1138, 1142, 1166]
        assert list(report["labels"]["test"].values()) == [114, 123, 140, 133, 129, 105]
        assert report["groups"] == {"train": 91, "val": 0, "test": 91}
        assert len(report["shared_groups"]["train/test"]) == 91
        assert report["default_protocol"] == "group"

    def test_no_video_of_kinetics_sounds_is_on_both_sides(self) -> None:
        source = DATASETS.get("kinetics_sounds")(DATASETS.get("kinetics_sounds").Config())
        report = examine(source, RawFolder(SPLITS / "kinetics_sounds"), with_media=False)  # type: ignore[arg-type]
        assert report["shared_groups"] == {}
        assert report["default_protocol"] == "holdout"
        assert min(report["labels"]["train"].values()) > 0


class TestCremaD:
    @pytest.fixture
    def raw(self, tmp_path: Path) -> Path:
        for clip in ("1001_IEO_NEU_XX", "1001_DFA_ANG_XX", "1002_IEO_HAP_HI"):
            clip_files(tmp_path, clip)
        return tmp_path

    def test_lists_without_a_header(self, raw: Path) -> None:
        save_text(raw / "annotations" / "train.csv", "1001_IEO_NEU_XX,NEU\r\n1002_IEO_HAP_HI,HAP\r\n")
        save_text(raw / "annotations" / "test.csv", "1001_DFA_ANG_XX,ANG\r\n")
        index = index_of("cremad", raw)
        assert labels(index) == {
            "1001_IEO_NEU_XX": ("train", 0),
            "1002_IEO_HAP_HI": ("train", 1),
            "1001_DFA_ANG_XX": ("test", 5),
        }
        assert {entry.group for entry in index.entries} == {"1001", "1002"}
        entry = next(entry for entry in index.entries if entry.sample_id == "1001_DFA_ANG_XX")
        assert entry.media == {
            "audio": "AudioWAV/1001_DFA_ANG_XX.wav",
            "video": [f"Image-01-FPS/1001_DFA_ANG_XX/0000{n}.jpg" for n in (1, 2)],
        }

    def test_lists_with_a_header_and_validation(self, raw: Path, tmp_path: Path) -> None:
        rows = {"train": "1001_IEO_NEU_XX,NEU", "val": "1001_DFA_ANG_XX,ANG", "test": "1002_IEO_HAP_HI,HAP"}
        for split, row in rows.items():
            save_text(tmp_path / "lists" / f"{split}.csv", f"name,label\n{row}\n")
        index = index_of("cremad", raw, tmp_path / "lists")
        assert labels(index) == {
            "1001_IEO_NEU_XX": ("train", 0), "1001_DFA_ANG_XX": ("val", 5), "1002_IEO_HAP_HI": ("test", 1),
        }  # fmt: skip
        save_text(tmp_path / "lists" / "val.csv", "label,name\nANG,1001_DFA_ANG_XX\n")
        assert labels(index_of("cremad", raw, tmp_path / "lists")) == labels(index)

    def test_mlas_lists(self, raw: Path) -> None:
        save_text(raw / "my_train_cre.txt", "1001_IEO_NEU_XX.flv NEU\n1002_IEO_HAP_HI.flv HAP\n")
        save_text(raw / "my_test_cre.txt", "1001_DFA_ANG_XX.flv ANG\n")
        assert labels(index_of("cremad", raw))["1001_DFA_ANG_XX"] == ("test", 5)

    def test_the_publishers_table_splits_nothing(self, raw: Path) -> None:
        rows = "\n".join(f'"{n}","{clip}",1' for n, clip in enumerate(("1001_IEO_NEU_XX", "1002_IEO_HAP_HI", "odd")))
        save_text(raw / "processedResults" / "summaryTable.csv", f'"","FileName","VoiceVote"\n{rows}\n')
        index = index_of("cremad", raw)
        assert {id: label for id, (_, label) in labels(index).items()} == {"1001_IEO_NEU_XX": 0, "1002_IEO_HAP_HI": 1}
        assert not index.published
        assert kinds(index) == {"summaryTable.csv:4": "bad row"}

    def test_frames_from_the_publishers_videos(self, tmp_path: Path) -> None:
        save_wave(tmp_path / "AudioWAV" / "1001_IEO_NEU_XX.wav")
        frames = [np.full((16, 16, 3), value, dtype=np.uint8) for value in (60, 160)]
        save_clip(tmp_path / "VideoFlash" / "1001_IEO_NEU_XX.flv", frames)
        for split in ("train", "test"):
            save_text(tmp_path / f"{split}.csv", "1001_IEO_NEU_XX,NEU\n")
        index = index_of("cremad", tmp_path)
        assert index.entries[0].media["video"] == "VideoFlash/1001_IEO_NEU_XX.flv"
        assert kinds(index) == {"1001_IEO_NEU_XX": "conflict"}

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1001_IEO_NEU_XX,HAP", "is listed as HAP, its name says NEU"),
            ("1001_IEO_NEU_XX,NUE", "unknown class 'NUE': did you mean 'NEU'"),
            ("clip7,NEU", "'clip7' is no clip: its name must be actor_sentence_emotion_level"),
            ("1001_IEO_NEU_XX", "1 fields, not 2"),
            ("1001_../../x_NEU_XX,NEU", "leads out of the raw folder"),
        ],
    )
    def test_bad_rows(self, raw: Path, row: str, message: str) -> None:
        save_text(raw / "train.csv", f"1002_IEO_HAP_HI,HAP\n{row}\n")
        save_text(raw / "test.csv", "1001_DFA_ANG_XX,ANG\n")
        (problem,) = index_of("cremad", raw).problems
        assert (problem.sample_id, problem.kind) == ("train.csv:2", "bad row")
        assert message in problem.reason

    def test_what_is_missing_is_named(self, raw: Path) -> None:
        save_text(raw / "train.csv", "1003_IEO_NEU_XX,NEU\n1001_IEO_NEU_XX,NEU\n1002_IEO_HAP_HI,HAP\n")
        save_text(raw / "test.csv", "1001_DFA_ANG_XX,ANG\n")
        (raw / "Image-01-FPS" / "1002_IEO_HAP_HI" / "00001.jpg").unlink()
        (raw / "Image-01-FPS" / "1002_IEO_HAP_HI" / "00002.jpg").rename(raw / "Image-01-FPS" / "1002_IEO_HAP_HI" / "x")
        index = index_of("cremad", raw)
        assert {problem.sample_id: problem.reason for problem in index.problems} == {
            "1003_IEO_NEU_XX": "audio: AudioWAV/1003_IEO_NEU_XX.wav is not there; "
            "video: Image-01-FPS/1003_IEO_NEU_XX/*.jpg is not there",
            "1002_IEO_HAP_HI": "video: Image-01-FPS/1002_IEO_HAP_HI/*.jpg is not there",
        }
        (raw / "test.csv").unlink()
        with pytest.raises(UsageError, match=r"cremad: there is no test list beside .*train.csv"):
            index_of("cremad", raw)
        (raw / "train.csv").unlink()
        with pytest.raises(UsageError, match=r"there are no lists in .*crema-d-mirror.*Open Database License.*--demo"):
            index_of("cremad", raw)

    def test_protocols_of_the_demo(self, tmp_path: Path) -> None:
        source = DATASETS.get("cremad")(DATASETS.get("cremad").Config(demo=True))
        source.write_demo(tmp_path / "raw")  # type: ignore[attr-defined]
        prepared = prepare("cremad", {"demo": True}, tmp_path / "raw", tmp_path / "data")
        assert prepared.constructed
        assert prepared.default_protocol == "group"
        groups = prepared.index["group"].to_numpy()
        for protocol in ("group", "holdout", "paper"):
            assignment = prepared.assign(ProtocolConfig.model_validate({"name": protocol}))
            parts = [set(groups[assignment.rows(split)]) for split in ("train", "val", "test")]
            assert (not (parts[0] & parts[2])) == (protocol == "group")
        assert [len(part) for part in map(set, (groups,))] == [10]


class TestKineticsSounds:
    def files(self, root: Path, split: str, clip: str) -> None:
        clip_files(root, clip, f"{split}_wav", f"{split}_img/Image-01-FPS", number=4)

    def test_ogm_ges_lists(self, tmp_path: Path) -> None:
        self.files(tmp_path, "train", "--4-0ihtnBU_000058_000068")
        self.files(tmp_path, "test", "-3Mwkq-7TV4_2")
        save_text(tmp_path / "my_train.txt", "--4-0ihtnBU_000058_000068,10,4\r\n")
        save_text(tmp_path / "my_test.txt", "-3Mwkq-7TV4_2,10,23\r\n")
        index = index_of("kinetics_sounds", tmp_path)
        assert labels(index) == {"--4-0ihtnBU_000058_000068": ("train", 4), "-3Mwkq-7TV4_2": ("test", 23)}
        assert sorted(entry.group for entry in index.entries) == ["--4-0ihtnBU", "-3Mwkq-7TV4"]
        assert kinetics_sounds.CLASSES[4] == "dribbling_basketball"
        assert kinetics_sounds.CLASSES[23] == "shoveling_snow"
        assert len(kinetics_sounds.CLASSES) == 31

    def test_csv_lists_by_name_or_index(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            self.files(tmp_path, split, f"{split}a")
            self.files(tmp_path, split, f"{split}b")
            save_text(
                tmp_path / "annotations" / f"{split}.csv",
                f"label,youtube_id\nplaying drums,{split}a\n30,{split}b\nplaying_drum,{split}c\n",
            )
        index = index_of("kinetics_sounds", tmp_path)
        assert labels(index) == {
            "traina": ("train", 11), "trainb": ("train", 30), "testa": ("test", 11), "testb": ("test", 30),
        }  # fmt: skip
        assert kinds(index) == {"train.csv:4": "bad row", "test.csv:4": "bad row"}

    def test_bmls_list_and_whole_clips(self, tmp_path: Path) -> None:
        for clip in ("a", "b", "c"):
            save_clip(
                tmp_path / "video" / f"{clip}.mp4", [np.zeros((16, 16, 3), dtype=np.uint8)], np.ones(4000, np.int16)
            )
        database = {
            "a": {"subset": "training", "annotations": {"label": "tap dancing"}},
            "b": {"subset": "validation", "label": "tickling"},
            "c": {"subset": "testing", "annotations": {"label": "singing"}},
            "d": {"subset": "other", "annotations": {"label": "singing"}},
        }
        save_text(tmp_path / "KS_train_val.json", json.dumps({"labels": [], "database": database}))
        index = index_of("kinetics_sounds", tmp_path)
        assert labels(index) == {"a": ("train", 27), "b": ("val", 30), "c": ("test", 25)}
        assert index.entries[0].media["audio"] == index.entries[0].media["video"]
        assert kinds(index) == {"d": "bad row"}
        save_text(tmp_path / "KS_train_val.json", "[]")
        with pytest.raises(UsageError, match="must be a JSON file with 'labels' and 'database'"):
            index_of("kinetics_sounds", tmp_path)

    def test_no_lists(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"there are no lists .*cvdfoundation.*--split-dir.*--demo"):
            index_of("kinetics_sounds", tmp_path)
        save_text(tmp_path / "my_test.txt", "x,10,1\n")
        with pytest.raises(UsageError, match=r"there is no train list beside .*my_test.txt"):
            index_of("kinetics_sounds", tmp_path)


class TestVGGSound:
    def test_309_classes_in_a_frozen_order(self) -> None:
        classes = vggsound.VGGSound.classes
        assert len(set(classes)) == 309
        assert list(classes) == sorted(classes)
        assert "vehicle horn, car horn, honking" in classes

    def test_the_publishers_list(self, tmp_path: Path) -> None:
        black = [np.zeros((16, 16, 3), dtype=np.uint8)]
        for clip in ("---g-f_I2yQ_000001", "--0PQM4-hqg_000030"):
            save_clip(tmp_path / "video" / f"{clip}.mp4", black, np.ones(4000, np.int16))
        save_text(
            tmp_path / "vggsound.csv",
            '---g-f_I2yQ,1,people marching,test\n--0PQM4-hqg,30,"race car, auto racing",train\n'
            "xxxxxxxxxxx,30,race car,train\nxxxxxxxxxxx,30,hail,validation\nxxxxxxxxxxx,half,hail,train\n",
        )
        index = index_of("vggsound", tmp_path)
        classes = vggsound.VGGSound.classes
        assert {id: (split, classes[label]) for id, (split, label) in labels(index).items()} == {
            "---g-f_I2yQ_000001": ("test", "people marching"),
            "--0PQM4-hqg_000030": ("train", "race car, auto racing"),
        }
        assert {entry.group for entry in index.entries} == {"---g-f_I2yQ", "--0PQM4-hqg"}
        assert kinds(index) == dict.fromkeys([f"vggsound.csv:{n}" for n in (3, 4, 5)], "bad row")

    def test_lists_of_files(self, tmp_path: Path) -> None:
        clip_files(tmp_path, "--0PQM4-hqg_000030", "audio")
        clip_files(tmp_path, "-0XU7fjlk0I_000010", "audio")
        save_text(tmp_path / "train.csv", '--0PQM4-hqg_000030.mp4,"bee, wasp, etc. buzzing"\n')
        save_text(tmp_path / "test.csv", "-0XU7fjlk0I_000010.mp4,hail\n")
        index = index_of("vggsound", tmp_path)
        assert Counter(split for split, _ in labels(index).values()) == {"train": 1, "test": 1}
        (tmp_path / "train.csv").unlink()
        with pytest.raises(UsageError, match=r"vggsound: there is no train list beside .*test.csv\. The lists"):
            index_of("vggsound", tmp_path)
        (tmp_path / "test.csv").unlink()
        with pytest.raises(UsageError, match=r"there are no lists .*hche11/VGGSound.*CC BY 4.0.*--demo"):
            index_of("vggsound", tmp_path)

    @pytest.mark.parametrize(
        ("counts", "matches"),
        [
            ((183971, 15496), "the publishers' vggsound.csv"),
            ((100, 15446), "the publishers' test list"),
            ((183730, 15446), "the publishers' train and test list"),
            ((183970, 15496), None),
        ],
    )
    def test_the_publishers_counts_are_recognised(self, counts: tuple[int, int], matches: str | None) -> None:
        by_split = {split: {"usable": n, "listed": n} for split, n in zip(("train", "test"), counts, strict=True)}
        by_split["val"] = {"usable": 0, "listed": 0}
        assert raw_check._matches(vggsound.VGGSound.expected, by_split) == matches

    @pytest.mark.parametrize(
        ("name", "train"),
        [
            ("train.csv", '--0PQM4-hqg_000030.mp4,"bee, wasp, etc. buzzing"\n'),
            ("vggsound_train.csv", '--0PQM4-hqg,30,"bee, wasp, etc. buzzing",train\n'),
            ("vgg_train.csv", 'youtube_id,start,label\n--0PQM4-hqg,30,"bee, wasp, etc. buzzing"\n'),
        ],
    )
    def test_a_train_list_beside_the_test_list(self, tmp_path: Path, name: str, train: str) -> None:
        save_text(tmp_path / "data" / "test.csv", "-0XU7fjlk0I_000010.mp4,hail\n")
        save_text(tmp_path / name, train)
        source = DATASETS.get("vggsound")(DATASETS.get("vggsound").Config())
        index = source.read_index(RawFolder(tmp_path))  # type: ignore[attr-defined]
        assert index.layout == f"{name} and test.csv"
        assert labels(index) == {
            "--0PQM4-hqg_000030": ("train", source.classes.index("bee, wasp, etc. buzzing")),  # type: ignore[attr-defined]
            "-0XU7fjlk0I_000010": ("test", source.classes.index("hail")),  # type: ignore[attr-defined]
        }


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("vggsound", "test.csv", "-0XU7fjlk0I_000010.mp4,hail\n"),
        ("kinetics_sounds", "my_test.txt", "-0XU7fjlk0I_000010_000020,10,1\n"),
        ("cremad", "test.csv", "1001_DFA_ANG_XX,ANG\n"),
    ],
)
def test_a_test_list_alone_can_be_checked(tmp_path: Path, name: str, file: str, line: str) -> None:
    save_text(tmp_path / file, line)
    source = DATASETS.get(name)(DATASETS.get(name).Config())
    report = examine(source, RawFolder(tmp_path), with_media=False)  # type: ignore[arg-type]
    assert report["absent"] == {"train": f"there is no train list beside {tmp_path / file}"}
    assert report["splits"]["test"] == {"listed": 1, "usable": 1, "found": None}
    assert (report["split"], report["num_faults"]) == (None, 0)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [("--4-0ihtnBU_000058_000068", "--4-0ihtnBU"), ("-3Mwkq-7TV4_2", "-3Mwkq-7TV4"), ("a_b", "a_b"),
     ("abcdefghijk", "abcdefghijk"), ("abcdefghijkl_3", "abcdefghijkl_3")],
)  # fmt: skip
def test_the_youtube_id_of_a_clip(clip: str, expected: str) -> None:
    assert youtube_id(clip) == expected


def test_a_zero_length_sound_and_a_silent_file_are_reported_apart(tmp_path: Path) -> None:
    for clip in ("1001_IEO_NEU_XX", "1001_DFA_ANG_XX", "1002_IEO_HAP_HI"):
        clip_files(tmp_path, clip)
    save_text(tmp_path / "train.csv", "1001_IEO_NEU_XX,NEU\n1002_IEO_HAP_HI,HAP\n")
    save_text(tmp_path / "test.csv", "1001_DFA_ANG_XX,ANG\n")
    save_text(tmp_path / "AudioWAV" / "1001_IEO_NEU_XX.wav", "")
    save_wave(tmp_path / "AudioWAV" / "1002_IEO_HAP_HI.wav", seconds=0.0)
    source = DATASETS.get("cremad")(DATASETS.get("cremad").Config(image_size=8))
    report = examine(source, RawFolder(tmp_path))  # type: ignore[arg-type]
    faults = {p["sample_id"]: (p["kind"], p["reason"].rpartition("/")[2]) for p in report["problems"]}
    assert faults["1001_IEO_NEU_XX"] == ("missing", "1001_IEO_NEU_XX.wav is empty")
    assert faults["1002_IEO_HAP_HI"] == ("damaged", "1002_IEO_HAP_HI.wav holds no audio")
    assert report["num_faults"] == 2
    assert report["splits"]["train"] == {"listed": 2, "usable": 2, "found": 0}
    assert report["lengths"] == {"audio": {"1001_DFA_ANG_XX": 2205}, "video": {"1001_DFA_ANG_XX": 2}}
    with pytest.raises(DataError, match=r"cremad: 1 of 3 samples can not be used \(1 missing\)"):
        prepare("cremad", {"image_size": 8}, tmp_path, tmp_path / "data")
