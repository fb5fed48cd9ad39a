"""What a `tune` command itself writes, on a disk that is really full for a while."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from small_disk import BLOCK, SmallDisk, on_small_disks

from rayjobs.experiment.experiment import find_experiment, new_experiment
from rayjobs.experiment.request import Request
from rayjobs.pool.storage import DiskWatch
from rayjobs.runs.epochs.progress import Progress
from rayjobs.search.journal import Event, Journal
from rayjobs.storage.files import write_json


def written_on_a_full_disk(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 2**20)
    waited: list[float] = []

    def free(seconds: float) -> None:
        waited.append(seconds)
        disk.free()

    output = disk.path / "results"
    output.mkdir()
    (output / "run").mkdir()
    progress = Progress(output / "run", "best", 1)
    journal = Journal(output / "journal.jsonl")
    journal.append(Event(event="draw", trial=1, values={"optimizer.lr": 0.1}))
    long = Event(event="end", trial=1, status="failed", reason="x" * 3 * BLOCK)
    request = Request(datasets=("digits",), methods=("iprm",))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(time, "sleep", free)
        for leave, write in (
            (BLOCK, lambda: journal.append(long)),
            (0, lambda: progress.update({"epoch": 1, "val/fused/accuracy": 0.5})),
            (BLOCK, lambda: write_json(output / "ranking.json", {"rankings": ["x" * 3 * BLOCK]})),
            (BLOCK, lambda: new_experiment(request, output, "mine", "tune " + "x" * 3 * BLOCK)),
        ):
            disk.fill(leave)
            waited.clear()
            write()
            assert waited, "the disk was not full"
    assert len(Journal(output / "journal.jsonl").read(print)) == 2
    assert json.loads((output / "run" / "progress.json").read_text())["objective"] == 0.5
    assert find_experiment(output, "mine").request == request
    assert [path.name for path in output.rglob(".*")] == []


def what_a_search_says_of_its_disk(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 2**20)
    (disk.path / "mine").mkdir()
    said: list[str] = []
    seconds = iter(range(1000, 2000))
    watch = DiskWatch(disk.path / "mine", said.append, clock=lambda: 60.0 * next(seconds))
    for spoil, mend, fault in (
        (disk.fill, disk.free, "full"),
        (disk.make_read_only, disk.make_writable, "read-only"),
        (disk.take_away, disk.bring_back, "away"),
    ):
        watch.on_step_end(0, [])
        assert said == []
        spoil()
        watch.on_step_end(0, [])
        watch.on_step_end(0, [])
        (message,) = said
        assert f"mine is {fault}: what is to be written waits, for up to 4 minutes" in message
        mend()
        watch.on_step_end(0, [])
        watch.on_step_end(0, [])
        assert len(said) == 2
        assert said.pop().endswith("is back: the search goes on")
        said.clear()


def test_a_search_says_when_its_disk_is_full_or_away_and_when_it_is_back(tmp_path: Path) -> None:
    on_small_disks(what_a_search_says_of_its_disk, tmp_path)


def test_the_driver_waits_for_its_disk_and_leaves_whole_files(tmp_path: Path) -> None:
    on_small_disks(written_on_a_full_disk, tmp_path)
