"""Where a request is computed, and what a trial asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayjobs.cluster import resources
from rayjobs.experiment.request import Request
from rayjobs.runs.job import Body
from rayjobs.search.searches import Search
from rayjobs.trials.hang_limits import DEFAULT_LIMIT_S


@dataclass(frozen=True)
class Machine:
    """Where and how fast a request is computed; another one gives the same kind of result.

    Attributes:
        address: None: a local Ray; else the cluster to join.
        cpus: CPUs of a local Ray; None: all.
        gpus: GPUs of a local Ray; None: all.
        concurrent: Most trials at once; None: as many as fit.
        max_failures: How often a lost process is tried again.
        hang_limit_s: A running trial that does nothing for so long is ended and tried again; 0: never.
        budget_s: Seconds for all searches together; None: no limit.
        device_budget_s: Device-seconds for all searches together; None: no limit.
        per_search: Trials of each search at a time; None: what fills the machine.
        cache_bytes: Data sets up to this size are held in the object store; None: a share of it; 0: all are streamed.
        verbose: Show Ray's own log.
        body: What a trial runs; None: the worker's.
    """

    address: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    concurrent: int | None = None
    max_failures: int = 2
    hang_limit_s: float = DEFAULT_LIMIT_S
    budget_s: float | None = None
    device_budget_s: float | None = None
    per_search: int | None = None
    cache_bytes: int | None = None
    verbose: bool = False
    body: Body | None = None


def trial_shape(
    request: Request, search: Search, nodes: Sequence[resources.Node], *, streams: bool
) -> resources.TrialShape:
    """Returns what a trial asks for; where nothing is said, a GPU a worker if the cluster has any."""
    gpus = request.gpus_per_worker
    if gpus is None:
        wanted = search.config.trainer.device != "cpu"
        gpus = 1.0 if wanted and any(node.gpus for node in nodes) else 0.0
    cpus: float = search.config.trainer.threads
    if streams and cpus == 1 and max(node.cpus for node in nodes) < 2:
        cpus = 0.5  # the only CPU is shared with the readers
    return resources.TrialShape(request.workers, cpus, gpus, streams, request.min_workers)
