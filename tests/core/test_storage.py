from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import pytest
import torch

from mmcore.assembly.config import parse_config
from mmcore.storage import WAITS_S, patiently
from mmcore.training import checkpoint
from mmcore.training.checkpoint import load_checkpoint, save_checkpoint
from mmcore.training.run_log import RunLog, read_rows


class Storage:
    """Stands before a function and lets it fail some times; keeps what was waited instead of waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str):
        self.failures, self.number, self.waited = 0, errno.ENOSPC, []
        self._real = getattr(owner, name)
        monkeypatch.setattr(owner, name, self)
        monkeypatch.setattr(time, "sleep", self.waited.append)

    def __call__(self, *arguments: object, **options: object) -> object:
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, "storage")
        return self._real(*arguments, **options)


def test_a_checkpoint_waits_for_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(monkeypatch, checkpoint.os, "fsync")
    storage.failures = 3
    save_checkpoint(tmp_path / "epoch-000001", {"epoch": 1, "step": 5, "weights": torch.ones(3)})
    assert storage.waited == list(WAITS_S[:3])
    assert load_checkpoint(tmp_path / "epoch-000001")["step"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000001"]


def test_patience_ends_after_minutes_and_the_checkpoint_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "epoch-000001", {"epoch": 1, "step": 5})
    storage = Storage(monkeypatch, checkpoint.os, "fsync")
    storage.failures = 1000
    with pytest.raises(OSError, match="storage"):
        save_checkpoint(tmp_path / "epoch-000002", {"epoch": 2, "step": 10})
    assert storage.waited == list(WAITS_S)
    assert 180 <= sum(WAITS_S) <= 300
    assert load_checkpoint(tmp_path / "epoch-000001")["epoch"] == 1


def test_other_errors_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(PermissionError):
        patiently(refused)


def test_a_full_disk_is_the_systems_error_and_not_one_of_the_serialiser() -> None:
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left") as caught:
        torch.save({"weights": torch.zeros(10**6)}, file)
    assert caught.value.errno == errno.ENOSPC


def test_a_row_is_written_once_however_often_the_disk_was_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config({"dataset": {"name": "digits"}, "method": {"name": "joint"}})
    log = RunLog(tmp_path, config, "val/fused/accuracy")
    log.write({"epoch": 1.0, "val/fused/accuracy": 0.5})
    storage = Storage(monkeypatch, json, "dumps")
    real_open = Path.open
    halves = iter([True, True, False])

    def half(self: Path, *arguments: object, **options: object) -> object:
        """Writes a part of the row, then finds the disk full."""
        if self.name == "metrics.jsonl" and arguments == ("a",) and next(halves, False):
            with real_open(self, "a") as file:
                file.write('{"epoch": 2.0, "val')
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", half)
    log.write({"epoch": 2.0, "val/fused/accuracy": 0.6})
    log.close()
    assert storage.waited == list(WAITS_S[:2])
    assert [row["epoch"] for row in read_rows(tmp_path)] == [1.0, 2.0]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
