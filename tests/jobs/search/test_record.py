"""A search and its journal: what is tried, what goes on, and that it is the same after any interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmcore.errors import CheckpointError
from mmcore.training.run_log import METRICS_FILE
from rayjobs.cluster.resources import TrialShape
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.stage import Place, SearchStage
from rayjobs.results_layout import CONFIG_FILE, JOURNAL_FILE
from rayjobs.runs.job import Job
from rayjobs.search.halving import Halving
from rayjobs.search.journal import Event, Journal
from rayjobs.search.record import SearchRecord, Trial
from rayjobs.search.searches import Search, SearchOptions, build_searches
from rayjobs.search.spaces import load_space, space_file

GRACE, EPOCHS = 7, 24


def search_of(**options: Any) -> Search:
    (search,) = build_searches(
        load_space(space_file("digits", None)),
        {"name": "digits", "options": {}},
        "digits",
        ("image", "audio"),
        ["iprm"],
        options=SearchOptions(**{"trials": 8, "max_epochs": EPOCHS, **options}),
    )
    assert (search.grace_epochs, search.max_epochs) == (GRACE, EPOCHS)
    return search


def record_of(
    folder: Path, at_once: int | None = 1, notify: Callable[[str], None] = print, **options: Any
) -> SearchRecord:
    return SearchRecord(search_of(**options), folder, at_once, notify)


def goodness(trial: Trial) -> float:
    return 1 / (1 + abs(float(trial.values["optimizer.lr"]) - 0.02) * 50)  # type: ignore[arg-type]


def train(record: SearchRecord, trial: Trial, until: int = EPOCHS) -> None:
    """Reports epochs as a run would that goes on from where it was; ends the trial when it is over."""
    for epoch in range(trial.epoch + 1, until + 1):
        row = {"epoch": epoch, "objective": goodness(trial) * (1 - 0.8**epoch), "device_seconds": float(epoch)}
        if record.report(trial, row) != "go":
            record.end(trial)
            return
    if until == EPOCHS:
        record.end(trial)


def finished(record: SearchRecord) -> list[tuple[Any, ...]]:
    while (trial := record.next()) is not None:
        train(record, trial)
    assert record.is_over
    return [(outcome.values, outcome.status, outcome.epochs, outcome.objective) for outcome in record.outcomes()]


def test_a_search_is_the_same_whenever_it_was_interrupted(tmp_path: Path) -> None:
    expected = finished(record_of(tmp_path / "whole"))
    assert {status for _, status, _, _ in expected} == {"done", "stopped"}
    lines = (tmp_path / "whole" / JOURNAL_FILE).read_bytes().splitlines(keepends=True)
    assert len(lines) > 60
    for kept in range(0, len(lines), 5):
        folder = tmp_path / f"cut-{kept}"
        folder.mkdir()
        (folder / JOURNAL_FILE).write_bytes(b"".join(lines[:kept]))
        assert finished(record_of(folder)) == expected, f"interrupted after {kept} events"
        assert (folder / JOURNAL_FILE).read_bytes() == b"".join(lines), "another course led there"


def test_a_search_interrupted_in_the_middle_of_trials_goes_on_with_them(tmp_path: Path) -> None:
    record = record_of(tmp_path, at_once=2)
    first, second = record.next(), record.next()
    assert first
    assert second
    assert record.next() is None, "two at once"
    train(record, second, 3)
    resumed = record_of(tmp_path, at_once=2)
    again = [resumed.next(), resumed.next()]
    assert [(trial.number, trial.epoch) for trial in again if trial] == [(1, 0), (2, 3)]
    assert [trial.values for trial in again if trial] == [first.values, second.values]


def test_what_was_decided_on_an_epoch_is_decided_again_when_it_is_reported_again(tmp_path: Path) -> None:
    record = record_of(tmp_path, at_once=None)
    trials = [record.next() for _ in range(3)]
    for objective, trial in zip((0.9, 0.8, 0.1), trials, strict=True):
        assert trial
        decisions = [record.report(trial, {"epoch": epoch, "objective": objective}) for epoch in range(1, GRACE + 1)]
    assert decisions == ["go"] * (GRACE - 1) + ["stop"]
    size = (tmp_path / JOURNAL_FILE).stat().st_size
    assert trials[2]
    assert record.report(trials[2], {"epoch": GRACE, "objective": 0.99}) == "stop"
    assert record.report(trials[2], {"epoch": GRACE - 1, "objective": 0.99}) == "go"
    assert (tmp_path / JOURNAL_FILE).stat().st_size == size
    assert record_of(tmp_path, at_once=None).trials[2].status == "stopped", "its end was not entered before the kill"


def test_epochs_that_were_never_passed_on_are_taken_from_the_runs_folder(tmp_path: Path) -> None:
    """The best so far counts, as the run itself would have said it."""
    record = record_of(tmp_path)
    trial = record.next()
    assert trial
    record.report(trial, {"epoch": 1, "objective": 0.3})
    run_dir = tmp_path / trial.name
    run_dir.mkdir()
    rows = [{"epoch": epoch, "val/fused/accuracy": value, "val/fused/loss": 1.0}
            for epoch, value in enumerate((0.3, 0.6, 0.5, 0.4), start=1)]  # fmt: skip
    (run_dir / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    record.report(trial, {"epoch": 4, "objective": 0.6})
    events = [json.loads(line) for line in (tmp_path / JOURNAL_FILE).read_text().splitlines()]
    assert [(event["epoch"], event["objective"]) for event in events if event["event"] == "report"] == [
        (1, 0.3), (2, 0.6), (3, 0.6), (4, 0.6)]  # fmt: skip


def test_a_failed_trial_is_told_to_the_searcher_and_is_not_tried_again(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    trial = record.next()
    assert trial
    record.end(trial, "no good")
    after = record.next()
    assert after
    assert after.number == 2
    assert [(outcome.status, outcome.reason) for outcome in record_of(tmp_path).outcomes()] == [
        ("failed", "no good"), ("unfinished", "")]  # fmt: skip


def test_a_closed_search_begins_nothing_and_is_closed_for_good(tmp_path: Path) -> None:
    record = record_of(tmp_path, at_once=2)
    first, second = record.next(), record.next()
    assert first
    assert second
    train(record, first)
    train(record, second, 3)
    record.close()
    assert record.next() is None
    assert not record.is_over, "one runs still"
    record.end(second)
    assert record.is_over
    resumed = record_of(tmp_path, at_once=2)
    assert resumed.is_over
    assert [outcome.status for outcome in resumed.outcomes()] == ["done", "stopped"]
    job = Job(resumed.search.config.to_dict(), DataHandle(""), str(tmp_path))
    count = SearchStage(resumed, job, TrialShape(), Place(0, 0, ""), lambda record: None).count()
    assert (count.done, count.total, count.epochs_left) == (2, 2, 0), "it looks as if there were more to come"


def test_a_cut_line_is_put_aside_and_said_and_the_next_one_does_not_join_it(tmp_path: Path) -> None:
    expected = finished(record_of(tmp_path))
    path, said = tmp_path / JOURNAL_FILE, []
    path.write_bytes(path.read_bytes()[:-5])
    assert finished(record_of(tmp_path, notify=said.append)) == expected
    assert said == [
        "journal.jsonl: its last line is cut (kept in journal.jsonl.damaged); the trials' folders tell the rest"
    ]
    assert [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("damage", [b"\0\0\0", b"[]\n", b"{}\n", b'{"event": 3', b"\xff\xfe\n"])
def test_from_a_damaged_line_on_a_journal_is_left_out(damage: bytes, tmp_path: Path) -> None:
    expected = finished(record_of(tmp_path))
    path, said = tmp_path / JOURNAL_FILE, []
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:9], damage, *lines[9:]]))
    assert finished(record_of(tmp_path, notify=said.append)) == expected
    assert len(said) == 1
    assert path.read_bytes() == b"".join(lines)
    assert (tmp_path / f"{JOURNAL_FILE}.damaged").read_bytes().startswith(damage)


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    finished(record_of(tmp_path))
    path = tmp_path / JOURNAL_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    drawn = [line for line in lines if line["event"] == "draw"][-1]
    drawn["values"]["optimizer.lr"] = 0.5
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(CheckpointError, match="begun by another version of this program or of HyperOpt"):
        record_of(tmp_path)


def test_the_folder_of_another_trial_of_that_name_is_set_aside(tmp_path: Path) -> None:
    """Its events were lost with the journal, and with several at once the trials may be others now."""
    (tmp_path / "trial-001").mkdir()
    (tmp_path / "trial-001" / CONFIG_FILE).write_text(json.dumps({"seed": 1}))
    said: list[str] = []
    record = record_of(tmp_path, notify=said.append)
    record.next()
    assert said == ["trial-001 was another trial before its events were lost: set aside"]
    assert (tmp_path / "trial-001.set-aside").is_dir()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    journal, event = Journal(tmp_path / JOURNAL_FILE), Event(event="draw", trial=1, values={"a": 1})
    journal.append(event)
    with (tmp_path / JOURNAL_FILE).open("ab") as file:
        file.write(b'{"event": "dr')  # what a full disk took of the next
    journal.append(event)
    assert Journal(tmp_path / JOURNAL_FILE).read(print) == [event, event]


def test_halving_never_stops_a_trial_at_its_end() -> None:
    rule = Halving(max_epochs=9, grace_epochs=3, reduction_factor=3)
    assert [rule.decide(1, epoch, 0.9) for epoch in (1, 3, 9)] == ["go", "go", "go"]
    assert [rule.decide(2, epoch, 0.1) for epoch in (1, 3)] == ["go", "stop"]
    assert rule.decide(3, 9, 0.1) == "go"


@pytest.mark.parametrize(
    ("options", "at_once", "expected"),
    [
        ({}, 2, True),
        ({}, None, True),
        ({}, 1, False),
        ({"trials": 1}, 2, False),
        ({"algorithm": "random"}, 2, True),
        ({"algorithm": "random", "scheduler": "fifo"}, 2, False),
        ({"scheduler": "fifo"}, 2, True),
        ({"scheduler": "pbt"}, 2, False),
    ],
)
def test_what_depends_on_timing(options: dict[str, Any], at_once: int | None, expected: bool) -> None:
    assert search_of(**options).depends_on_timing(at_once) == expected


def test_a_grid_is_every_point_in_order(tmp_path: Path) -> None:
    search = replace(search_of(), algorithm="grid", scheduler="fifo", trials=3,
                     points=[{"optimizer.lr": rate, "method.alpha": 0.5} for rate in (0.1, 0.01, 0.02)])  # fmt: skip
    outcomes = finished(SearchRecord(search, tmp_path, None))
    assert [values["optimizer.lr"] for values, *_ in outcomes] == [0.1, 0.01, 0.02]
    assert {status for _, status, _, _ in outcomes} == {"done"}
