"""`train` as a user starts it, on a disk that is filled, made read-only and taken away under it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from small_disk import SmallDisk, on_small_disks, wait_until

from mmcore.data.prepared.prepare import prepare
from mmcore.training.run_log import read_rows

RUN = "train-digits-joint/seed-0"
EPOCHS = 7


def command(folder: Path, output: Path, log: Path) -> subprocess.Popen[bytes]:
    arguments = ["--method", "joint", "--max-epochs", str(EPOCHS), "--data-dir", str(folder / "data")]
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "rayjobs.train", *arguments, "--output", str(output)],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file,
        )  # fmt: skip


def a_run_whose_disk_fails_three_times(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 64 * 2**20)
    log = folder / "log"
    process = command(folder, disk.path, log)
    run_dir = disk.path / RUN
    try:
        for epoch, name, spoil, mend in (
            (1, "full", disk.fill, disk.free),
            (3, "read-only", disk.make_read_only, disk.make_writable),
            (5, "away", disk.take_away, disk.bring_back),
        ):
            wait_until(lambda epoch=epoch: len(read_rows(run_dir)) >= epoch or process.poll() is not None, log.name)
            spoil()
            wait_until(lambda name=name: f"storage is {name} (" in log.read_text(), f"{name}: {log.read_text()}")
            assert process.poll() is None
            mend()
        assert process.wait(timeout=120) == 0, log.read_text()
    finally:
        process.kill()
    assert log.read_text().count("written after") >= 3
    undisturbed = folder / "undisturbed"
    assert command(folder, undisturbed, log).wait(timeout=120) == 0, log.read_text()
    results = [json.loads((place / RUN / "result.json").read_text()) for place in (disk.path, undisturbed)]
    assert results[0]["test"] == results[1]["test"]
    assert [row["epoch"] for row in read_rows(run_dir)] == list(range(1, EPOCHS + 1))
    assert len((disk.path / "ledger.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_run_waits_for_its_disk_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    prepare("digits", None, None, tmp_path / "data")
    on_small_disks(a_run_whose_disk_fails_three_times, tmp_path, timeout_s=500)
