"""What the end of a worker group comes from: its input, which is not tried again, or lost workers, which are."""

from __future__ import annotations

import pytest
import torch.distributed
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from mmcore.errors import DataError
from rayjobs.groups import _cause
from rayjobs.trials import LostWorkers, is_fatal

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
