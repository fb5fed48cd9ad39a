"""Storage that is really full, read-only or away: each part runs where it can mount a small disk of its own."""

from __future__ import annotations

import errno
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_disk import BLOCK, SmallDisk, on_small_disks
from synthetic import make_config, make_spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmcore.errors import EquipoiseError
from mmcore.storage import (
    WAITS_S,
    append_whole,
    patiently,
    read_json_lines,
    storage_fault,
    whole_file,
    write_whole,
)
from mmcore.training.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint
from mmcore.training.run_log import RunLog, read_rows

MIB = 2**20


def state(epoch: int, size: int = MIB) -> dict[str, object]:
    return {"epoch": epoch, "step": epoch, "mid_epoch": False, "weights": torch.full((size // 4,), float(epoch))}


class Waits:
    """Takes the place of `time.sleep`: keeps what was waited, and mends the storage after some waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.waited: list[float] = []
        self.mend = lambda: None
        self.after = 1
        monkeypatch.setattr(time, "sleep", self)

    def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)
        if len(self.waited) == self.after:
            self.mend()


def mended_later(mend, action) -> float:
    """Does `action` while another thread mends the storage in half a second; returns how long it took."""
    begun = time.monotonic()
    timer = threading.Timer(0.5, mend)
    timer.start()
    action()
    timer.join()
    return time.monotonic() - begun


def a_checkpoint_on_disks_that_come_back(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 5 * MIB)
    run_dir = disk.path / "run"
    run_dir.mkdir()
    checkpoints = CheckpointFolder(run_dir / "checkpoints")
    checkpoints.save(state(1))
    for epoch, (spoil, mend) in enumerate(
        [
            (lambda: disk.fill(leave=MIB // 2), disk.free),
            (disk.fill, disk.free),
            (disk.make_read_only, disk.make_writable),
            (disk.take_away, disk.bring_back),
        ],
        start=2,
    ):
        spoil()
        took = mended_later(mend, lambda epoch=epoch: checkpoints.save(state(epoch)))
        assert 1 <= took < 10, took
        assert torch.equal(
            load_checkpoint(run_dir / f"checkpoints/epoch-{epoch:06d}")["weights"], state(epoch)["weights"]
        )
        names = sorted(path.name for path in checkpoints.path.iterdir())
        assert names == [f"epoch-{epoch - 1:06d}", f"epoch-{epoch:06d}"]
    disk.take_away()
    assert list(disk.path.iterdir()) == []  # nothing was written to the disk beneath
    disk.bring_back()


def test_a_checkpoint_waits_for_storage_and_says_so(tmp_path: Path) -> None:
    said = on_small_disks(a_checkpoint_on_disks_that_come_back, tmp_path)
    for name in ("full", "read-only", "away"):
        assert f"storage is {name} (" in said
    assert "trying again in 1 s, for 4 minutes in all" in said
    assert said.count("written after") == 4
    assert "epoch-000002" in said


def disks_that_do_not_come_back(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        waits = Waits(monkeypatch)
        disk = SmallDisk(folder / "disk", 4 * MIB)
        save_checkpoint(disk.path / "epoch-000001", state(1))
        disk.fill(leave=MIB // 2)
        before = shutil.disk_usage(disk.path).free
        with pytest.raises(OSError, match="No space") as caught:
            save_checkpoint(disk.path / "epoch-000002", state(2))
        assert caught.value.errno == errno.ENOSPC
        assert waits.waited == list(WAITS_S)
        assert shutil.disk_usage(disk.path).free == before  # the half one takes no room
        assert load_checkpoint(disk.path / "epoch-000001")["epoch"] == 1
        for number, write in {
            errno.EIO: lambda: torch.save(state(2), disk.path / "by-torch.pt"),  # a RuntimeError of its own
            errno.ENOSPC: lambda: zipped(disk.path / "by-zipfile.npz"),
        }.items():
            waits.waited.clear()
            with pytest.raises(OSError, match=r"No space|a part of a file") as caught:
                patiently(write, disk.path / "mine")
            assert caught.value.errno == number
            assert str(disk.path) in str(caught.value), "which disk is not said"
            assert waits.waited == list(WAITS_S)
            for path in disk.path.glob("by-*"):
                path.unlink()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("content", "w") as file:
        file.write(np.random.default_rng(0).bytes(MIB))


def test_patience_ends_after_minutes_with_a_number_and_what_was_there_stays(tmp_path: Path) -> None:
    assert 180 <= sum(WAITS_S) <= 300
    on_small_disks(disks_that_do_not_come_back, tmp_path)


def rows_and_lines_on_a_full_disk(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        waits = Waits(monkeypatch)
        disk = SmallDisk(folder / "disk", MIB)
        waits.mend = disk.free
        log = RunLog(disk.path, make_config("aug", make_spec(2)), "val/fused/accuracy")
        rows = [{"epoch": epoch} | {f"train/term-{n}/loss": epoch / (n + 1) for n in range(300)} for epoch in (1, 2, 3)]
        log.write(rows[0])
        for row, leave in ((rows[1], 2 * BLOCK), (rows[2], 0)):  # a part of a line, and nothing of it
            waits.waited.clear()
            disk.fill(leave)
            log.write(row)
            assert waits.waited, "the disk was not full"
        log.close()
        assert read_rows(disk.path) == rows
        assert len((disk.path / "metrics.jsonl").read_bytes().splitlines()) == 3
        events = EventAccumulator(str(disk.path)).Reload()
        assert [event.step for event in events.Scalars("loss/train_term-299")] == [1, 2, 3]
        for write in (
            lambda: append_whole(disk.path / "ledger.jsonl", b'{"reading": "%s"}\n' % (b"x" * 3 * BLOCK), lines=True),
            lambda: write_whole(disk.path / "result.json", b"{}" + b" " * 3 * BLOCK),
            lambda: write_whole(disk.path / "config.json", b"{}" + b" " * 3 * BLOCK, synced=True),
        ):
            waits.waited.clear()
            disk.fill(leave=BLOCK)
            write()
            assert waits.waited
        assert len(read_json_lines(disk.path / "ledger.jsonl")[0]) == 1
        assert json.loads((disk.path / "result.json").read_bytes()) == {}
        assert [path.name for path in disk.path.iterdir() if path.name.startswith(".")] == []


def test_rows_events_lines_and_files_are_written_once_however_often_the_disk_was_full(tmp_path: Path) -> None:
    on_small_disks(rows_and_lines_on_a_full_disk, tmp_path)


def test_other_errors_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(PermissionError):
        patiently(refused)
    with pytest.raises(RuntimeError, match="size of tensor"):
        patiently(lambda: torch.zeros(2) + torch.zeros(3))


def test_a_fault_of_storage_is_found_behind_other_errors_unless_they_say_otherwise() -> None:
    full = OSError(errno.ENOSPC, "full")

    def behind(outer: BaseException, *, hidden: bool) -> BaseException:
        outer.__context__, outer.__suppress_context__ = full, hidden
        return outer

    assert storage_fault(full) is full
    assert storage_fault(behind(ValueError("cannot close"), hidden=False)) is full
    assert storage_fault(behind(EquipoiseError("damaged"), hidden=True)) is None  # by `raise ... from None`
    assert storage_fault(EquipoiseError("wrong")) is None
    assert storage_fault(OSError(errno.EACCES, "no")) is None


def test_a_half_line_is_set_aside_and_never_joined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.jsonl"
    append_whole(path, b'{"a": 1}\n', lines=True)
    with path.open("ab") as file:
        file.write(b'{"a": ')
    append_whole(path, b'{"a": 2}\n', lines=True)
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    assert (tmp_path / "ledger.jsonl.damaged").read_bytes() == b'{"a": \n'
    assert "ended in half a line (6 bytes), which is now in ledger.jsonl.damaged" in caplog.text
    path.write_bytes(b'{"a": 1}\n{"a": 2}')  # as an editor leaves it: nothing is lost
    append_whole(path, b'{"a": 3}\n', lines=True)
    assert [line["a"] for line in read_json_lines(path)[0]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "values", "problem"),
    [(b"", [], None), (b'{"a": 1}\n\n{"a": 2}', [1, 2], None), (b'{"a": 1}\n{"a": ', [1], "1 of 2 lines"),
     (b'[]\n{"a": 1}\n7\n', [1], "2 of 3 lines"), (b"\xff\x00\x9f\n", [], "1 of 1 lines"),
     (b"[" * 100_000, [], "1 of 1 lines")],
)  # fmt: skip
def test_lines_are_read_with_a_verdict(tmp_path: Path, content: bytes, values: list[int], problem: str | None) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    lines, problems = read_json_lines(path)
    assert [line["a"] for line in lines] == values
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]
    assert read_json_lines(tmp_path / "missing.jsonl") == ([], [])


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
