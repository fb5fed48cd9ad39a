"""Files written whole or not at all, on storage that may be full, read-only or away for a while.

Everything that outlives a process is written by this module. Storage that fails costs a run minutes, not its life: a
write is tried again for four minutes, however whatever wrote it tells of the failure.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

T = TypeVar("T")
WAITS_S = (1, 2, 5, 10, 20, 30, 60, 60, 60)
"""Seconds between attempts; four minutes in all, less than a run may stand still before it counts as hung."""
FULL = {errno.ENOSPC, errno.EDQUOT}
READ_ONLY = {errno.EROFS}
AWAY = {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN}
STORAGE_ERRORS = FULL | READ_ONLY | AWAY
WRITER_MARKS = ("PytorchStreamWriter failed", "unexpected pos")
"""What PyTorch's own writer says, as a RuntimeError without a number, of a disk that took a part of a file."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
ASIDE = ".damaged"
"""Ends the name of the file that keeps what could not be read of another."""


def patiently(write: Callable[[], T], path: Path | str = "") -> T:
    """Calls `write`, and again as long as storage is full, over its quota, read-only or away.

    Args:
        write: Writes something whole or not at all, so that it can be repeated.
        path: What is written, for the message.

    Raises:
        OSError: Storage did not come back: of one of STORAGE_ERRORS, however `write` told of it.
        Exception: Anything else `write` raises, at once.
    """
    begun = time.monotonic()
    attempts = Retrying(
        retry=retry_if_exception(lambda error: storage_fault(error) is not None),
        wait=wait_chain(*(wait_fixed(seconds) for seconds in WAITS_S)),
        stop=stop_after_attempt(len(WAITS_S) + 1),
        before_sleep=lambda state: _warn(state, path),
        reraise=True,
    )
    try:
        result = attempts(write)
    except Exception as error:
        fault = storage_fault(error)
        if fault is None or (fault is error and (fault.filename or not path)):
            raise
        # Whoever decides about another try goes by the number, which PyTorch's and zipfile's own errors lack; whoever
        # reads of it wants to know which disk, which a write does not tell.
        raise OSError(fault.errno, fault.strerror, fault.filename or str(path) or None) from error
    if attempts.statistics["attempt_number"] > 1:
        _logger().warning("%swritten after %.0f s", f"{path}: " if path else "", time.monotonic() - begun)
    return result


def storage_fault(error: BaseException | None) -> OSError | None:
    """Returns the error of full, read-only or absent storage that `error` is or came of; None: it has another cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            return error
        if isinstance(error, RuntimeError) and any(mark in str(error) for mark in WRITER_MARKS):
            return OSError(errno.EIO, f"it took a part of a file only ({str(error).splitlines()[0]})")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _warn(state: RetryCallState, path: Path | str) -> None:
    """Says what is the matter, and how long is waited."""
    if state.outcome is None or state.next_action is None:
        return
    fault = storage_fault(state.outcome.exception())
    if fault is not None:
        place = path or fault.filename or ""
        _logger().warning(
            "%sstorage is %s (%s); trying again in %d s, for %d minutes in all",
            f"{place}: " if place else "", name_of(fault), fault.strerror, state.next_action.sleep, sum(WAITS_S) // 60,
        )  # fmt: skip


def name_of(fault: OSError) -> str:
    """Returns what storage is that gave an error of STORAGE_ERRORS: `full`, `read-only` or `away`."""
    return "full" if fault.errno in FULL else "read-only" if fault.errno in READ_ONLY else "away"


def _logger() -> logging.Logger:
    return logging.getLogger(__name__)


class WholeWriter:
    """Hands bytes on to an unbuffered file, and keeps an error until the serialiser has ended.

    A full disk takes a part of a write and says so by a number alone; and PyTorch's serialiser replaces any error that
    is raised inside of it by one of its own, which does not tell a full disk from a bad file.

    Args:
        file: Opened with `buffering=0`.
    """

    def __init__(self, file: Any):
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Writes all of `data`; after an error, nothing any more."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self._error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        return size

    def flush(self) -> None:
        """Does nothing: nothing is held back."""

    def end(self, *, synced: bool) -> None:
        """Tells whether all was written; waits, where `synced`, until it is on the disk.

        Raises:
            OSError: A write failed; the first one that did.
        """
        if self._error is not None:
            raise self._error
        if synced:
            os.fsync(self._file.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to be written, which replaces it; is removed where that fails.

    Raises:
        OSError: Their folder is gone (ESTALE): it was there, so its disk is away.
    """
    check_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # half a file would take the space that is waited for
            temporary.unlink(missing_ok=True)
        raise


def check_folder(path: Path) -> None:
    """Raises an OSError where the folder of a file is gone that was there: its disk is away, and may come back.

    Made anew, it would take the file to another disk, where nobody looks for it.
    """
    if not path.parent.is_dir():
        raise OSError(errno.ESTALE, "its folder is gone", str(path.parent))


def make_folder(path: Path, home: Path) -> None:
    """Makes a folder, and those above it, below another that must be there; waits where that is gone.

    Args:
        path: The folder; may be there.
        home: A folder above it, on the disk it belongs to.

    Raises:
        OSError: `home` is still gone after some minutes (ESTALE), or the disk full.
    """

    def make() -> None:
        if not home.is_dir():
            raise OSError(errno.ESTALE, f"{home} is gone", str(home))
        path.mkdir(parents=True, exist_ok=True)

    patiently(make, path)


def write_whole(path: Path, data: bytes, *, patient: bool = True, synced: bool = False) -> None:
    """Writes a file under a temporary name and renames it, so that a reader never sees a part of it.

    Args:
        path: The file; its folder must be there.
        data: Its new content.
        patient: Wait, for some minutes, where storage is full or away.
        synced: Wait until it is on the disk, which a machine that loses its power needs.

    Raises:
        OSError: It could not be written.
    """

    def write() -> None:
        with whole_file(path) as temporary:
            write_synced(temporary, data) if synced else temporary.write_bytes(data)

    if patient:
        patiently(write, path)
    else:
        write()


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append_whole(path: Path, data: bytes, *, lines: bool = False, synced: bool = False) -> None:
    """Appends to a file, whole or not at all, one process at a time; waits where storage is full or away.

    Args:
        path: The file; its folder must be there.
        data: What is appended.
        lines: The file is made of lines: half a one at its end, of a process that was killed, is set aside first.
        synced: Wait until it is on the disk.

    Raises:
        OSError: It could not be written; the file is what it was.
    """
    patiently(lambda: _append(path, data, lines=lines, synced=synced), path)


def _append(path: Path, data: bytes, *, lines: bool, synced: bool) -> None:
    check_folder(path)
    with path.open("ab+", buffering=0) as file:
        _lock(file.fileno())
        if lines:
            _set_half_line_aside(path, file)
        size = file.seek(0, os.SEEK_END)
        writer = WholeWriter(file)
        writer.write(data)
        try:
            writer.end(synced=synced)
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def _lock(descriptor: int) -> None:
    """Waits for other processes that write the file; some shared folders have no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _set_half_line_aside(path: Path, file: Any) -> None:
    """Moves the half line a killed process left at a file's end into another file, and says so.

    Args:
        path: The file.
        file: The same, open and locked.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read(1) in (b"", b"\n"):
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if _as_object(content[end:]) is not None:  # whole, but for its end: an editor's work
        file.write(b"\n")
        return
    aside = path.with_name(path.name + ASIDE)
    with aside.open("ab") as kept:
        kept.write(content[end:] + b"\n")
    file.truncate(end)
    _logger().warning("%s ended in half a line (%d bytes), which is now in %s", path, size - end, aside.name)


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the objects in a file of JSON lines, and what is wrong with it in words (one entry at most).

    A line that is no JSON object is left out; a file that is not there has no lines.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = [(number, _as_object(line)) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    damaged = [number for number, line in lines if line is None]
    problems = [f"{path}: {len(damaged)} of {len(lines)} lines cannot be read (the first is line {damaged[0]}); they "
                "are left out"] if damaged else []  # fmt: skip
    return [line for _, line in lines if line is not None], problems


def _as_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def set_aside(path: Path, why: str) -> None:
    """Gives a file that cannot be read another name, and says so; whoever calls writes it anew.

    Args:
        path: The file.
        why: What is wrong with it; names the file.
    """
    aside = path.with_name(path.name + ASIDE)
    path.replace(aside)
    _logger().warning("%s; it is kept as %s and made again", why, aside.name)


def sha256(path: Path) -> str:
    """Returns the file's sha256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
