"""What the driver exchanges with object storage: journals go there, what trials wrote comes from there.

Trials may run on other nodes, whose files the driver sees in storage alone.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ray.tune import Callback

from mmcore.storage import WAITS_S, name_of, patiently
from rayjobs.results_layout import CHECKPOINTS
from rayjobs.storage.mirror import Mirror
from rayjobs.trials.ticket import ticket_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

EVERY_S = 1.0
"""Between two times journals are sent; a step of a search takes milliseconds, an object some tens of them."""
LOOK_EVERY_S = 2.0
"""Between two looks at the disk of the results."""
LEAST_BYTES = 16_384
"""A disk with less room than this counts as full: not even a row and its summary go on it."""
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


class DiskWatch(Callback):
    """Says when the disk of the results is full, read-only or away, and when it is back.

    The runs wait for it in their own processes, whose messages nobody sees.

    Args:
        folder: The experiment's.
        notify: Told in words.
        clock: Seconds, for tests.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._folder = folder
        self._notify = notify
        self._clock = clock
        self._next = float("-inf")
        self._fault = ""

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Looks, every few seconds."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + LOOK_EVERY_S
        error = disk_fault(self._folder)
        fault = "" if error is None else name_of(error)
        if fault and fault != self._fault:
            self._notify(
                f"the disk of {self._folder} is {fault}: what is to be written waits, for up to "
                f"{sum(WAITS_S) // 60:.0f} minutes, and goes on by itself"
            )
        elif self._fault and not fault:
            self._notify(f"the disk of {self._folder} is back: the search goes on")
        self._fault = fault


def disk_fault(folder: Path) -> OSError | None:
    """Returns what writing into a folder would raise where its disk is full, read-only or away; else None."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return OSError(errno.ESTALE, "it is gone", str(folder))
    if status.f_flag & os.ST_RDONLY:
        return OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
    if status.f_bavail * status.f_frsize < LEAST_BYTES:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    return None


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
