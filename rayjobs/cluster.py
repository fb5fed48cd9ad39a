"""The Ray a command runs on: started here or joined, what it has, and how many trials fit in it at once."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import torch

from mmcore.errors import UsageError

NUM_STARTS = 3
"""How often it is tried to start a local Ray on a machine too busy for it."""
_ENVIRONMENT = {
    # A report of a worker group costs 0.03 s instead of 1 s, and a dead worker is seen in 0.2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # See `rayjobs.recovery.ThriftyController`.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A trial that fails before its first epoch has no metric to report beside the reason.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is handled by `interruptible`, which can then tell an interrupted search from a finished one.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # What a stream has given out is freed ten times a second, not once: a second of it may fill a small store.
    "RAY_free_objects_period_milliseconds": "100",
    # A reader that has waited for a second would be ended, and another one take seconds to start in mid-epoch.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # Tune prints nothing by itself.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
READER_CPUS = 0.5
"""What is left to Ray Data's read tasks on each node where trials stream; without it a stream waits for ever."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class TrialShape:
    """What one trial asks for.

    Attributes:
        workers: Processes that train together; of an elastic group the most.
        cpus_per_worker: CPU threads of each (`trainer.threads`).
        gpus_per_worker: GPUs of each; a fraction packs several on one.
        streams: Whether it reads through Ray Data's own tasks while it trains.
        min_workers: The fewest of an elastic group, which goes on with those there is room for; None: it is fixed.
    """

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    streams: bool = False
    min_workers: int | None = None

    @property
    def worker_group(self) -> bool:
        """Whether it runs as a Ray Train worker group rather than in its own, reused process."""
        return self.workers > 1 or self.gpus_per_worker > 0

    def describe(self) -> str:
        """Returns what it asks for, for a person."""
        gpus = f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        number = f"{self.min_workers} to {self.workers}" if self.min_workers else f"{self.workers}"
        workers = "1 worker" if self.workers == 1 else f"{number} workers, each"
        form = "a Ray Train worker group" if self.worker_group else "a process that trials share in turn"
        return f"{workers} with {self.cpus_per_worker:g} CPU{gpus}, in {form}"


@contextmanager
def start(
    address: str | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    verbose: bool = False,
    needs_dashboard: bool = False,
    store_bytes: int | None = None,
) -> Iterator[list[Node]]:
    """Starts a local Ray, or joins a cluster, for the time of a `with` block.

    Args:
        address: None for a local Ray; "auto" or "host:port" for a cluster.
        num_cpus: CPUs of a local Ray; default: those the machine has.
        num_gpus: GPUs of a local Ray; default: those the machine has.
        verbose: Shows Ray's own log and that of its workers.
        needs_dashboard: Worker groups run, whose clean-up needs the dashboard. It listens on loopback.
        store_bytes: Object store of a local Ray; default: 30 % of the memory.

    Yields:
        The cluster's nodes.

    Raises:
        UsageError: The address cannot be used or nothing answers there.
    """
    check_address(address)
    os.environ.update(_ENVIRONMENT)
    local: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "include_dashboard": needs_dashboard}
    if store_bytes:
        local["object_store_memory"] = store_bytes
    _quieten(verbose)
    # Ray prints a paragraph on each lost process to standard output, which belongs to the result.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(sys.stderr if verbose else nowhere):
        try:
            _init(
                address=address or "local",
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                configure_logging=verbose,
                **({} if address else {**local, "dashboard_host": "127.0.0.1"}),
            )
        except (ConnectionError, TimeoutError, ValueError) as error:
            raise UsageError(f"--address {address}: no Ray cluster can be joined there ({error})") from None
        try:
            yield nodes()
        finally:
            ray.shutdown()


def _init(**settings: Any) -> None:
    """Starts or joins Ray; tries again where its processes take longer than the half minute it gives them."""
    for _ in range(NUM_STARTS):
        try:
            ray.init(**settings)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
        else:
            return
    raise UsageError(
        f"Ray did not start, {NUM_STARTS} times in a row: the machine is too busy, or out of memory; end what else "
        "runs on it, then try again (--verbose shows Ray's own log)"
    )


def check_address(address: str | None) -> None:
    """Refuses addresses this release cannot use.

    Raises:
        UsageError: A job server's address, to which a command is submitted, or something that is no address.
    """
    if address and address.startswith(("http://", "https://")):
        raise UsageError(
            f"--address {address} is a job server's: submit the command to it (python -m rayjobs.submit), or join the "
            "cluster with --address HOST:PORT"
        )
    if address and address != "auto" and not address.removeprefix("ray://").rpartition(":")[2].isdigit():
        raise UsageError(f"--address must be 'auto' or HOST:PORT, got {address!r}")


def nodes() -> list[Node]:
    """Returns what each living node of the cluster has."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]


def local_node(cpus: int | None = None, gpus: int | None = None) -> Node:
    """Returns what a local Ray will have, without starting it: what is given, else what this process may use."""
    return Node(cpus or len(os.sched_getaffinity(0)), visible_gpus(gpus))


def visible_gpus(given: int | None = None) -> int:
    """Returns the GPUs a local Ray will have: those `given`, else those this process sees."""
    return torch.cuda.device_count() if given is None else given


def concurrent_trials(shape: TrialShape, available: list[Node], limit: int | None = None) -> int:
    """Returns how many trials run at once.

    Args:
        shape: What one trial asks for.
        available: What the nodes have.
        limit: At most so many, if given.

    Raises:
        UsageError: Not even one fits; says what was asked for and what there is. (Ray would wait for ever.)
    """
    workers = sum(_workers_on(node, shape) for node in available)
    fitting = workers // shape.workers
    if fitting < 1 and shape.min_workers and workers >= shape.min_workers:
        fitting = 1
    if fitting < 1:
        raise UsageError(_too_much(shape, available))
    return max(1, min(fitting, limit or fitting))


def tune_resources(shape: TrialShape) -> dict[str, float]:
    """Returns what Tune reserves for a trial; the workers of a group reserve their own.

    A group's trial process only waits: a CPU held by it would be one its workers wait for, so it claims memory.
    """
    if shape.worker_group:
        return {"cpu": 0, "memory": 64 * 2**20}
    return {"cpu": shape.cpus_per_worker, "gpu": shape.gpus_per_worker}


def _workers_on(node: Node, shape: TrialShape) -> int:
    cpus = node.cpus - (READER_CPUS if shape.streams else 0)
    fitting = math.floor(cpus / shape.cpus_per_worker + 1e-9)
    if shape.gpus_per_worker:
        fitting = min(fitting, _workers_on_gpus(node.gpus, shape.gpus_per_worker))
    return max(0, fitting)


def _workers_on_gpus(gpus: float, each: float) -> int:
    """A fraction never spans two GPUs."""
    return math.floor(1 / each + 1e-9) * math.floor(gpus) if each < 1 else math.floor(gpus / each)


def _too_much(shape: TrialShape, available: list[Node]) -> str:
    least = shape.min_workers or shape.workers
    asked = {"CPU": least * shape.cpus_per_worker, "GPU": least * shape.gpus_per_worker}
    there = {"CPU": sum(node.cpus for node in available), "GPU": sum(node.gpus for node in available)}
    machines = f"{len(available)} nodes" if len(available) > 1 else "1 node"
    readers = (
        f", of which {READER_CPUS:g} a node is left to the readers of a streamed data set" if shape.streams else ""
    )
    return (
        f"a trial asks for {shape.describe()}: {_amounts(asked)} in all; "
        f"the cluster has {_amounts(there)} on {machines}{readers}. Lower --workers or --gpus-per-worker "
        "(--gpus-per-worker 0 trains on CPUs), or give a larger cluster with --address"
    )


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _quieten(verbose: bool) -> None:
    for name in ("ray", "ray.tune", "ray.train", "ray.data", "hyperopt", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL)


class Interruption:
    """Tells whether the user, or the system, asked the command to end."""

    def __init__(self) -> None:
        self.requested = False
        self.searching = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Ends a search gracefully the first time, anything else at once."""
        if self.searching and not self.requested:
            self.requested = True
            os.kill(os.getpid(), signal.SIGUSR1)  # Tune saves its state and returns
            return
        self.requested = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handles Ctrl-C and SIGTERM alike. To be entered after `start`: Ray sets a handler of its own.

    Ray's handler for SIGTERM saves nothing, and Tune returns from a Ctrl-C as if the search had ended.
    """
    interruption = Interruption()
    previous = {number: signal.signal(number, interruption.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
