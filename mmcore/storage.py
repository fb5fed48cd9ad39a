"""Storage that is full, read-only or away for a while costs a run minutes, not its life."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

T = TypeVar("T")
WAITS_S = (1, 2, 5, 10, 20, 30, 60, 60, 60)
"""Seconds between attempts; four minutes in all, less than a run may stand still before it counts as hung."""
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


def patiently(write: Callable[[], T]) -> T:
    """Calls `write`, and again as long as storage is full, over its quota, read-only or away.

    Args:
        write: Writes something whole or not at all, so that it can be repeated.

    Raises:
        OSError: An error of another kind, at once; one of these kinds, after the last attempt.
    """
    attempts = Retrying(
        retry=retry_if_exception(_is_of_storage),
        wait=wait_chain(*(wait_fixed(seconds) for seconds in WAITS_S)),
        stop=stop_after_attempt(len(WAITS_S) + 1),
        before_sleep=_warn,
        reraise=True,
    )
    return attempts(write)


def _is_of_storage(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in STORAGE_ERRORS


def _warn(state: RetryCallState) -> None:
    """Says why and how long is waited."""
    if state.outcome is not None and state.next_action is not None:
        error, wait_s = state.outcome.exception(), state.next_action.sleep
        logging.getLogger(__name__).warning("%s; trying again in %d s", error, wait_s)


def sha256(path: Path) -> str:
    """Returns the file's sha256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
