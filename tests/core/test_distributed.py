from __future__ import annotations

import torch
from processes import run_processes

from mmcore import distributed


def _tensors(rank: int) -> list[torch.Tensor]:
    """Tensors of several types and layouts; the third is larger than a bucket."""
    generator = torch.Generator().manual_seed(rank)
    return [
        torch.randn(3, 4, generator=generator),
        torch.randint(0, 100, (5,), generator=generator),
        torch.randn(1_200_000, generator=generator),
        torch.randn(2, 3, 5, 5, generator=generator).to(memory_format=torch.channels_last),
        torch.randn((), generator=generator, dtype=torch.float64),
        torch.randn(4, 6, generator=generator).t(),
        torch.zeros(0),
    ]


def _collectives(rank: int) -> dict[str, object]:
    summed, sent = _tensors(rank), [*_tensors(rank), torch.tensor([rank == 1, True])]
    parameter = torch.nn.Parameter(torch.full((2,), float(rank)))
    distributed.all_reduce_sum(summed)
    distributed.broadcast_([*sent, parameter], src=1)
    rows = torch.arange(6.0).reshape(3, 2)[: 3 * rank] + 10 * rank  # rank 0 has none
    return {
        "who": (distributed.rank(), distributed.world_size(), distributed.is_distributed()),
        "summed": summed,
        "strides": [tensor.stride() for tensor in summed],
        "sent": sent,
        "parameter": parameter.detach(),
        "rows": distributed.gather_rows(rows),
        "no_rows": distributed.gather_rows(torch.zeros(0, 3, dtype=torch.int64)),
        "flags": distributed.gather_rows(torch.tensor([True, False])[: 2 - rank]),
        "labels": distributed.gather_rows(torch.arange(rank + 1)),
    }


def test_collectives_of_two_processes() -> None:
    results = run_processes(_collectives, 2)
    ours, theirs = _tensors(0), _tensors(1)
    for rank, result in enumerate(results):
        assert result["who"] == (rank, 2, True)
        for got, one, other in zip(result["summed"], ours, theirs, strict=True):
            torch.testing.assert_close(got, one + other, rtol=0, atol=0)
        assert result["strides"] == [tensor.stride() for tensor in ours]
        for got, expected in zip(result["sent"], [*theirs, torch.tensor([True, True])], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
        assert result["parameter"].tolist() == [1, 1]
        assert result["rows"].tolist() == [[10, 11], [12, 13], [14, 15]]
        assert result["no_rows"].shape == (0, 3)
        assert result["no_rows"].dtype == torch.int64
        assert result["flags"].tolist() == [True, False, True]
        assert result["labels"].tolist() == [0, 0, 1]


def test_one_process_is_left_alone() -> None:
    tensors = _tensors(0)
    distributed.all_reduce_sum(tensors)
    distributed.broadcast_(tensors)
    assert all(torch.equal(got, expected) for got, expected in zip(tensors, _tensors(0), strict=True))
    rows = torch.rand(2, 3)
    assert distributed.gather_rows(rows) is rows
    assert (distributed.rank(), distributed.world_size(), distributed.is_distributed()) == (0, 1, False)


def test_buckets_keep_the_order_and_one_type_each() -> None:
    megabyte = torch.zeros(2**18)
    tensors = [megabyte, torch.zeros(3, dtype=torch.int64), *[megabyte.clone() for _ in range(4)], torch.zeros(2**21)]
    buckets = distributed.buckets(tensors)
    places = [[next(i for i, t in enumerate(tensors) if t is tensor) for tensor in bucket] for bucket in buckets]
    assert places == [[0, 2, 3, 4], [1], [5], [6]]
