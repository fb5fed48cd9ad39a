"""Whole tune commands with the stand-in for training; real processes are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from driving import FAST, epochs_of, output_of, run_driver, start_driver, starts_of, trials_of, wait_for
from ray.thirdparty_files import psutil  # ray brings it along

from rayjobs.results_layout import JOURNAL_FILE, LEDGER_FILE

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
SEARCH = Path("results/digits-iprm/digits-iprm")
ONE = [*FAST, "--cpus", "1", "--concurrent", "1"]
"""On one place: a trial's process less to start, where nothing turns on two."""


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a command that was killed: two trials had ended, two were before their rung."""
    folder = tmp_path_factory.mktemp("killed")
    runs = [folder / SEARCH / f"trial-00{number}" for number in (1, 2, 3, 4)]
    process = start_driver(folder, *FAST, plan={f"digits-iprm/{run.name}": {"hold_at": 2} for run in runs[2:]})
    wait_for(lambda: all(epochs_of(run) >= 1 for run in runs[2:]), process)
    process.kill()
    process.communicate(timeout=60)
    workers = [pid for run in runs for pid, _ in starts_of(run)]
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    shutil.copytree(folder / "results", folder / "as it was")
    return folder


@pytest.fixture
def killed(killed_once: Path) -> Path:
    """The same folder, its results as the kill left them: they are resumed where they were begun, or not at all."""
    shutil.rmtree(killed_once / "results")
    shutil.copytree(killed_once / "as it was", killed_once / "results")
    return killed_once


def test_a_search_ends_with_a_ranking_whatever_happens_to_its_trials(tmp_path: Path) -> None:
    """One trial fails for good, one loses its process once; the others are stopped early or end."""
    plan = {
        "digits-iprm/trial-002": {"fatal": "the loss is not finite at step 3: image nan"},
        "digits-iprm/trial-003": {"kill_at": 5},
    }
    arguments = [*FAST, "--trials", "6", "--json"]
    done = run_driver(tmp_path, *arguments, plan=plan)
    assert done.returncode == 0, done.stderr
    ranking = json.loads(done.stdout)  # nothing else stands there
    trials = trials_of(tmp_path / SEARCH)
    assert len(trials) == 6
    assert trials["trial-002"]["status"] == "failed"
    assert trials["trial-002"]["reason"] == "the loss is not finite at step 3: image nan"
    assert len(starts_of(tmp_path / SEARCH / "trial-002")) == 0
    assert trials["trial-002"]["reason"] in done.stderr
    assert {"done", "stopped"} <= {trial["status"] for trial in trials.values()}
    assert all(trial["epochs"] == 3 for trial in trials.values() if trial["status"] == "stopped")
    # The lost process was retried from where it was, in another process; the fatal trial was not retried.
    (first_pid, _), (second_pid, second_epoch) = starts_of(tmp_path / SEARCH / "trial-003")
    assert first_pid != second_pid
    assert second_epoch in {4, 5}
    assert trials["trial-003"]["epochs"] == 8
    row = ranking["rankings"][0]["rows"][0]
    assert (row["trials"], row["failed"], len(row["accuracies"])) == (6, 1, 3)
    best = max(trials.values(), key=lambda trial: trial["objective"] or 0)
    assert row["best"]["name"] == best["name"]
    assert (tmp_path / row["config_file"]).is_file()
    assert str(best["values"]["optimizer.lr"]) in (tmp_path / row["config_file"]).read_text()
    assert (tmp_path / "results" / LEDGER_FILE).is_file()


@pytest.mark.slow
def test_trials_that_all_fail_are_exit_code_1_with_the_reasons(tmp_path: Path) -> None:
    plan = {f"digits-iprm/trial-00{number}": {"fatal": f"reason {number}"} for number in (1, 2)}
    done = run_driver(tmp_path, *ONE, "--trials", "2", plan=plan)
    assert done.returncode == 1
    assert "every trial failed" in done.stderr
    assert "reason 1" in done.stderr
    assert "reason 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_process_that_is_lost_too_often_is_given_up(tmp_path: Path) -> None:
    plan = {"digits-iprm/trial-001": {"kill_at": 2}}
    done = run_driver(tmp_path, *ONE, "--trials", "2", "--max-failures", "0", "--final-seeds", "0", plan=plan)
    assert done.returncode == 0, done.stderr
    trials = trials_of(tmp_path / SEARCH)
    assert trials["trial-001"]["status"] == "failed"
    assert "process was lost" in trials["trial-001"]["reason"]
    assert len(starts_of(tmp_path / SEARCH / "trial-001")) == 1
    assert trials["trial-002"]["status"] in {"done", "stopped"}


@pytest.mark.slow
def test_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / SEARCH
    plan = {f"digits-iprm/trial-00{number}": {"hold_at": 3} for number in (3, 4)}  # they must not end meanwhile
    process = start_driver(tmp_path, *FAST, plan=plan)
    running = [folder / "trial-003", folder / "trial-004"]  # two at once: the first two have ended
    wait_for(lambda: all(epochs_of(run) >= 2 for run in running), process)
    process.send_signal(signal.SIGINT)
    _, stderr = output_of(process)
    assert process.returncode == 130
    assert "--resume digits-iprm" in stderr
    assert "Traceback" not in stderr
    assert not (folder / "search.json").exists()
    reached = epochs_of(folder / "trial-003")
    done = run_driver(tmp_path, "--resume", "digits-iprm")
    assert done.returncode == 0, done.stderr
    assert len(trials_of(folder)) == 4
    for name in ("trial-001", "trial-002"):
        assert len(starts_of(folder / name)) == 1, "a finished trial was run again"
    assert starts_of(folder / "trial-003")[-1][1] == reached + 1


@pytest.mark.slow
def test_a_signal_to_the_whole_group_ends_like_ctrl_c_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """As `timeout`, Slurm and systemd send it: Ray's own processes get it, too."""
    plan = {f"digits-iprm/trial-00{number}": {"hold_at": 3} for number in (1, 2)}
    process = start_driver(tmp_path, *FAST, plan=plan, start_new_session=True)
    runs = [tmp_path / SEARCH / f"trial-00{number}" for number in (1, 2)]
    wait_for(lambda: all(epochs_of(run) >= 2 for run in runs), process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGTERM)
    asked = time.monotonic()
    _, stderr = output_of(process)
    assert time.monotonic() - asked < 20
    assert process.returncode == 130
    assert "--resume digits-iprm" in stderr
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, [child.name() for child in alive]
    done = run_driver(tmp_path, "--resume", "digits-iprm", "--concurrent", "2", "--cpus", "2")
    assert done.returncode == 0, done.stderr
    assert all(starts_of(run)[-1][1] >= 3 for run in runs), "a trial went back to its start"


@pytest.mark.slow
def test_an_experiment_resumed_on_more_places_fills_them(tmp_path: Path) -> None:
    """One trial of each search at a time, as it was begun; but now of two searches at once."""
    arguments = ["--trials", "4", "--max-epochs", "8", "--method", "iprm", "--final-seeds", "0", "--cpus", "1"]
    runs = [tmp_path / f"results/digits-iprm-ensemble/digits-{method}/trial-001" for method in ("iprm", "ensemble")]
    plan = {f"{run.parent.name}/{run.name}": {"hold_at": 3} for run in runs}
    process = start_driver(tmp_path, *arguments, plan=plan)
    wait_for(lambda: any(epochs_of(run) == 2 for run in runs), process)
    process.send_signal(signal.SIGINT)
    output_of(process)
    assert sum(bool(starts_of(run)) for run in runs) == 1
    again = start_driver(tmp_path, "--resume", "digits-iprm-ensemble", "--cpus", "2", plan=plan)
    try:
        wait_for(lambda: all(epochs_of(run) == 2 for run in runs), again)
    finally:
        again.send_signal(signal.SIGINT)
        output_of(again)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["none", "last line", "half", "missing"])
def test_a_killed_driver_loses_no_finished_trial_and_keeps_its_rungs(killed: Path, damage: str) -> None:
    folder = killed / SEARCH
    journal = folder / JOURNAL_FILE
    before = journal.read_bytes()
    if damage == "last line":
        journal.write_bytes(before[:-7])
    elif damage == "half":
        journal.write_bytes(before[: len(before) // 2])
    elif damage == "missing":
        journal.unlink()
    done = run_driver(killed, *FAST, "--resume")
    assert done.returncode == 0, done.stderr
    assert ("journal.jsonl: " in done.stderr) == (damage in {"last line", "half"})
    if damage == "none":
        assert journal.read_bytes().startswith(before), "lines are only ever added"
    trials = trials_of(folder)
    assert sorted(trials) == ["trial-001", "trial-002", "trial-003", "trial-004"]
    for name in ("trial-001", "trial-002"):
        # Where a journal does not tell of its end a trial is started once more, and has no epoch left: 8 are done.
        starts = [first for _, first in starts_of(folder / name)]
        assert starts == [1] if damage == "none" else starts in ([1], [1, 9]), "an epoch was trained again"
    # By the entries of before the kill, the fourth point (a smaller rate than the best) is stopped at its rung.
    assert trials["trial-004"]["status"] == "stopped"


@pytest.mark.slow
def test_what_a_search_does_depends_on_its_seed_alone(tmp_path: Path) -> None:
    """On one place and on four, beside others and after ten kills at random moments: the same trials, stopped alike."""
    arguments = ["--trials", "6", "--max-epochs", "8", "--method", "iprm", "--method", "aug", "--final-seeds", "1"]
    arguments += ["--per-search", "1"]

    def decided(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
        searches = {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("search.json")}
        keys = ("name", "values", "status", "epochs", "objective")
        return {
            name: [tuple(str(trial[key]) for key in keys) for trial in search["trials"]]
            for name, search in searches.items()
        }

    for name, places in (("one", "1"), ("four", "4")):
        done = run_driver(tmp_path, *arguments, "--cpus", places, "--name", name)
        assert done.returncode == 0, done.stderr
    folder, moments = tmp_path / "results" / "killed", random.Random(0)
    process = start_driver(tmp_path, *arguments, "--cpus", "2", "--name", "killed", epoch_s=0.2)
    wait_for(lambda: (folder / "experiment.json").is_file(), process)
    for _ in range(10):
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, 20))
        process.kill()
        output_of(process)
        process = start_driver(tmp_path, "--resume", "killed", "--cpus", "2", epoch_s=0.2)
    _, stderr = output_of(process)
    assert process.returncode == 0, stderr
    finals = [path.parent for path in folder.rglob("final-1/result.json")]
    assert len(finals) == 3
    assert all(epoch > 1 for run in finals for _, epoch in starts_of(run)[1:]), "a final model went back to its start"
    found = [decided(tmp_path / "results" / name) for name in ("one", "four", "killed")]
    assert sorted(found[0]) == ["digits-aug", "digits-ensemble", "digits-iprm"]
    assert all(len(trials) == 6 for trials in found[0].values())
    assert any(trial[2] == "stopped" for trials in found[0].values() for trial in trials)
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_an_experiment_is_one_commands_at_a_time_and_goes_on_as_it_was_begun(tmp_path: Path) -> None:
    """A second command is refused while the first runs; how many trials run at once is not changed later."""
    plan = {"digits-iprm/trial-001": {"hold_at": 2}}
    begun = [*FAST, "--per-search", "1"]
    process = start_driver(tmp_path, *begun, plan=plan)
    wait_for(lambda: epochs_of(tmp_path / SEARCH / "trial-001") == 1, process)
    second = run_driver(tmp_path, "--resume", "digits-iprm")
    assert second.returncode == 2
    holder = f"is in use by stub_driver.py {' '.join(begun)} (process {process.pid} on "
    assert holder in " ".join(second.stderr.split())
    process.send_signal(signal.SIGTERM)
    output_of(process)
    assert process.returncode == 130
    stored = json.loads((tmp_path / "results/digits-iprm/experiment.json").read_text())
    assert stored["per_search"] == 1
    refused = run_driver(tmp_path, *FAST, "--resume", "--per-search", "2")
    assert refused.returncode == 2
    assert "was begun with 1" in refused.stderr
    done = run_driver(tmp_path, "--resume", "digits-iprm", "--concurrent", "2", "--cpus", "2")
    assert done.returncode == 0, done.stderr
    assert "--per-search 2 would" in done.stderr, "a place stays idle, and nobody says so"
    assert "at_once" not in json.loads((tmp_path / SEARCH / "search.json").read_text())


@pytest.mark.slow
def test_a_finished_search_and_a_finished_final_model_are_not_done_again(tmp_path: Path) -> None:
    folder = tmp_path / SEARCH
    plan = {"digits-iprm/final-2": {"hold_at": 2}}
    process = start_driver(tmp_path, *ONE, plan=plan)
    wait_for(lambda: (folder / "final-1" / "result.json").exists() and epochs_of(folder / "final-2"), process)
    process.kill()
    process.communicate(timeout=60)
    done = run_driver(tmp_path, *ONE, "--resume")
    assert done.returncode == 0, done.stderr
    assert "digits-iprm: finished before (4 trials)" in done.stderr
    assert len(starts_of(folder / "final-1")) == 1
    assert [len(starts_of(folder / f"trial-00{number}")) for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert starts_of(folder / "final-2")[-1][1] == 2, "a final model went back to its start"


@pytest.mark.slow
def test_data_that_changed_is_not_mixed_with_what_was_searched_before(killed: Path) -> None:
    path = killed / SEARCH / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_fingerprint": "another"}))
    again = run_driver(killed, *FAST, "--resume")
    assert again.returncode == 1
    assert "another data_fingerprint" in again.stderr


@pytest.mark.slow
def test_a_cross_validated_grid_goes_on_after_its_driver_was_killed(tmp_path: Path) -> None:
    """All trials of all folds are one list; what ended before the kill is not done again, what ran goes on."""
    space = tmp_path / "grid.yaml"
    space.write_text("{trials: 2, max_epochs: 3, space: {optimizer.lr: {choice: [0.01, 0.1]}}}")
    arguments = ["--protocol", "cv", "--search", "grid", "--space", str(space), "--method", "iprm"]
    arguments += ["--reference", "none", "--final-seeds", "1", "--cpus", "2", "--concurrent", "2"]
    folder = tmp_path / "results/digits-cv-iprm"
    runs = {(fold, trial): folder / f"digits-iprm/fold-{fold}/trial-00{trial}" for fold in range(5) for trial in (1, 2)}
    plan = {"fold-2/trial-001": {"hold_at": 2}, "fold-2/trial-002": {"hold_at": 2}}
    process = start_driver(tmp_path, *arguments, plan=plan)
    wait_for(lambda: epochs_of(runs[2, 1]) == epochs_of(runs[2, 2]) == 1, process)
    process.kill()
    process.communicate(timeout=60)
    done = run_driver(tmp_path, *arguments, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert {key: len(starts_of(run)) for key, run in runs.items()} == {key: 1 + (key[0] == 2) for key in runs}
    assert [start[1] for start in starts_of(runs[2, 1])] == [1, 2], "it started anew"
    (row,) = json.loads(done.stdout)["rankings"][0]["rows"]
    assert (row["trials"], row["failed"], len(row["folds"])) == (10, 0, 5)
    assert {best["values"]["optimizer.lr"] for best in row["best_of_folds"]} == {0.01}  # the stand-in is best at 0.02
    assert len(list(folder.glob("best-digits-iprm-fold-*.yaml"))) == 5


@pytest.mark.slow
def test_a_worker_group_reports_stops_and_is_ranked(tmp_path: Path) -> None:
    """Two workers hold both CPUs, so a trial process that held a part of one would wait for ever."""
    arguments = [*FAST, "--workers", "2", "--trials", "2", "--final-seeds", "1", "--max-epochs", "4"]
    done = run_driver(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    trials = trials_of(tmp_path / SEARCH)
    assert {trial["status"] for trial in trials.values()} <= {"done", "stopped"}
    for name in trials:
        assert len(starts_of(tmp_path / SEARCH / name)) == 2, "each trial has two workers"


@pytest.mark.slow
def test_a_worker_group_that_loses_a_process_goes_on(tmp_path: Path) -> None:
    """A worker, then the trial's process, whose workers' placement group holds all CPUs until it is removed."""
    folder = tmp_path / SEARCH / "trial-001"
    arguments = [*FAST, "--workers", "2", "--trials", "1", "--final-seeds", "0"]
    process = start_driver(tmp_path, *arguments, epoch_s=0.5)
    wait_for(lambda: epochs_of(folder) >= 2, process)
    os.kill(starts_of(folder)[0][0], signal.SIGKILL)
    wait_for(lambda: len(starts_of(folder)) == 4 and epochs_of(folder) >= 4, process)
    os.kill(trial_process(process.pid), signal.SIGKILL)
    _, stderr = output_of(process)
    assert process.returncode == 0, stderr
    assert stderr.count("trying again") == 2
    starts = starts_of(folder)
    assert len(starts) == 6
    assert min(epoch for _, epoch in starts[2:4]) >= 2, "it started anew"
    assert min(epoch for _, epoch in starts[4:]) >= 4, "it went back further than its last report"
    assert trials_of(tmp_path / SEARCH)["trial-001"]["status"] == "done"


@pytest.mark.slow
def test_fractions_of_gpus_pack_trials(tmp_path: Path) -> None:
    """Two GPUs by name only hold four trials that claim half of one each, at the same time."""
    plan = {f"digits-iprm/trial-00{number}": {"hold_at": 1} for number in (1, 2, 3, 4)}
    arguments = ["--gpus", "2", "--cpus", "8", "--gpus-per-worker", "0.5", "--trials", "4", "--max-epochs", "3"]
    rest = ["--method", "iprm", "--reference", "none", "--final-seeds", "0"]
    process = start_driver(tmp_path, *arguments, *rest, plan=plan)
    runs = [tmp_path / SEARCH / f"trial-00{number}" for number in (1, 2, 3, 4)]
    wait_for(lambda: all(starts_of(run) for run in runs), process)
    for run in runs:
        (run / "held").touch()
    _, stderr = output_of(process)
    assert process.returncode == 0, stderr


@pytest.mark.slow
def test_without_early_stopping_every_trial_ends_and_a_time_budget_ends_the_search(tmp_path: Path) -> None:
    arguments = [*FAST, "--scheduler", "fifo", "--search", "random", "--final-seeds", "1", "--json"]
    done = run_driver(tmp_path, *arguments, "--trials", "400", "--time-budget", "40s", "--name", "short", epoch_s=0.1)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)["rankings"][0]
    row = table["rows"][0]
    assert 0 < row["begun"] < 400
    assert f"iprm: {row['begun']} of 400 trials were begun, then the time was over" in table["chance_notes"]
    assert len(row["accuracies"]) == 1
    trials = trials_of(tmp_path / "results/short/digits-iprm")
    ended = [trial for trial in trials.values() if trial["status"] == "done"]
    assert len(ended) >= row["begun"] - 2  # but for those that ran when the time was over
    assert all(trial["epochs"] == 8 for trial in ended)


@pytest.mark.slow
def test_a_time_budget_in_which_nothing_was_done_is_said(tmp_path: Path) -> None:
    plan = {"digits-iprm/trial-001": {"hold_at": 1}}
    done = run_driver(tmp_path, *ONE, "--time-budget", "1s", plan=plan)
    assert done.returncode == 1
    assert "the time was over before any trial had finished an epoch: give a longer --time-budget" in done.stderr


def trial_process(driver: int) -> int:
    """Returns the process Tune started for the only trial of a driver's own Ray."""
    names = {process.pid: " ".join(process.cmdline()) for process in psutil.Process(driver).children(recursive=True)}
    return next(pid for pid, name in names.items() if "ImplicitFunc" in name or "run_trial" in name)
