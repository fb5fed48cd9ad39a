from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray
from driving import several_nodes
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from rayjobs.cluster import autoscaling, resources
from rayjobs.cluster.autoscaling import wait_for_room
from rayjobs.cluster.resources import Node, TrialShape

HEAD = Node(0, 0)
GPU = TrialShape(workers=2, gpus_per_worker=1)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, float]]]:
    seen: list[list[dict[str, float]]] = []
    monkeypatch.setattr(autoscaling, "request_resources", lambda bundles: seen.append(bundles))
    return seen


def growing(monkeypatch: pytest.MonkeyPatch, *stages: list[Node]) -> None:
    """A cluster that has each time it is looked at what comes next, and stays at the last."""
    states: Iterator[list[Node]] = iter(stages)
    current = [stages[0]]

    def nodes() -> list[Node]:
        current[0] = next(states, current[0])
        return current[0]

    monkeypatch.setattr(resources, "nodes", nodes)


def test_machines_are_asked_for_until_they_are_there_and_then_let_go(
    monkeypatch: pytest.MonkeyPatch, requests: list[Any]
) -> None:
    both = [HEAD, Node(4, 2), Node(4, 2)]
    growing(monkeypatch, [HEAD], [HEAD], [HEAD, Node(4, 2)], both)
    said: list[str] = []
    assert wait_for_room(GPU, 2, said.append, poll_s=0) == both
    assert requests == [[{"CPU": 1, "GPU": 1}] * 4, []]
    assert said == ["waiting for machines: room for 2 trials is asked for, there is room for 0",
                    "there is room for 2 trials on 3 nodes"]  # fmt: skip


def test_nothing_is_asked_for_where_there_is_room(monkeypatch: pytest.MonkeyPatch, requests: list[Any]) -> None:
    growing(monkeypatch, [HEAD, Node(4, 4)])
    said: list[str] = []
    assert wait_for_room(GPU, 2, said.append) == [HEAD, Node(4, 4)]
    assert requests == said == []


def test_the_search_begins_with_what_came_in_time(monkeypatch: pytest.MonkeyPatch, requests: list[Any]) -> None:
    growing(monkeypatch, [HEAD], [HEAD, Node(4, 2)])
    said: list[str] = []
    assert wait_for_room(GPU, 8, said.append, timeout_s=0.05, poll_s=0.01) == [HEAD, Node(4, 2)]
    assert said[-1] == "there is room for 1 trials on 2 nodes after 0.05 s"
    assert requests[-1] == []


class Clock:
    """Passes while it is slept, and no faster."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        monkeypatch.setattr(autoscaling.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(autoscaling.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_wait_counts_down_and_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, requests: list[Any]) -> None:
    small, machine = Node(2, 0), Node(4, 2)
    growing(monkeypatch, *[[small]] * 12, *[[small, machine]] * 100)
    clock, said = Clock(monkeypatch), list[str]()
    wait_for_room(GPU, 2, said.append, timeout_s=200)
    assert clock.now == pytest.approx(250)
    lines = [line for line in said if "; the cluster has" in line]
    assert lines[:3] == [
        "waiting for 4 workers with 1 CPU and 1 GPU each: 10 s of 3 m 20 s; the cluster has 2 CPUs",
        "waiting for 4 workers with 1 CPU and 1 GPU each: 20 s of 3 m 20 s; the cluster has 2 CPUs",
        "waiting for 2 workers with 1 CPU and 1 GPU each: 30 s of 3 m 20 s; "
        "the cluster has 6 CPUs and 2 GPUs on 2 nodes",
    ]
    assert len(lines) == 19, "one every ten seconds"
    assert lines[-1].startswith("waiting for 2 workers with 1 CPU and 1 GPU each: 3 m 10 s of 3 m 20 s;")


def test_one_worker_is_named_as_one(monkeypatch: pytest.MonkeyPatch, requests: list[Any]) -> None:
    growing(monkeypatch, [Node(2, 0)])
    clock, said = Clock(monkeypatch), list[str]()
    wait_for_room(TrialShape(gpus_per_worker=1), 1, said.append, timeout_s=600)
    assert clock.now == pytest.approx(650)
    assert "waiting for 1 worker with 1 CPU and 1 GPU: 3 m 20 s of 10 m; the cluster has 2 CPUs" in said


def test_the_request_is_taken_back_when_the_user_gives_up(monkeypatch: pytest.MonkeyPatch, requests: list[Any]) -> None:
    growing(monkeypatch, [HEAD])

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_for_room(GPU, 1, lambda message: None)
    assert requests[-1] == []


def requested() -> Any:
    """What an autoscaler would read."""
    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_that_joins_later_is_seen_and_the_autoscaler_is_asked() -> None:
    with several_nodes() as nodes:
        try:
            ray.init(address=nodes.address, log_to_driver=False)
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(wait_for_room, TrialShape(), 1, lambda message: None, timeout_s=120, poll_s=0.2)
                while not (asked := requested()) and not waiting.done():
                    time.sleep(0.1)
                nodes.add_node(num_cpus=1)
                found = waiting.result(120)
            assert asked == [{"CPU": 1}]
            assert sorted(node.cpus for node in found) == [0, 1]
            assert requested() == []
        finally:
            ray.shutdown()
