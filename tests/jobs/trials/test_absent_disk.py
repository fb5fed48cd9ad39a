"""A trial that starts while the disk of its results is away: it waits, and makes nothing in its place."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from small_disk import SmallDisk, on_small_disks, wait_until

from rayjobs.cluster.resources import TrialShape
from rayjobs.feeding.handle import DataHandle
from rayjobs.runs.job import Job
from rayjobs.search.journal import Event, Journal
from rayjobs.trials import trial
from rayjobs.trials.ticket import KEY, Ticket


def a_trial_and_a_journal_on_an_absent_disk(folder: Path) -> None:
    disk = SmallDisk(folder / "disk", 2**20)
    home = disk.path / "results" / "mine"
    home.mkdir(parents=True)
    run_dir = home / "digits-iprm" / "trial-001"
    data = DataHandle(str(folder))
    job = Job({"trainer": {"select": "best"}}, data, str(run_dir), home=str(home))
    begun: list[Path] = []

    def body(job: Job, reporter: Any) -> None:
        begun.append(Path(job.run_dir))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(trial, "announce", lambda *arguments: None)
        monkeypatch.setattr(trial, "TuneReporter", lambda *arguments: None)
        config = {KEY: Ticket("digits-iprm", "trial-001", TrialShape(), job)}
        disk.take_away()
        running = threading.Thread(target=trial.run_trial, args=(config, {str(folder): data}, body))
        running.start()
        journal = Journal(home / "digits-iprm" / "journal.jsonl")
        writing = threading.Thread(target=journal.append, args=(Event(event="close"),))
        writing.start()
        time.sleep(0.5)
        assert list(disk.path.iterdir()) == [], "something was made on the disk beneath"
        assert not begun
        disk.bring_back()
        wait_until(lambda: not running.is_alive() and not writing.is_alive(), "the disk is back", 20)
    assert begun == [run_dir]
    assert run_dir.is_dir()
    assert len(Journal(home / "digits-iprm" / "journal.jsonl").read(print)) == 1


@pytest.mark.slow
def test_a_trial_waits_for_its_disk_and_makes_no_folder_beneath(tmp_path: Path) -> None:
    said = on_small_disks(a_trial_and_a_journal_on_an_absent_disk, tmp_path)
    assert said.count("storage is away (") >= 2
    assert "trial-001: storage is away (" in said
    assert "results/mine is gone" in said
