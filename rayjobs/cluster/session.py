"""The Ray a command runs on: started here or joined, what it has, and how many trials fit in it at once."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import ray

from mmcore.errors import UsageError
from rayjobs.cluster.joining import find
from rayjobs.cluster.resources import Node, nodes
from rayjobs.ray_internals import environment
from rayjobs.ray_internals.errors import is_slow_start
from rayjobs.ray_internals.joining import showing_token

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
        UsageError: The address cannot be used, nothing or something else answers there, or it wants another token.
    """
    found = find(address) if address is not None else None
    local: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "include_dashboard": needs_dashboard}
    if store_bytes:
        local["object_store_memory"] = store_bytes
    level = logging.INFO if verbose else logging.CRITICAL
    # Ray prints a paragraph on each lost process to standard output, which belongs to the result.
    with (
        environment.session(),
        showing_token() if found and found.asks_for_token else nullcontext(),
        environment.logging_at(level),
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(sys.stderr if verbose else nowhere),
    ):
        try:
            _init(
                address=found.address if found else "local",
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                configure_logging=verbose,
                **({} if found else {**local, "dashboard_host": "127.0.0.1"}),
            )
        except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
            if not found:
                raise
            reason = str(error).partition("\n")[0]
            raise UsageError(f"--address {found.address}: the Ray there cannot be joined ({reason})") from None
        if found:
            print(f"joined the Ray at {found}", file=sys.stderr)
        try:
            yield nodes()
        finally:
            ray.shutdown()


def _init(**settings: Any) -> None:
    """Starts or joins Ray; tries again where its processes take longer than the half minute it gives them."""
    before = signal.getsignal(signal.SIGTERM)
    for _ in range(NUM_STARTS):
        try:
            ray.init(**settings)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray's own would end the command without a word
        except Exception as error:
            if not is_slow_start(error):
                raise
        else:
            return
    raise UsageError(
        f"Ray did not start, {NUM_STARTS} times in a row: the machine is too busy, or out of memory; end what else "
        "runs on it, then try again (--verbose shows Ray's own log)"
    )
