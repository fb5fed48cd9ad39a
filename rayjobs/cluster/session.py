"""The Ray a command runs on: started here or joined, what it has, and how many trials fit in it at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray

from mmcore.errors import UsageError
from rayjobs.cluster.resources import Node, nodes

NUM_STARTS = 3
"""How often it is tried to start a local Ray on a machine too busy for it."""
_ENVIRONMENT = {
    # A report of a worker group costs 0.03 s instead of 1 s, and a dead worker is seen in 0.2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # See `rayjobs.ray_internals.ThriftyController`.
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


def _quieten(verbose: bool) -> None:
    for name in ("ray", "ray.tune", "ray.train", "ray.data", "hyperopt", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL)
