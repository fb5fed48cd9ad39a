from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from places import ROOT
from raw_files import index_of, kinds, save_picture, save_text, save_wave
from torch import Tensor

from mmcore.assembly.config import build_source, complete_config, parse_config, with_named_encoders, with_values
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.config.schema import ProtocolConfig
from mmcore.data.demo.clip_files import save_clip
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS
from mmcore.encoders import build_encoder
from mmcore.errors import UsageError
from mmcore.training.trainer import Trainer

CLIPS = ("Ses01F_impro01_F000", "Ses02M_script01_1_M003", "Ses05M_impro02_F010")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for clip in CLIPS:
        save_clip(tmp_path / "video" / f"{clip}.mp4", [np.zeros((16, 16, 3), np.uint8)], np.ones(4000, np.int16))
    save_text(
        tmp_path / "my_train_iemo.txt",
        f"{CLIPS[0]}.mp4 [split|sign] Well, it's [pause] fine. [split|sign] Neutral\n"
        f"{CLIPS[1]}.mp4 [split|sign] No! [split|sign] Angry\n",
    )
    save_text(tmp_path / "my_test_iemo.txt", f"{CLIPS[2]}.mp4 [split|sign] Great. [split|sign] Happy\n")
    return tmp_path


def test_mlas_lists(raw: Path) -> None:
    index = index_of("iemocap", raw)
    assert {e.sample_id: (e.split, e.label, e.group, e.media["text"]) for e in index.entries} == {
        CLIPS[0]: ("train", 2, "session 01", "Well, it's [pause] fine."),
        CLIPS[1]: ("train", 0, "session 02", "No!"),
        CLIPS[2]: ("test", 1, "session 05", "Great."),
    }
    assert {entry.media["audio"] for entry in index.entries} == {f"video/{clip}.mp4" for clip in CLIPS}


def test_sound_and_faces_of_their_own(raw: Path) -> None:
    for clip in CLIPS:
        save_wave(raw / "audio" / f"{clip}.wav")
        for number in range(3):
            save_picture(raw / "face" / clip / f"{number}.jpg")
    entry = next(entry for entry in index_of("iemocap", raw).entries if entry.sample_id == CLIPS[0])
    assert entry.media["audio"] == f"audio/{CLIPS[0]}.wav"
    assert entry.media["video"] == [f"face/{CLIPS[0]}/{number}.jpg" for number in range(3)]
    source = DATASETS.get("iemocap")(DATASETS.get("iemocap").Config())
    assert list(source.media()[1].files(entry.media["video"])) == [f"face/{CLIPS[0]}/1.jpg"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{CLIPS[0]}.mp4 [split|sign] Neutral", "2 fields, not 3"),
        (f"{CLIPS[0]}.mp4 [split|sign] a [split|sign] Excited", "unknown class 'excited'"),
        ("clip.mp4 [split|sign] a [split|sign] Sad", "'clip.mp4' is no clip: its name must begin with the session"),
        ("Ses01F_/../../x.mp4 [split|sign] a [split|sign] Sad", "leads out of the raw folder"),
    ],
)
def test_bad_rows(raw: Path, row: str, message: str) -> None:
    save_text(raw / "my_train_iemo.txt", f"{CLIPS[1]}.mp4 [split|sign] No! [split|sign] Angry\n{row}\n")
    index = index_of("iemocap", raw)
    assert kinds(index) == {"my_train_iemo.txt:2": "bad row"}
    assert message in index.problems[0].reason


def test_no_lists(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"my_train_iemo.txt and my_test_iemo.txt is not in .*sail.usc.edu.*--demo"):
        index_of("iemocap", tmp_path)


def test_the_papers_encoders_as_the_card_names_them() -> None:
    card = (ROOT / "docs" / "datasets.md").read_text().partition("## iemocap")[2]
    found = re.findall(r"--set (\S+?)=(\S+)", card.partition("## ")[0])
    values = {path: yaml.safe_load(value) for path, value in found}
    config = parse_config({"dataset": {"name": "iemocap"}, "method": {"name": "iprm"}})
    config = complete_config(parse_config(with_named_encoders(with_values(config, values).to_dict())))
    encoders = config.model.encoders
    assert {name: section["name"] for name, section in encoders.items()} == {
        "audio": "cav_mae", "video": "m3ae", "text": "m3ae",
    }  # fmt: skip
    spec = build_source(config).spec()
    for modality in spec.modalities:
        where = "YuanGongND/cav-mae" if modality.name == "audio" else "state_from_flax"
        with pytest.raises(UsageError, match=rf"there is no '/PATH/\S+' here\. .*{where}"):
            build_encoder(encoders[modality.name], modality)
    transforms = build_run_transforms(config, spec)
    assert isinstance(transforms.transforms["audio"].filters, Tensor)
    sound = transforms.transforms["audio"](torch.zeros(1, spec.modalities[0].shape[0]), None, None)[0]
    with torch.device("meta"):
        network = build_encoder({"name": "cav_mae"}, spec.modalities[0])
    assert sound.shape[-2:] == (128, 1024)  # 8 rows of patches, 64 columns
    assert network(sound.to("meta")).shape == (1, 768)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("iemocap")
    source = DATASETS.get("iemocap")(DATASETS.get("iemocap").Config(demo=True))
    source.write_demo(folder / "raw")  # type: ignore[attr-defined]
    return prepare("iemocap", {"demo": True}, folder / "raw", folder / "data")


def test_the_demo_holds_out_whole_sessions(demo: PreparedDataset) -> None:
    assert demo.spec.modality_names == ("audio", "video", "text")
    assert demo.default_protocol == "group"
    assignment = demo.assign(ProtocolConfig())
    groups = demo.index["group"].to_numpy()
    assert [len(set(groups[assignment.rows(split)])) for split in ("train", "val", "test")] == [3, 1, 1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_demo_trains_with_the_papers_encoders(demo: PreparedDataset, precision: str) -> None:
    names = {"audio": "cav_mae", "video": "m3ae", "text": "m3ae"}
    config = complete_config(
        parse_config(
            {
                "dataset": {"name": "iemocap", "options": {"demo": True}},
                "method": {"name": "iprm"},
                "model": {"encoders": {key: {"name": name, "size": "tiny"} for key, name in names.items()}},
                "optimizer": {"name": "adam", "lr": 0.001},
                "trainer": {"device": "cpu", "max_epochs": 4, "batch_size": 16, "precision": precision},
            }
        )
    )
    loader = TensorLoader.from_prepared(demo, demo.assign(config.protocol), 16)
    transforms = build_run_transforms(config, demo.spec)
    trainer = Trainer(config, build_method(config, demo.spec), loader, transforms, "cpu")
    trainer.fit()
    losses = [row["train/total/loss"] for row in trainer.reporter.rows]  # type: ignore[attr-defined]
    assert losses[-1] < 0.9 * losses[0]
    assert trainer.progress.last_row["val/text/accuracy"] > 0.5  # of four classes; the words tell nearly all
