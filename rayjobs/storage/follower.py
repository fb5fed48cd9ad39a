"""Keeps a run's folder and its copy in object storage equal while the run trains."""

from __future__ import annotations

import contextlib
import fnmatch
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmcore.storage import patiently
from rayjobs.results_layout import CHECKPOINTS, LAST_FILES, MANIFEST_FILE, NOTES, TRAIN_FOLDER
from rayjobs.storage.mirror import Mirror, files_in
from rayjobs.storage.object_store import as_storage_errors

PUSH_EVERY_S = 20.0
"""Between two pushes while an epoch runs: signs of life, checkpoints within the epoch."""


class Follower:
    """Pushes what changed in a run's folder.

    Args:
        mirror: Where to.
        run_dir: The folder, just pulled.
        only: Patterns of the files that are pushed; (): all.
    """

    def __init__(self, mirror: Mirror, run_dir: Path, only: Sequence[str] = ()):
        self._mirror = mirror
        self._run_dir = run_dir
        self._only = only
        self._lock = threading.Lock()
        self._pushed = self._look() if mirror else {}

    def push(self) -> float:
        """Makes the twin equal to the folder; waits, for some minutes, where storage is away; returns the seconds."""
        if not self._mirror:
            return 0.0
        begun = time.monotonic()
        with self._lock:
            patiently(self._push)
        return time.monotonic() - begun

    @contextmanager
    def pushing_now_and_then(self) -> Iterator[None]:
        """Pushes from another thread too, for the time of a `with` block."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(PUSH_EVERY_S):
                with self._lock, contextlib.suppress(OSError):  # met, and said, at the next report
                    self._push(remove=False)

        thread = threading.Thread(target=follow, daemon=True)
        if self._mirror:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._mirror:
                thread.join()

    def _push(self, *, remove: bool = True) -> None:
        found = self._look()
        changed = [path for path, state in found.items() if self._pushed.get(path) != state]
        for names in ((), *LAST_FILES):
            batch = [path for path in changed if (path.name in names if names else not _comes_last(path))]
            self._mirror.push(batch)
            self._pushed |= {path: found[path] for path in batch}
        for path in self._superseded(found) if remove else ():
            with as_storage_errors():
                self._mirror._remove(path)
            del self._pushed[path]

    def _superseded(self, found: Collection[Path]) -> list[Path]:
        """Returns what a run itself removed: checkpoints of which a newer one stands, and notes of an attempt.

        Nothing else: of a folder that vanishes under its process the twin is all that is left.
        """
        standing = {_kind(path) for path in found if path.name == MANIFEST_FILE}
        gone = (path for path in self._pushed if path not in found)
        return sorted(path for path in gone if path.name in NOTES or _kind(path) in standing)

    def _look(self) -> dict[Path, tuple[int, int]]:
        """Returns each file of the folder with its size and time."""
        found = {}
        for path in files_in(self._run_dir):
            if path.relative_to(self._run_dir).parts[0] == TRAIN_FOLDER:
                continue
            if self._only and not any(fnmatch.fnmatch(path.name, pattern) for pattern in self._only):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found[path] = (status.st_size, status.st_mtime_ns)
        return found


@contextmanager
def following(mirror: Mirror, run_dir: Path, only: Sequence[str] = ()) -> Iterator[Follower]:
    """Keeps a run's folder and its twin equal for the time of a `with` block, which is this run's attempt.

    Args:
        mirror: Where the folder has its twin.
        run_dir: The run's folder.
        only: Patterns of the files this process writes; (): all of them.

    Yields:
        What pushes, at once, when it is told to.
    """
    mirror.pull(run_dir)
    follower = Follower(mirror, run_dir, only)
    with follower.pushing_now_and_then():
        yield follower
    follower.push()


def _kind(path: Path) -> tuple[Path, str] | None:
    """Returns which row of checkpoints a file belongs to, `epoch` or `best`; None of another file."""
    folder = path.parent
    return (folder.parent, folder.name.partition("-")[0]) if folder.parent.name == CHECKPOINTS else None


def _comes_last(path: Path) -> bool:
    return any(path.name in names for names in LAST_FILES)
