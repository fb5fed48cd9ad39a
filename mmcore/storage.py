"""Storage that is full, read-only or away for a while costs a run minutes, not its life."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
WAITS_S = (1, 2, 5, 10, 20, 30, 60, 60, 60)
"""Between the attempts; four minutes in all, less than a run may stand still before it is taken to hang."""
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


def patiently(write: Callable[[], T]) -> T:
    """Calls `write`, again while storage is full, over its quota, read-only or away.

    Args:
        write: Writes something whole or not at all, so that it can be done again.

    Raises:
        OSError: Of another kind at once; of these after the last attempt.
    """
    for wait in WAITS_S:
        try:
            return write()
        except OSError as error:
            if error.errno not in STORAGE_ERRORS:
                raise
            logging.getLogger(__name__).warning("%s; trying again in %d s", error, wait)
            time.sleep(wait)
    return write()


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
