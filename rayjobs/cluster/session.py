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
from rayjobs.ray_internals import environment
from rayjobs.ray_internals.errors import is_slow_start

NUM_STARTS = 3
"""How often it is tried to start a local Ray on a machine too busy for it."""


@contextmanager
def start(
    address: str | None = None,
    *,
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
    local: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "include_dashboard": needs_dashboard}
    if store_bytes:
        local["object_store_memory"] = store_bytes
    level = logging.INFO if verbose else logging.CRITICAL
    # Ray prints a paragraph on each lost process to standard output, which belongs to the result.
    with (
        environment.session(),
        environment.logging_at(level),
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(sys.stderr if verbose else nowhere),
    ):
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
            if not is_slow_start(error):
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
