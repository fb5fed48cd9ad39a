"""What happened in a search, in the order it happened, one line of JSON each: what a search is resumed from.

    {"event": "draw", "trial": 3, "values": {"optimizer.lr": 0.02}}
    {"event": "report", "trial": 3, "epoch": 7, "objective": 0.81, "objective_loss": 0.6, "device_seconds": 9.1,
     "decision": "stop"}
    {"event": "end", "trial": 3, "status": "stopped", "reason": ""}
    {"event": "exchange", "epoch": 7, "values": {"3": {"optimizer.lr": 0.016}}}
    {"event": "close"}

A line stands here before anything follows from it. Lines are only ever added, so a driver killed at any moment leaves
at most one half line, the last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmcore.config.plain import Plain, Settings
from mmcore.errors import DataError
from mmcore.storage import check_folder, patiently
from rayjobs.storage.json_record import OPTIONAL, JsonRecord

DRAW, REPORT, END, EXCHANGE, CLOSE = "draw", "report", "end", "exchange", "close"


@dataclass(frozen=True, kw_only=True)
class Event(JsonRecord):
    """One line; what does not belong to its kind is left out.

    Attributes:
        event: Its kind: draw, report, end, exchange or close.
        trial: The trial's number, from 1.
        values: Path -> value; of an exchange, trial's number -> such values.
        epoch: Finished epochs.
        objective: What the search maximises.
        objective_loss: Validation loss of the epoch it comes from.
        device_seconds: Spent on the trial so far.
        decision: What became of the trial: go, stop or wait.
        status: Of an ended trial: done, stopped or failed.
        reason: Why it failed.
    """

    event: str
    trial: int | None = field(default=None, metadata=OPTIONAL)
    values: Settings | None = field(default=None, metadata=OPTIONAL)
    epoch: int | None = field(default=None, metadata=OPTIONAL)
    objective: float | None = field(default=None, metadata=OPTIONAL)
    objective_loss: float | None = field(default=None, metadata=OPTIONAL)
    device_seconds: float | None = field(default=None, metadata=OPTIONAL)
    decision: str | None = field(default=None, metadata=OPTIONAL)
    status: str | None = field(default=None, metadata=OPTIONAL)
    reason: str | None = field(default=None, metadata=OPTIONAL)


class Journal:
    """The file of one search's events.

    Args:
        path: The file; it need not be there.
    """

    def __init__(self, path: Path):
        self._path = path
        self._size = 0

    def read(self, notify: Callable[[str], None]) -> list[Event]:
        """Returns the events, up to the first damaged line; cuts off what follows it, having put it aside.

        What was cut off is not lost: trials are drawn alike again, and each finds its folder.
        """
        content = self._path.read_bytes() if self._path.is_file() else b""
        events: list[Event] = []
        for line in content.splitlines(keepends=True):
            event = _event(line)
            if event is None:
                break
            events.append(event)
            self._size += len(line)
        if self._size < len(content):
            self._cut(content[self._size :], notify)
        return events

    def append(self, event: Event) -> None:
        """Adds an event; waits where storage is full or away.

        Raises:
            OSError: It still is, after some minutes.
        """
        line = json.dumps(event.to_dict()).encode() + b"\n"
        patiently(lambda: self._write(line), self._path)
        self._size += len(line)

    def _write(self, line: bytes) -> None:
        check_folder(self._path.parent)  # a disk that is away would be made anew beneath
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            file.truncate(self._size)  # what a full disk took of this line before
            written = file.write(line)
            if written != len(line):
                raise OSError(28, os.strerror(28), str(self._path))  # a full disk takes a part without an error

    def _cut(self, rest: bytes, notify: Callable[[str], None]) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged")
        aside.write_bytes(rest)
        with self._path.open("ab") as file:
            file.truncate(self._size)
        lines = len(rest.splitlines())
        what = "its last line is cut" if lines == 1 else f"{lines} lines from a damaged one on are left out"
        notify(f"{self._path.name}: {what} (kept in {aside.name}); the trials' folders tell the rest")


def _event(line: bytes) -> Event | None:
    """Returns the event of a whole line; None where it is none."""
    try:
        stored: Plain = json.loads(line) if line.endswith(b"\n") else None
        return Event.from_dict(stored) if isinstance(stored, Mapping) else None
    except (ValueError, DataError):
        return None
