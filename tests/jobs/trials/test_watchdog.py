"""Trials that hang are ended and tried again; no clock but the test's own decides when, but in the real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from driving import FAST, epochs_of, output_of, start_driver, starts_of, trials_of, wait_for

from mmcore.errors import TrainingError
from rayjobs.results_layout import GROUP_FILE
from rayjobs.trials import watchdog
from rayjobs.trials.failures import LostWorkers, failure_reason, record_failure
from rayjobs.trials.hang_limits import START_LIMIT_S
from rayjobs.trials.watchdog import Watchdog, end_run, kill

SEARCH = Path("results/digits-iprm/digits-iprm")
LIMIT_S = 20.0


class Watched:
    """A watchdog, a trial and a clock to be moved."""

    def __init__(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch, in_groups: bool = False):
        self.now, self.ended = 1000.0, []
        self.trial = SimpleNamespace(trial_id="a", status="RUNNING", run_metadata=SimpleNamespace(last_result={}))
        self.alive = run_dir / "alive-0"
        self._dog = Watchdog(LIMIT_S, lambda trial: run_dir, in_group=lambda trial: in_groups, clock=lambda: self.now)
        monkeypatch.setattr(watchdog, "end_run", lambda path, limit: self.ended.append((path, limit)))

    def after(self, seconds: float) -> list[tuple[Path, float]]:
        """Lets time go by and the watchdog look; returns what it has ended in all."""
        self.now += seconds
        self._dog.on_step_end(0, [self.trial])
        return self.ended

    def beat(self) -> None:
        self.alive.touch()
        os.utime(self.alive, ns=(int(self.now * 1e9),) * 2)

    def restart(self) -> None:
        self._dog.on_trial_start(0, [self.trial], self.trial)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def test_a_trial_is_ended_once_it_did_nothing_for_longer_than_the_limit(watched: Watched) -> None:
    watched.after(0)
    for _ in range(5):
        watched.beat()
        assert watched.after(LIMIT_S - 1) == []
    assert watched.after(LIMIT_S - 1) == []
    assert len(watched.after(2)) == 1
    assert watched.ended[0][1] == LIMIT_S
    assert len(watched.after(LIMIT_S)) == 1  # it is watched anew, as something that starts


def test_a_report_is_a_sign_of_life(watched: Watched) -> None:
    watched.after(0)
    for epoch in range(1, 5):
        watched.trial.run_metadata.last_result = {"epoch": epoch}
        assert watched.after(LIMIT_S - 1) == []
    assert len(watched.after(LIMIT_S + 1)) == 1


def test_the_first_batch_may_take_longer_and_so_may_that_of_a_new_attempt(watched: Watched) -> None:
    watched.after(0)
    assert watched.after(START_LIMIT_S - 1) == []
    watched.beat()
    watched.after(1)
    watched.restart()
    watched.after(0.5)
    watched.after(1)
    assert watched.after(START_LIMIT_S - 2) == []
    assert [limit for _, limit in watched.after(3)] == [START_LIMIT_S]


def test_a_group_whose_workers_find_no_room_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(tmp_path, monkeypatch, in_groups=True)
    watched.restart()
    for _ in range(3):
        assert watched.after(START_LIMIT_S + 1) == []
    (tmp_path / GROUP_FILE).touch()  # the first worker's first act
    watched.after(1)
    assert len(watched.after(START_LIMIT_S + 1)) == 1


def test_a_first_batch_done_before_the_first_look_counts_as_begun(watched: Watched) -> None:
    watched.restart()
    watched.beat()
    watched.after(5)
    assert watched.after(LIMIT_S - 1) == []
    assert [limit for _, limit in watched.after(2)] == [LIMIT_S]


def test_what_does_not_run_is_not_watched(watched: Watched) -> None:
    watched.after(0)
    watched.beat()
    watched.after(1)
    watched.trial.status = "PENDING"
    assert watched.after(2 * START_LIMIT_S) == []
    watched.trial.status = "RUNNING"
    assert watched.after(LIMIT_S + 1) == []


def test_only_the_process_that_was_announced_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        created = psutil.Process(process.pid).create_time()
        assert not kill(process.pid, created - 100)  # its number belonged to another process then
        assert process.poll() is None
        assert kill(process.pid, created)
        assert process.wait(timeout=30) == -signal.SIGKILL
        assert not kill(process.pid, created)
    finally:
        process.kill()


def test_the_reason_names_the_worker_that_stopped_first(tmp_path: Path) -> None:
    for rank, time in enumerate((100, 70, 99)):
        path = tmp_path / f"alive-{rank}"
        path.touch()
        os.utime(path, (time, time))
    end_run(tmp_path, 600)
    reason = json.loads((tmp_path / "failure.json").read_text())["reason"]
    assert reason == "it hung: no batch was done for 10 minutes (worker 1 stopped first)"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", ["loop", "stopped"])
def test_a_hanging_process_is_ended_and_its_trial_goes_on(tmp_path: Path, how: str) -> None:
    folder = tmp_path / SEARCH / "trial-001"
    plan = {"digits-iprm/trial-001": {"hang_at": 3}} if how == "loop" else {}
    arguments = [*FAST, "--trials", "2", "--final-seeds", "0", "--hang-timeout", "0.1"]
    process = start_driver(tmp_path, *arguments, plan=plan, epoch_s=0.3)
    wait_for(lambda: epochs_of(folder) >= 2, process)
    if how == "stopped":
        os.kill(starts_of(folder)[0][0], signal.SIGSTOP)
    _, stderr = output_of(process)
    assert process.returncode == 0, stderr
    assert "trial-001: it hung: no batch was done for 6 s; trying again" in stderr
    (first_pid, _), (second_pid, epoch) = starts_of(folder)
    assert first_pid != second_pid
    assert epoch >= 3
    trials = trials_of(tmp_path / SEARCH)
    assert trials["trial-001"]["status"] == "done"
    assert len(starts_of(tmp_path / SEARCH / "trial-002")) == 1, "the other trial was disturbed"


def test_a_group_that_is_ended_is_said_to_have_hung_whichever_of_its_processes_goes_first(tmp_path: Path) -> None:
    record_failure(tmp_path, LostWorkers("worker 1 of its group was lost"))
    assert failure_reason(tmp_path) == "worker 1 of its group was lost"
    end_run(tmp_path, 30)  # knows of no process here
    record_failure(tmp_path, LostWorkers("worker 0 of its group was lost"))
    assert failure_reason(tmp_path) == "it hung: no batch was done for 30 s"
    record_failure(tmp_path, TrainingError("the loss is not finite"))
    assert failure_reason(tmp_path) == "the loss is not finite"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", ["one", "all"])
def test_a_hanging_worker_group_is_ended_and_goes_on(tmp_path: Path, ranks: str) -> None:
    folder = tmp_path / SEARCH / "trial-001"
    plan = {"digits-iprm/trial-001": {"hang_at": 3, **({"hang_rank": "-1"} if ranks == "one" else {})}}
    arguments = [*FAST, "--workers", "2", "--trials", "1", "--final-seeds", "0", "--hang-timeout", "0.5"]
    process = start_driver(tmp_path, *arguments, plan=plan, epoch_s=0.3)
    _, stderr = output_of(process)
    assert process.returncode == 0, stderr
    assert "it hung" in stderr
    assert "trying again" in stderr
    starts = starts_of(folder)
    assert len(starts) == 4
    assert min(epoch for _, epoch in starts[2:]) >= 3
    assert trials_of(tmp_path / SEARCH)["trial-001"]["status"] == "done"
    assert not any(psutil.pid_exists(pid) for pid, _ in starts)
