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
    deadline = time.monotonic() + timeout_s
    request_resources(bundles=_bundles(shape) * wanted)
    try:
        while (room := _fitting(shape, nodes := resources.nodes())) < wanted and time.monotonic() < deadline:
            time.sleep(poll_s)
    finally:
        request_resources(bundles=[])
    notify(
        f"there is room for {room} trials on {len(nodes)} nodes" + ("" if room >= wanted else f" after {timeout_s:g} s")
    )
    return nodes


def _fitting(shape: TrialShape, nodes: list[Node]) -> int:
    try:
        return resources.concurrent_trials(shape, nodes)
    except UsageError:
        return 0


def _bundles(shape: TrialShape) -> list[dict[str, float]]:
    """Returns what the workers of one trial need, each on a node of its own or together with others."""
    each = {"CPU": shape.cpus_per_worker, "GPU": shape.gpus_per_worker}
    return [{name: amount for name, amount in each.items() if amount}] * shape.workers
