"""Room for trials on a cluster whose machines come when they are asked for: a search starts when they are there.

Ray does not tell what its autoscaler could add, and a trial started too early would wait without a report, as one that
hangs does. So the room is asked for first, and the search begins with what has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.autoscaler.sdk import request_resources

from mmcore.errors import UsageError
from rayjobs.cluster import resources
from rayjobs.cluster.resources import Node, TrialShape

TIMEOUT_S = 900.0
"""A GPU machine of a cloud is there in 3 to 8 minutes, its container's images pulled; a spot market may have none."""
POLL_S = 2.0
SAY_EVERY_S = 10.0
"""Between two lines about how long is waited, and for what."""


def wait_for_room(
    shape: TrialShape, wanted: int, notify: Callable[[str], None], timeout_s: float = TIMEOUT_S, poll_s: float = POLL_S
) -> list[Node]:
    """Returns the nodes as soon as `wanted` trials fit on them, or when the time is over.

    The autoscaler is asked once; the request is taken back at the end, whatever it is, so that machines that are idle
    later can go. A cluster without an autoscaler is waited for too: machines may be added by hand.

    Args:
        shape: What one trial asks for.
        wanted: Trials at once.
        notify: Told what is waited for, and what came of it.
        timeout_s: How long to wait; the search then begins with fewer at once, if any fit.
        poll_s: How often to look.
    """
    if _fitting(shape, nodes := resources.nodes()) >= wanted:
        return nodes
    notify(f"waiting for machines: room for {wanted} trials is asked for, there is room for {_fitting(shape, nodes)}")
    begun = said = time.monotonic()
    request_resources(bundles=_bundles(shape) * wanted)
    try:
        while (room := _fitting(shape, nodes := resources.nodes())) < wanted:
            now = time.monotonic()
            if now - begun >= timeout_s:
                break
            if now - said >= SAY_EVERY_S:
                said = now
                notify(
                    f"waiting for {_missing(shape, wanted - room)}: {_minutes(now - begun)} of {_minutes(timeout_s)}; "
                    f"the cluster has {_all_of(nodes)}"
                )
            time.sleep(poll_s)
    finally:
        request_resources(bundles=[])
    notify(
        f"there is room for {room} trials on {len(nodes)} nodes" + ("" if room >= wanted else f" after {timeout_s:g} s")
    )
    return nodes


def _missing(shape: TrialShape, trials: int) -> str:
    """Returns what the workers of some trials ask for, for a person: `1 worker with 1 CPU and 1 GPU`."""
    workers = trials * shape.workers
    each = [
        _counted(shape.cpus_per_worker, "CPU"),
        *([_counted(shape.gpus_per_worker, "GPU")] if shape.gpus_per_worker else []),
    ]
    return f"{_counted(workers, 'worker')} with {' and '.join(each)}{' each' if workers > 1 else ''}"


def _all_of(nodes: list[Node]) -> str:
    """Returns what there is, for a person: `2 CPUs and 1 GPU on 2 nodes`."""
    gpus = sum(node.gpus for node in nodes)
    there = [_counted(sum(node.cpus for node in nodes), "CPU"), *([_counted(gpus, "GPU")] if gpus else [])]
    return " and ".join(there) + (f" on {len(nodes)} nodes" if len(nodes) > 1 else "")


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _minutes(seconds: float) -> str:
    """Returns `20 s`, `3 m 20 s` or `15 m`."""
    minutes, rest = divmod(round(seconds), 60)
    return " ".join(part for part in (f"{minutes} m" if minutes else "", f"{rest} s" if rest else "") if part)


def _fitting(shape: TrialShape, nodes: list[Node]) -> int:
    try:
        return resources.concurrent_trials(shape, nodes)
    except UsageError:
        return 0


def _bundles(shape: TrialShape) -> list[dict[str, float]]:
    """Returns what the workers of one trial need, each on a node of its own or together with others."""
    each = {"CPU": shape.cpus_per_worker, "GPU": shape.gpus_per_worker}
    return [{name: amount for name, amount in each.items() if amount}] * shape.workers
