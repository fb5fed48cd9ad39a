"""On what and with what a run was trained: versions, commit, device and times, for its `result.json`.

None of it decides a result, and no two runs share all of it: what compares runs leaves it out.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rayjobs.storage.json_record import JsonRecord

PACKAGES = ("equipoise", "torch", "ray", "numpy")
"""Whose versions are told, beside Python's."""
GIT_SECONDS = 10.0
"""How long git may take to tell its commit; a network's disk can be slow."""
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Environment(JsonRecord):
    """On what and with what something was trained; of several runs all that occurred, joined by commas.

    Attributes:
        software: Package -> version, "python" among them.
        commit: Of the checkout the code lies in; "" where it was installed, or git is not at hand.
        device: Name of the GPU, or the processor's model.
        threads: CPU threads of a worker.
        begun: When training began, ISO 8601; of a resumed run its last attempt.
        ended: When it ended.
    """

    software: Mapping[str, str]
    commit: str
    device: str
    threads: int
    begun: str
    ended: str


def now() -> str:
    """Returns the time, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment_of(device: torch.device, begun: str) -> Environment:
    """Returns this process's environment, at the end of a training.

    Args:
        device: That was trained on.
        begun: `now()`, when training began.
    """
    return Environment(
        software=versions(),
        commit=commit_of(Path(__file__).parents[2]),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        threads=torch.get_num_threads(),
        begun=begun,
        ended=now(),
    )


def merged(environments: Iterable[Environment | None]) -> Environment | None:
    """Returns what several runs were trained with, from the first's begin to the last's end; None where none says."""
    known = [each for each in environments if each is not None]
    if not known:
        return None
    names = dict.fromkeys(name for each in known for name in each.software)
    return Environment(
        software={name: _joined([each.software.get(name, "") for each in known]) for name in names},
        commit=_joined([each.commit for each in known]),
        device=_joined([each.device for each in known]),
        threads=max(each.threads for each in known),
        begun=min(each.begun for each in known),
        ended=max(each.ended for each in known),
    )


def _joined(values: Sequence[str]) -> str:
    return ", ".join(sorted(set(filter(None, values))))


def versions() -> dict[str, str]:
    """Returns package -> version, of Python and of the PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def commit_of(root: Path) -> str:
    """Returns the commit of a checkout, with "-dirty" where its files were changed; "" where it is none.

    Args:
        root: The folder that holds the packages. It must be the checkout itself: a folder inside somebody else's
            checkout, as an environment's often is, has no commit of its own.
    """
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # many workers ask at once, and none is to write
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, env=quiet, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def processor() -> str:
    """Returns the processor's model, or what of it the system tells."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()
