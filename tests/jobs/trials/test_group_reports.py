from __future__ import annotations

import queue
import sys
import threading
from typing import Any

import pytest

from rayjobs.trials import group_reports
from rayjobs.trials.group_reports import RowSender


class StandInQueue(queue.Queue):  # type: ignore[type-arg]
    def __init__(self, maxsize: int, actor_options: Any) -> None:
        super().__init__(maxsize)

    def shutdown(self, force: bool) -> None:
        assert force


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_reports, "Queue", StandInQueue)
    monkeypatch.setattr(group_reports, "Full", queue.Full)
    monkeypatch.setattr(group_reports, "AGAIN_S", 0.01)
    monkeypatch.setattr(group_reports, "in_tune_session", lambda: True)


def test_a_trial_does_not_end_before_tune_has_taken_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, asked = [], threading.Event()

    def report(row: dict[str, Any]) -> None:
        asked.wait(60)
        taken.append(row["epoch"])

    monkeypatch.setattr(group_reports.tune, "report", report)

    def trial() -> None:
        with group_reports.forwarding() as (sender,):
            for epoch in (1, 2):
                sender.after_report(None, [{"epoch": epoch}, {"epoch": -1}], None)

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert taken == []
    asked.set()
    thread.join(60)
    assert taken == [1, 2]


def test_a_trial_that_tune_ends_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_reports.tune, "report", lambda row: sys.exit(0))  # as Tune's does in a trial it stops
    with group_reports.forwarding() as (sender,):
        assert isinstance(sender, RowSender)
        sender.after_report(None, [{"epoch": 1}], None)
        sender.after_report(None, [{"epoch": 2}], None)  # nobody will take this one


def test_rows_are_handed_on_where_the_group_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(group_reports.tune, "report", lambda row: taken.append(row["epoch"]))

    def trial() -> None:
        with group_reports.forwarding() as (sender,):
            sender.after_report(None, [{"epoch": 1}], None)
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        trial()
    assert taken == [1]


def test_outside_tune_nothing_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_reports, "in_tune_session", lambda: False)
    with group_reports.forwarding() as callbacks:
        assert callbacks == []
