"""Whole tune commands whose results lie on a disk that is really full: for twelve seconds, and for good."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from driving import epochs_of, output_of, run_driver, start_driver, starts_of, trials_of, wait_for
from small_disk import SmallDisk, on_small_disks

from mmcore.data.prepared.prepare import prepare

SEARCH = "results/digits-iprm/digits-iprm"
FULL_S = 12.0


def arguments(folder: Path, disk: SmallDisk) -> list[str]:
    places = ["--data-dir", str(folder / "data"), "--output", str(disk.path / "results")]
    return ["--trials", "3", "--max-epochs", "8", "--method", "iprm", "--reference", "none", "--final-seeds", "1",
            "--cpus", "2", "--concurrent", "2", *places]  # fmt: skip


def a_search_on_a_disk_that_is_full_for_a_while(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 32 * 2**20)
    process = start_driver(folder, *arguments(folder, disk), epoch_s=0.3)
    search = disk.path / SEARCH
    wait_for(lambda: epochs_of(search / "trial-001") >= 2, process)
    disk.fill()
    time.sleep(FULL_S)
    assert process.poll() is None
    disk.free()
    _, stderr = output_of(process, 240)
    assert process.returncode == 0, stderr
    by_the_driver, by_what_it_writes = "digits-iprm is full: what is to be written waits", "storage is full ("
    assert by_the_driver in stderr or by_what_it_writes in stderr, stderr
    assert "is back: the search goes on" in stderr or "written after" in stderr, stderr
    assert "Traceback" not in stderr
    assert "unexpected" not in stderr
    trials = trials_of(search)
    assert len(trials) == 3
    assert {trial["status"] for trial in trials.values()} <= {"done", "stopped"}, trials
    assert [len(starts_of(search / name)) for name in (*trials, "final-1")] == [1] * 4, "a run was begun twice"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_goes_on_by_itself_when_its_disk_was_full_for_a_while(tmp_path: Path) -> None:
    prepare("digits", None, None, tmp_path / "data")
    on_small_disks(a_search_on_a_disk_that_is_full_for_a_while, tmp_path, timeout_s=500)


def a_search_on_a_disk_that_stays_full(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 32 * 2**20)
    os.environ["STUB_WAITS_S"] = json.dumps([0.5, 1.0])  # instead of four minutes
    process = start_driver(folder, *arguments(folder, disk), epoch_s=0.3)
    search = disk.path / SEARCH
    wait_for(lambda: epochs_of(search / "trial-001") >= 2, process)
    disk.fill()
    _, stderr = output_of(process, 240)
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert "unexpected" not in stderr
    (message,) = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert "No space left on device" in message
    assert str(disk.path) in message
    assert "storage is still full; everything finished so far is kept. To resume:" in message
    assert f"--resume digits-iprm --output {disk.path}/results" in stderr
    disk.free()
    done = run_driver(folder, "--resume", "digits-iprm", "--output", str(disk.path / "results"))
    assert done.returncode == 0, done.stderr
    trials = trials_of(search)
    assert len(trials) == 3
    assert {trial["status"] for trial in trials.values()} <= {"done", "stopped"}, trials
    assert starts_of(search / "trial-001")[-1][1] >= 3, "what it had done was done again"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_whose_disk_stays_full_ends_with_one_message_and_goes_on_later(tmp_path: Path) -> None:
    prepare("digits", None, None, tmp_path / "data")
    on_small_disks(a_search_on_a_disk_that_stays_full, tmp_path, timeout_s=500)
