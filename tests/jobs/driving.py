"""Starts `stub_driver` as a process of its own and looks at what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

HERE = Path(__file__).parent
TIMEOUT_S = 600
"""Generous: a busy machine of two cores takes a minute to start a process of a trial."""
FAST = [
    "--trials",
    "4",
    "--max-epochs",
    "8",
    "--method",
    "iprm",
    "--reference",
    "none",
    "--cpus",
    "2",
    "--concurrent",
    "2",
]


def start_driver(
    folder: Path,
    *arguments: str,
    plan: dict[str, Any] | None = None,
    epoch_s: float = 0.02,
    start_new_session: bool = False,
    script: str = "stub_driver.py",
) -> subprocess.Popen[str]:
    """Starts a tune command (or that of another script) as a user would, in `folder`, with the default folders."""
    environment = {
        **os.environ,
        "STUB_PLAN": json.dumps(plan or {}),
        "STUB_EPOCH_S": str(epoch_s),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(HERE / script), *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=start_new_session,
    )


def run_driver(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a tune command to its end."""
    process = start_driver(folder, *arguments, **options)
    stdout, stderr = output_of(process)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def output_of(process: subprocess.Popen[str], timeout_s: float = TIMEOUT_S) -> tuple[str, str]:
    """Waits for a driver's end, which is forced after the time-out; returns what it printed."""
    try:
        return process.communicate(timeout=timeout_s)
    finally:
        process.kill()


@contextmanager
def several_nodes() -> Iterator[Cluster]:
    """Yields a cluster with a head that has no CPUs, for nodes to be added, and ends all of it.

    What is left of it in this process would look for its head for some minutes, then end the process: a test that
    failed is kept, with all it refers to.
    """
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield nodes
    finally:
        nodes.shutdown()
        nodes.global_state.disconnect()


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, timeout_s: float = TIMEOUT_S
) -> None:
    """Waits until `condition()` holds; fails if the process ends before, or after the time-out."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the driver ended first:\n{process.stdout.read()}\n{process.stderr.read()}")  # type: ignore[union-attr]
        if time.monotonic() > deadline:
            raise AssertionError("timed out")
        time.sleep(0.05)


def epochs_of(run_dir: Path) -> int:
    """Returns the finished epochs of a stand-in run."""
    path = run_dir / "stub-epoch"
    return int(path.read_text() or 0) if path.exists() else 0


def starts_of(run_dir: Path) -> list[list[int]]:
    """Returns (pid, first epoch) of each start of a stand-in run."""
    path = run_dir / "starts"
    return [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def trials_of(search_folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the finished search's trials by name."""
    stored: Sequence[dict[str, Any]] = json.loads((search_folder / "search.json").read_text())["trials"]
    return {trial["name"]: trial for trial in stored}
