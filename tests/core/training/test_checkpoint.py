"""Checkpoints: whole or not at all, and every kind of damage named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from synthetic import make_config, make_spec, make_trainer

from mmcore.assembly.config import with_values
from mmcore.errors import CheckpointError
from mmcore.training import checkpoint
from mmcore.training.checkpoint import CheckpointFolder, is_valid, load_checkpoint, save_checkpoint
from mmcore.training.trainer import check_same_config


def state_of(epoch: int, step: int | None = None, **values: object) -> dict[str, object]:
    state = {"epoch": epoch, "step": 5 * epoch if step is None else step, "mid_epoch": step is not None}
    return {**state, "method": {"weight": torch.arange(6.0) + epoch}, **values}


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoints" / "epoch-000003"
    save_checkpoint(directory, state_of(3))
    return directory


def test_what_was_saved_comes_back_and_weights_only_loading_takes_it(written: Path) -> None:
    state = load_checkpoint(written)
    assert state == {**state_of(3), "method": state["method"], "format_version": 1}
    assert torch.equal(state["method"]["weight"], torch.arange(6.0) + 3)
    manifest = json.loads((written / "manifest.json").read_text())
    assert (manifest["epoch"], manifest["step"], manifest["format_version"]) == (3, 15, 1)
    assert manifest["bytes"] == (written / "checkpoint.pt").stat().st_size


def truncate(directory: Path) -> None:
    path = directory / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])


def change_a_byte(directory: Path) -> None:
    path = directory / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite_manifest(directory: Path, text: str | None = None, **values: object) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}) if text is None else text)


DAMAGE = {
    "truncated": (truncate, r"100 bytes instead of \d+ \(truncated\)"),
    "changed": (change_a_byte, r"the checksum of checkpoint.pt does not agree \(damaged\)"),
    "no weights": (lambda d: (d / "checkpoint.pt").unlink(), "checkpoint.pt is missing"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "manifest.json is missing"),
    "half a manifest": (lambda d: rewrite_manifest(d, '{"format_version": 1, "byt'), "manifest.json is damaged"),
    "no text": (lambda d: (d / "manifest.json").write_bytes(b"\xff\x00\x81"), "manifest.json is damaged"),
    "other JSON": (lambda d: rewrite_manifest(d, "[1, 2]"), "manifest.json is damaged"),
    "a key less": (lambda d: rewrite_manifest(d, '{"format_version": 1}'), "manifest.json is damaged"),
    "other version": (lambda d: rewrite_manifest(d, format_version=2), "has format version 2, this release reads 1: "),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, written: Path) -> None:
    damage, message = DAMAGE[kind]
    assert is_valid(written)
    damage(written)
    assert not is_valid(written)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(written)
    assert str(written) in str(caught.value)


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"epoch-000001: manifest\.json is missing"):
        load_checkpoint(tmp_path / "epoch-000001")


def test_the_newest_valid_resume_point_is_found_and_the_others_named(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    assert folder.newest_resume_point() == (None, [])
    for epoch in (1, 2, 3):
        folder.save(state_of(epoch))
    assert folder.newest_resume_point()[0]["epoch"] == 3
    change_a_byte(tmp_path / "epoch-000003")
    truncate(tmp_path / "epoch-000002")
    state, refused = folder.newest_resume_point()
    assert state["epoch"] == 1
    assert ["epoch-000003" in refused[0], "epoch-000002" in refused[1]] == [True, True]
    truncate(tmp_path / "epoch-000001")
    assert folder.newest_resume_point()[0] is None


def test_a_damaged_one_is_written_anew_and_a_valid_one_left(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(state_of(1))
    first = (tmp_path / "epoch-000001" / "checkpoint.pt").stat().st_mtime_ns
    folder.save(state_of(1))
    assert (tmp_path / "epoch-000001" / "checkpoint.pt").stat().st_mtime_ns == first
    truncate(tmp_path / "epoch-000001")
    folder.save(state_of(1))
    assert is_valid(tmp_path / "epoch-000001")


def test_the_newest_are_kept_and_the_best_survives(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save_best(state_of(1))
    for epoch in range(1, 6):
        folder.save(state_of(epoch))
    assert names(folder) == ["best-000001", "epoch-000004", "epoch-000005"]
    folder.save_best(state_of(5))
    assert names(folder) == ["best-000005", "epoch-000004", "epoch-000005"]
    assert folder.best()["epoch"] == 5


def test_a_point_inside_an_epoch_lies_between_two_epochs(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(state_of(9))
    folder.save(state_of(9, step=48))
    assert folder.newest_resume_point()[0]["step"] == 48
    folder.save(state_of(9, step=100))
    assert folder.newest_resume_point()[0]["step"] == 100
    folder.save(state_of(10))
    assert folder.newest_resume_point()[0]["epoch"] == 10
    assert names(folder) == ["epoch-000009-step-000000100", "epoch-000010"]


def test_no_best_model_is_an_error_with_a_reason(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(CheckpointError, match="holds no best model"):
        folder.best()
    folder.save_best(state_of(1))
    truncate(tmp_path / "best-000001")
    with pytest.raises(CheckpointError, match="truncated"):
        folder.best()


@pytest.mark.parametrize("killed_in", ["sha256", "_replace_directory"])
def test_a_kill_while_writing_leaves_the_last_one_and_no_litter(killed_in: str, tmp_path: Path, monkeypatch) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(state_of(1))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(checkpoint, killed_in, die)
        context.setattr(checkpoint.os, "getpid", lambda: 4242)
        with pytest.raises(KeyboardInterrupt):
            folder.save(state_of(2))
    assert len(names(folder)) == 2  # the half one lies there under its temporary name
    assert folder.newest_resume_point()[0]["epoch"] == 1
    folder.save(state_of(2))
    assert folder.newest_resume_point()[0]["epoch"] == 2
    assert names(folder) == ["epoch-000001", "epoch-000002"]


def test_a_checkpoint_of_another_configuration_is_refused_with_its_keys(tmp_path: Path) -> None:
    spec = make_spec(2)
    config = make_config("aug", spec, trainer__max_epochs=1)
    make_trainer(config, spec, tmp_path).fit()
    other = with_values(
        config, {"optimizer.lr": 0.5, "method.tau": 0.2, "method.fusion_weights": {"loud": 1, "quiet": 2}}
    )
    with pytest.raises(CheckpointError) as caught:
        make_trainer(other, spec, tmp_path).fit()
    message = str(caught.value)
    assert "optimizer.lr = 0.02 there, 0.5 here" in message
    assert "method.tau = 0.01 there, 0.2 here" in message
    assert "method.fusion_weights.quiet = None there, 2.0 here" in message
    assert "trainer" not in message
    check_same_config(config.to_dict(), config)
