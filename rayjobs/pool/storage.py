"""What the driver exchanges with object storage: journals go there, what trials wrote comes from there.

Trials may run on other nodes, whose files the driver sees in storage alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ray.tune import Callback

from mmcore.storage import patiently
from rayjobs.results_layout import CHECKPOINTS
from rayjobs.storage.mirror import Mirror
from rayjobs.trials.ticket import ticket_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

EVERY_S = 1.0
"""Between two times journals are sent; a step of a search takes milliseconds, an object some tens of them."""
AGAIN_S = 10.0
"""Seconds before storage that is away is asked again; the search continues meanwhile."""


class RunPuller(Callback):
    """Pulls what a trial wrote when it ends, before anybody looks at it.

    Args:
        notify: Told, in words, when storage is away for longer than is waited.
    """

    def __init__(self, notify: Callable[[str], None]):
        self._notify = notify

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Pulls; a search does not end where storage is away: what a trial reported, Tune has told its driver."""
        ticket = ticket_of(trial)
        try:
            ticket.job.mirror.pull(ticket.run_dir, without=(CHECKPOINTS,))
        except OSError as error:
            self._notify(
                f"storage is away ({error.strerror or error}): the search continues without what {ticket} wrote; "
                "--resume, when storage is back, reads it"
            )

    on_trial_error = on_trial_complete
    on_trial_recover = on_trial_complete


class JournalPusher(Callback):
    """Sends the journals of the searches whenever they changed.

    Args:
        mirror: Where to.
        journals: The files; those that are not there are not sent.
        notify: Told, in words, when storage is away and when it is back.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        mirror: Mirror,
        journals: Sequence[Path],
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._mirror = mirror
        self._journals = list(journals)
        self._notify = notify
        self._clock = clock
        self._sent: dict[Path, int] = {}
        self._next = float("-inf")
        self._is_away = False

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Sends what changed, but not at every step; a search does not stop where storage is away."""
        if self._clock() < self._next:
            return
        try:
            sent = self._send()
        except OSError as error:
            self._next = self._clock() + AGAIN_S
            if not self._is_away:
                self._notify(
                    f"storage is away ({error.strerror or error}): the search continues, its journal is sent later"
                )
            self._is_away = True
            return
        self._next = self._clock() + EVERY_S
        if self._is_away and sent:
            self._notify("storage is back: the search's journal was sent")
            self._is_away = False

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Sends, at the end of a `with` block, what is not sent yet, however it ends; waits where storage is away."""
        try:
            yield
        finally:
            patiently(self._send)

    def _send(self) -> bool:
        """Sends the journals that grew; returns whether there were any."""
        if not self._mirror:
            return False
        sizes = {path: path.stat().st_size for path in self._journals if path.is_file()}
        changed = {path: size for path, size in sizes.items() if self._sent.get(path) != size}
        self._mirror.push(changed)
        self._sent |= changed
        return bool(changed)
