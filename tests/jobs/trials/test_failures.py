"""What counts as a lost process, and what as a wrong input."""

from __future__ import annotations

import errno

import pytest

from mmcore.errors import DataError
from rayjobs.trials.failures import LostWorkers, is_fatal


def wrapped(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__context__ = inner
    return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        wrapped(ValueError("Can't close the ZIP file"), OSError(errno.ENOSPC, "No space left on device")),
        LostWorkers("worker 1 of its group was lost"),
    ],
)
def test_storage_that_failed_is_a_lost_process_however_it_is_told(error: BaseException) -> None:
    assert not is_fatal(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2"), ValueError("no"), wrapped(DataError("cut"), OSError(errno.EIO, "away"))]
)
def test_what_would_come_again_is_a_wrong_input(error: BaseException) -> None:
    assert is_fatal(error)
