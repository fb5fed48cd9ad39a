"""Ways in which a file is damaged, for tests of what is done about it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _with(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


DAMAGES: dict[str, Callable[[Path], None]] = {
    "half": cut,
    "zero": _with(b""),
    "random": _with(random.Random(0).randbytes(300)),
    "list": _with(b"[]"),
    "object": _with(b"{}"),
    "missing": Path.unlink,
}
SOME = [pytest.param(name, marks=() if name in ("half", "list") else pytest.mark.slow) for name in DAMAGES]
"""All of them in the slow suite; the two that most often went wrong always."""
