"""Real file systems that are full, read-only or absent: a small tmpfs in a mount namespace of its own.

A test hands a function of its module to `on_small_disks`, which runs it in another process where mounting is allowed
(as root of a user namespace, which needs no rights outside) and nobody else sees what is mounted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

NAMESPACES = (["unshare", "--map-root-user", "--mount"], ["unshare", "--mount"])
"""Ways to a mount namespace: as anybody; as root where user namespaces are switched off."""
BLOCK = 4096


class SmallDisk:
    """A tmpfs of some bytes.

    Args:
        path: Where it is mounted; made.
        size: Its bytes.
    """

    def __init__(self, path: Path, size: int):
        self.path = path
        self._hidden = path.with_name(f"{path.name}-itself")
        self._filler = self._hidden / "filler"
        path.mkdir()
        self._hidden.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self._hidden))
        self.bring_back()

    def fill(self, leave: int = 0) -> None:
        """Takes all of its room but `leave` bytes; what is written by others at the same time is no obstacle."""
        with self._filler.open("ab", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(b"\0" * 16 * BLOCK):
                    pass
            with contextlib.suppress(OSError):
                while file.write(b"\0" * BLOCK):
                    pass
        if leave:
            os.truncate(self._filler, max(0, self._filler.stat().st_size - leave))

    def free(self) -> None:
        """Gives its room back."""
        self._filler.unlink(missing_ok=True)

    def make_read_only(self) -> None:
        """Waits for a moment in which nobody has a file open for writing, as the system asks for."""
        _patiently("mount", "-o", "remount,ro", str(self._hidden))

    def make_writable(self) -> None:
        """Takes that back."""
        _run("mount", "-o", "remount,rw", str(self._hidden))

    def take_away(self) -> None:
        """Unmounts it: its folder is there, and empty."""
        _run("umount", "--lazy", str(self.path))

    def bring_back(self) -> None:
        """Mounts it again, with all that is on it."""
        _run("mount", "--bind", str(self._hidden), str(self.path))


def on_small_disks(function: Callable[[Path], None], folder: Path, timeout_s: float = 240) -> str:
    """Runs `function(folder)` where it can mount; returns what it printed on standard error.

    Args:
        function: A module's top-level function; its assertions are this test's.
        folder: An empty folder.
        timeout_s: Ends it.

    Raises:
        AssertionError: It failed, or nothing here can be mounted: then nothing is known, which is no pass.
    """
    able = [way for way in NAMESPACES if subprocess.run([*way, "true"], capture_output=True).returncode == 0]
    assert able, "neither `unshare --map-root-user --mount` nor `unshare --mount` goes here: run it where one does"
    module = sys.modules[function.__module__]
    paths = [str(Path(str(module.__file__)).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [*able[0], sys.executable, __file__, function.__module__, function.__name__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stderr


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Waits for a condition; fails naming it."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.02)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _patiently(*command: str) -> None:
    wait_until(lambda: subprocess.run(command, capture_output=True).returncode == 0, " ".join(command), 20)


if __name__ == "__main__":
    getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(Path(sys.argv[3]))
