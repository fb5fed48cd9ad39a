from __future__ import annotations

import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from rayjobs.cli.terminal import WIDTH
from rayjobs.cluster.resources import TrialShape
from rayjobs.commands.live_table import PLACE_S, Display, brief_seconds, shortened
from rayjobs.experiment.stages import FINALS
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.pool import Pool
from rayjobs.pool.stage import Count, FinishedStage, GivenStage, Place
from rayjobs.runs.job import Job
from rayjobs.trials.ticket import Ticket

SHAPE = TrialShape()
ROW = {"epoch": 7.0, "objective": 0.971, "val/fused/accuracy": 0.971, "val/image/accuracy": 0.954,
       "val/image/probe_accuracy": 0.2, "val/audio/probe_accuracy": 0.838, "train/image/accuracy": 0.1}  # fmt: skip
LONG = "avdigits+image=noisy-joint_unimodal-sum_of_all_the_logits/fold-5"


def stage_of(name: str, runs: int, *, search: bool = False) -> GivenStage:
    jobs = [job_of(f"/nowhere/{name}/run-{number}") for number in range(1, runs + 1)]
    stage = GivenStage(name, lambda: jobs, runs, 24, SHAPE, Place(0, 0, name), frozenset(), lambda job: False)
    stage.is_search = search
    return stage


def job_of(run_dir: str) -> Job:
    return Job({"trainer": {"max_epochs": 24, "select": "best"}}, DataHandle(""), run_dir)


def display_of(pool: Pool, height: int = 24, *, verbose: bool = False) -> Display:
    display = Display(live=True, verbose=verbose)
    display.console = Console(file=io.StringIO(), width=200, height=height, highlight=False)
    with display.shown(pool):
        pass
    return display


def shown(display: Display, width: int = WIDTH) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(display._table())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_table_fits_80_columns_whatever_the_names_and_keeps_every_number() -> None:
    counted = Count(total=12, done=10, failed=2, best=0.9876, epochs=12000)
    stages = [FinishedStage(LONG, Place(0, 0, ""), SHAPE, counted), stage_of("digits-iprm", 1000, search=True)]
    stages.append(stage_of(LONG + FINALS, 9))
    pool = Pool(stages, lambda shape: 4)
    for width in (80, 200):
        lines = shown(display_of(pool), width)
        assert max(map(len, lines)) <= WIDTH
        assert lines[0].split() == ["trials", "finals", "failed", "best", "val", "epoch", "left"]
        first, second = lines[1:3]
        assert first.split()[1:] == ["12/12", "0/9", "2", "98.8%"]
        assert first.split()[0].startswith("avdigits+imag")
        assert first.split()[0].endswith("ogits/fold-5"), "which fold it is stands at the end"
        assert "…" in first
        assert second.split() == ["digits-iprm", "0/1000"]


def test_120_searches_fit_24_lines_and_what_runs_is_among_them() -> None:
    stages = [stage_of(f"digits-method-{number}", 3, search=True) for number in range(120)]
    stages[0].place = Place(9, 0, "last")
    pool = Pool(stages, lambda shape: 5)
    tickets = [pool.deal() for _ in range(5)]
    assert {ticket.stage for ticket in tickets if ticket} == {"digits-method-1", "digits-method-2"}
    lines = shown(display_of(pool))
    assert len(lines) <= 24
    assert any("and 1" in line and "more: 0 done" in line for line in lines)
    assert [line.split()[1] for line in lines if line.startswith(">")] == ["digits-method-1", "digits-method-2"]
    assert sum("starts" in line for line in lines) == 3
    assert ["and", "2", "more"] in [line.split() for line in lines]
    assert len(shown(display_of(pool, verbose=True))) > 120


def test_running_trials_are_shown_one_by_one_within_80_columns() -> None:
    pool = Pool([stage_of("digits-iprm", 12, search=True)], lambda shape: 10)
    tickets = [pool.deal() for _ in range(10)]
    first, second = tickets[0], tickets[1]
    assert first
    assert second
    object.__setattr__(first, "values", {"optimizer.lr": 0.013159, "a.alpha": 1})
    for ticket in tickets:
        assert ticket
        pool.started(ticket)
    pool.report(first, ROW)
    pool.started(second)  # its process was lost
    for width in (80, 200):
        lines = shown(display_of(pool, height=14), width)
        assert max(map(len, lines)) <= WIDTH
        assert len(lines) <= 14
        at = next(number for number, line in enumerate(lines) if line.startswith("running"))
        assert lines[at].split() == ["running", "settings", "own,", "%", "fused", "epoch"]
        assert " ".join(lines[at + 1].split()) == "digits-iprm run-1 lr 0.0132 alpha 1 image 95 audio 84 97.1% 7/24"
        assert lines[at + 2].split() == ["digits-iprm", "run-2", "again"]
        assert lines[at + 3].split()[-1] == "starts"
        assert any(line.split() == ["and", "2", "more"] for line in lines)
    for ticket in tickets:
        assert ticket
        pool.end(ticket)
    assert not any("running" in line for line in shown(display_of(pool)))


def test_the_end_is_told_as_a_time_once_a_run_has_ended() -> None:
    now = [0.0]
    pool = Pool([stage_of("digits-iprm", 3, search=True)], lambda shape: 1, clock=lambda: now[0])
    ticket = pool.deal()
    assert ticket
    assert "the end is known when a trial has ended" in shown(display_of(pool))[-1]
    pool.started(ticket)
    for epoch in range(1, 25):
        now[0] += 10
        pool.report(ticket, ROW | {"epoch": epoch})
    pool.end(ticket)
    last = shown(display_of(pool))[-1]
    assert "33%" in last
    assert "in 8m)" in last, "two of 24 epochs of ten seconds"
    assert shown(display_of(pool))[1].split()[-1] == "8m"
    now[0] += 1
    second = pool.deal()
    assert second
    pool.started(second)
    for epoch in range(1, 25):
        now[0] += 123_456.7
        pool.report(second, ROW | {"epoch": epoch})
    pool.end(second)
    lines = shown(display_of(pool))
    assert max(map(len, lines)) <= WIDTH, "a line that the terminal breaks is one more than are taken back"
    assert "ends " in lines[-1]


def test_a_run_is_told_of_where_there_is_no_terminal_and_a_failure_always(tmp_path: Path) -> None:
    for live, expected in ((False, ["search run-1: stopped after 3 epochs, val 50.0% (1 of 2)",
                                    "search run-2 failed: [red] (2 of 2)"]),
                           (True, ["search run-2 failed: [red] (2 of 2)"])):  # fmt: skip
        pool = Pool([stage_of("search", 2, search=True)], lambda shape: 2)
        display = display_of(pool)
        display._live_wanted = live
        display.console = Console(file=io.StringIO(), width=80, highlight=False)
        (tmp_path / "failure.json").write_text('{"reason": "[red]", "fatal": true}')
        for number, tell in ((1, display.on_trial_complete), (2, display.on_trial_error)):
            ticket = Ticket("search", f"run-{number}", SHAPE, job_of(str(tmp_path)))
            dealt = pool.deal()
            assert dealt
            pool.report(dealt, {"epoch": 3, "objective": 0.5})
            trial: Any = SimpleNamespace(config={"ticket": ticket})
            tell(0, [], trial)
            pool.end(dealt, "[red]" if number == 2 else "")
        assert display.console.file.getvalue().splitlines() == expected  # type: ignore[attr-defined]


def test_a_run_that_waits_for_a_place_is_told_of_each_minute() -> None:
    now = [0.0]
    pool = Pool([stage_of("search", 2, search=True)], lambda shape: 2, clock=lambda: now[0])
    display = display_of(pool)
    display.console = Console(file=io.StringIO(), width=200, highlight=False)
    assert pool.deal()
    assert pool.deal()
    display.on_step_end(0, [])
    now[0] += PLACE_S + 1
    display.on_step_end(0, [])
    assert display.console.file.getvalue() == "", "it was looked at a moment ago"  # type: ignore[attr-defined]
    display._next_look = 0.0
    display.on_step_end(0, [])
    said = display.console.file.getvalue()  # type: ignore[attr-defined]
    assert "search run-1 has waited 1 m 01 s for 1 worker with 1 CPU" in said
    assert ", as 1 more do: other work has the machines, or they are gone" in said


def test_the_table_is_drawn_by_the_thread_that_changes_the_pool() -> None:
    pool = Pool([stage_of("search", 2, search=True)], lambda shape: 2)
    display = Display(live=True)
    display.console = Console(file=io.StringIO(), width=80, height=24, highlight=False, force_terminal=True)
    threads = threading.active_count()
    with display.shown(pool):
        assert threading.active_count() == threads
        assert pool.deal()
        display.on_step_end(0, [])
        assert "> search" in display.console.file.getvalue()  # type: ignore[attr-defined]


def test_names_are_shortened_in_the_middle_and_times_to_four_letters() -> None:
    assert shortened("digits", 6) == "digits"
    assert shortened("digits-iprm/fold-5", 11) == "digit…old-5"
    assert [brief_seconds(seconds) for seconds in (0, 99, 100, 5999, 7200, 359_999, 864_000)] == [
        "0s", "99s", "2m", "100m", "2h", "100h", "10d"]  # fmt: skip
