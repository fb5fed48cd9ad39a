from __future__ import annotations

from pathlib import Path

import pytest
import ray

from mmcore.errors import UsageError
from rayjobs.cluster import session
from rayjobs.cluster.joining import check_form
from rayjobs.cluster.resources import Node, TrialShape, concurrent_trials, tune_resources
from rayjobs.cluster.session import NUM_STARTS, start

LAPTOP = [Node(2, 0)]


@pytest.mark.parametrize(
    ("shape", "nodes", "expected"),
    [
        (TrialShape(), LAPTOP, 2),
        (TrialShape(cpus_per_worker=2), LAPTOP, 1),
        (TrialShape(workers=2), LAPTOP, 1),
        (TrialShape(streams=True), LAPTOP, 1),  # a share is left to the readers
        (TrialShape(streams=True), [Node(4, 0)], 3),
        (TrialShape(cpus_per_worker=0.5, streams=True), [Node(1, 0)], 1),
        (TrialShape(gpus_per_worker=1), [Node(16, 4)], 4),
        (TrialShape(gpus_per_worker=0.5), [Node(16, 4)], 8),
        (TrialShape(gpus_per_worker=0.4), [Node(16, 1)], 2),
        (TrialShape(gpus_per_worker=0.6), [Node(16, 2)], 2),  # a fraction never spans two GPUs
        (TrialShape(gpus_per_worker=1), [Node(2, 4)], 2),  # CPUs run out first
        (TrialShape(workers=4, gpus_per_worker=1), [Node(16, 2), Node(16, 2)], 1),
        (TrialShape(gpus_per_worker=2), [Node(16, 3), Node(16, 3)], 2),  # one left over on each
        (TrialShape(cpus_per_worker=0.1), [Node(0.3, 0)], 3),  # no rounding error
    ],
)
def test_how_many_trials_fit(shape: TrialShape, nodes: list[Node], expected: int) -> None:
    assert concurrent_trials(shape, nodes) == expected


def test_a_limit_lowers_but_never_raises() -> None:
    assert concurrent_trials(TrialShape(), LAPTOP, limit=1) == 1
    assert concurrent_trials(TrialShape(), LAPTOP, limit=50) == 2


@pytest.mark.parametrize(
    ("shape", "nodes", "asked", "there"),
    [
        (TrialShape(gpus_per_worker=1), LAPTOP, "1 CPU and 1 GPU in all", "2 CPU and 0 GPU on 1 node"),
        (TrialShape(workers=3), LAPTOP, "3 CPU and 0 GPU in all", "2 CPU and 0 GPU on 1 node"),
        (TrialShape(gpus_per_worker=2), [Node(8, 1), Node(8, 1)], "2 GPU in all", "2 GPU on 2 nodes"),
    ],
)
def test_too_much_is_refused_with_both_amounts(shape: TrialShape, nodes: list[Node], asked: str, there: str) -> None:
    with pytest.raises(UsageError) as caught:
        concurrent_trials(shape, nodes)
    assert asked in str(caught.value)
    assert there in str(caught.value)


def test_a_group_is_used_for_gpus_and_for_several_workers() -> None:
    assert not TrialShape().worker_group
    assert TrialShape(workers=2).worker_group
    assert TrialShape(gpus_per_worker=0.5).worker_group


def test_the_process_of_a_group_holds_no_cpu_its_workers_need() -> None:
    assert tune_resources(TrialShape(workers=2))["CPU"] == 0
    assert tune_resources(TrialShape(cpus_per_worker=2)) == {"CPU": 2, "GPU": 0}


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "ray://10.0.0.1:10001"])
def test_addresses_that_can_be_joined(address: str) -> None:
    check_form(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://head:8265", "is a job server's: submit"),
        ("head", "HOST:PORT"),
        ("", "HOST:PORT"),
        ("a:0", "HOST:PORT"),
        ("a:70000", "HOST:PORT"),
        (":1", "HOST:PORT"),
        ("a b:1", "HOST:PORT"),
        (f"a:{'9' * 5000}", "HOST:PORT"),
    ],
)
def test_addresses_that_can_not(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_form(address)


@pytest.mark.slow
@pytest.mark.ray
def test_the_dashboard_and_its_job_server_listen_on_loopback_alone() -> None:
    with start(num_cpus=1, num_gpus=0, needs_dashboard=True):
        host, _, port = ray._private.worker.get_dashboard_url().rpartition(":")
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        sockets = [line.split() for table in tables for line in table.splitlines()]
        addresses = {socket[1].rpartition(":") for socket in sockets if socket[3] == "0A"}  # listening
    assert host == "127.0.0.1"
    assert {address for address, _, number in addresses if number == f"{int(port):04X}"} == {"0100007F"}


@pytest.mark.parametrize("late", [1, NUM_STARTS])
def test_a_ray_that_starts_too_slowly_is_started_again(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    tries = []

    def init(**settings: object) -> None:
        tries.append(settings)
        if len(tries) <= late:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", init)
    if late < NUM_STARTS:
        session._init(address="local")
        assert tries == [{"address": "local"}] * (late + 1)
    else:
        with pytest.raises(UsageError, match="the machine is too busy, or out of memory"):
            session._init(address="local")


def test_another_failure_of_rays_start_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError("no room in /dev/shm")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="no room"):
        session._init(address="local")
