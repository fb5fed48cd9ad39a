"""What the end of a worker group comes from: its input, which is not tried again, or lost workers, which are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from mmcore.assembly.config import complete_config, parse_config, with_values
from mmcore.data.prepared.prepare import prepare
from mmcore.errors import CheckpointError, DataError, UsageError
from rayjobs.cli.options import parse_workers
from rayjobs.cluster.resources import Node, TrialShape, concurrent_trials
from rayjobs.feeding.handle import DataHandle
from rayjobs.runs.job import Job
from rayjobs.runs.worker import _of_size, build_trainer
from rayjobs.trials.failures import LostWorkers, is_fatal
from rayjobs.trials.worker_group import _cause

DAMAGED = DataError("part-00000.parquet is missing")
LOST = WorkerHealthCheckFailedError("no answer", RayActorError())
CLOSED = torch.distributed.DistNetworkError("Connection closed by peer")


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        ({0: DAMAGED}, DAMAGED),
        ({0: CLOSED, 1: DAMAGED}, DAMAGED),
        ({0: LOST, 1: DAMAGED}, DAMAGED),
        ({0: KeyError("x"), 1: KeyError("x")}, KeyError("x")),
        ({0: LOST}, LostWorkers("worker 0 of its group was lost (killed, out of memory, or its node went away)")),
        ({0: CLOSED, 1: LOST}, LostWorkers("worker 0, 1 of its group was lost (killed, out of memory, or its node went away)")),  # noqa: E501
        ({0: RayActorError()}, LostWorkers("worker 0 of its group was lost (killed, out of memory, or its node went away)")),  # noqa: E501
        ({}, LostWorkers("its worker group was lost (killed, out of memory, or its node went away)")),
    ],
)  # fmt: skip
def test_a_groups_end_is_its_workers_own_exception_or_their_loss(
    failures: dict[int, Exception], cause: Exception
) -> None:
    found = _cause(WorkerGroupError("failed", failures))
    assert repr(found) == repr(cause)
    assert is_fatal(found) == (not isinstance(cause, LostWorkers))


@pytest.mark.parametrize(("text", "workers"), [("1", (None, 1)), ("4", (None, 4)), ("2:4", (2, 4)), ("1:2", (1, 2))])
def test_workers_are_a_number_or_a_range(text: str, workers: tuple[int | None, int]) -> None:
    assert parse_workers(text) == workers


@pytest.mark.parametrize("text", ["0", "x", "4:2", "2:2", "0:2", "2:", ":2", "-1"])
def test_what_is_no_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--workers must be a number from 1 to 9999, or MIN:MAX with 1 <= MIN < MAX"):
        parse_workers(text)


def test_an_elastic_trial_needs_room_for_its_fewest_workers() -> None:
    shape = TrialShape(workers=4, min_workers=2)
    assert shape.worker_group
    assert "2 to 4 workers" in shape.describe()
    assert concurrent_trials(shape, [Node(4, 0), Node(4, 0)]) == 2
    assert concurrent_trials(shape, [Node(2, 0)]) == 1
    with pytest.raises(UsageError, match="2 CPU"):
        concurrent_trials(shape, [Node(1, 0)])


def test_a_smaller_group_accumulates_and_goes_on_from_a_larger_ones_checkpoint(tmp_path: Path) -> None:
    values = {
        "dataset": {"name": "digits"},
        "method": {"name": "joint"},
        "trainer": {"max_epochs": 2, "batch_size": 512, "probes": False, "diagnostics": False},
    }
    config = complete_config(parse_config(values))
    prepared = prepare("digits", None, None, tmp_path / "data")
    job = Job(config.to_dict(), DataHandle(str(prepared.directory), in_process=True), str(tmp_path), elastic=(1, 3))
    one = build_trainer(job, config, prepared, None)
    assert one.config.trainer.accumulate == 3, "a pass of one worker would be larger than one of three"
    one.config = _of_size(config, 3, 2)  # as a group of two would have written it
    one.fit(until=1)
    again = build_trainer(job, config, prepared, None)
    assert again.fit().epoch == 2
    other = Job(with_values(config, {"optimizer.lr": 0.5}).to_dict(), job.data, str(tmp_path), elastic=(1, 3))
    with pytest.raises(CheckpointError, match=r"optimizer\.lr"):
        build_trainer(other, parse_config(other.config), prepared, None).fit()
