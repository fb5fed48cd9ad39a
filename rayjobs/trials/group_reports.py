"""What a worker group reports, on its way to the trial it belongs to.

Ray Train has a callback for it, whose rows the trial's own thread takes up between two requests of Tune. A row that
waits there while the group ends meets the trial's last word in a queue with room for one: both wait for ever. Here a
thread of the trial hands the rows on as if the trial had reported them, and the trial waits for it before it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ray import tune
from ray.train import Checkpoint, UserCallback
from ray.util.queue import Full, Queue

from rayjobs.ray_internals.groups import in_tune_session

AGAIN_S = 1.0
"""After this long without room in the queue it is looked whether anybody still empties it."""


class RowSender(UserCallback):
    """Sends the first worker's rows from a group's controller, which waits while the one before is not taken.

    Args:
        rows: Where the trial takes them from.
    """

    def __init__(self, rows: Queue):
        self._rows = rows

    def after_report(self, run_context: Any, metrics: list[dict[str, float]], checkpoint: Checkpoint | None) -> None:
        """Sends."""
        self._rows.put(dict(metrics[0]))


@contextmanager
def forwarding() -> Iterator[list[UserCallback]]:
    """Yields the callbacks of a group whose rows this trial reports, all of them before the end; none outside Tune."""
    if not in_tune_session():
        yield []
        return
    rows = Queue(1, actor_options={"num_cpus": 0})
    thread = threading.Thread(target=_forward, args=(rows,), daemon=True)
    thread.start()
    try:
        yield [RowSender(rows)]
    finally:
        _end(rows, thread)
        rows.shutdown(force=True)


def _forward(rows: Queue) -> None:
    with suppress(SystemExit):  # what Tune's report ends a trial's thread with
        while (row := rows.get()) is not None:
            tune.report(row)  # waits until Tune asks for the next


def _end(rows: Queue, thread: threading.Thread) -> None:
    """Waits until all rows are handed on, or nobody does any more."""
    while thread.is_alive():
        try:
            rows.put(None, timeout=AGAIN_S)
        except Full:
            continue
        break
    thread.join()
