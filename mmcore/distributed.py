"""The few collective operations a run needs; in one process each of them does nothing.

Every rank must call each of them with tensors of the same shapes and types in the same order. They work on CPU
tensors over gloo and on GPU tensors over NCCL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
TensorT = TypeVar("TensorT", bound=Tensor)

BUCKET_BYTES = 4 * 2**20
"""What one message carries: large enough to be worth its latency, small enough to overlap with the next."""


def is_distributed() -> bool:
    """Whether this run has more than one process."""
    return world_size() > 1


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


@torch.no_grad()
def all_reduce_sum(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor, in place, by its sum over all ranks."""
    if is_distributed():
        _in_buckets(tensors, lambda flat: dist.all_reduce(flat, async_op=True))


@torch.no_grad()
def broadcast_(tensors: Sequence[Tensor], src: int = 0) -> None:
    """Replaces each tensor, in place, by that of rank `src`."""
    if is_distributed():
        _in_buckets(tensors, lambda flat: dist.broadcast(_as_bytes(flat), src, async_op=True))


def all_gather(tensor: Tensor) -> Tensor:
    """Returns (world size, ...): the equally large tensors of all ranks."""
    if not is_distributed():
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.stack(parts)


@torch.no_grad()
def gather_rows(tensor: Tensor) -> Tensor:
    """Returns the rows of all ranks, in the order of the ranks, on every rank.

    Waits for the device: for evaluation, not for a training step.

    Args:
        tensor: (n_r, ...) of this rank; n_r may differ among ranks and be 0.

    Returns:
        (N, ...), N the sum of all n_r.
    """
    if not is_distributed():
        return tensor
    sizes = all_gather(torch.tensor([len(tensor)], device=tensor.device)).flatten().tolist()
    padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    if not padded.numel():
        return tensor.new_zeros((sum(sizes), *tensor.shape[1:]))
    parts = all_gather(_as_bytes(padded)).view(padded.dtype)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_objects(value: Any) -> list[Any]:
    """Returns the picklable values of all ranks, in their order, on every rank. For what is small and rare."""
    if not is_distributed():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_found(value: T | None, device: torch.device) -> dict[int, T]:
    """Returns rank -> value (picklable) of the ranks that have one, on every rank; where none has, one small message.

    Waits for the device.
    """
    if not is_distributed():
        return {} if value is None else {0: value}
    count = torch.full((1,), float(value is not None), device=device)
    dist.all_reduce(count)
    values = gather_objects(value) if count.item() else []
    return {rank: value for rank, value in enumerate(values) if value is not None}


def broadcast_object(value: Any) -> Any:
    """Returns rank 0's picklable value on every rank. For what is small and rare."""
    if not is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def _as_bytes(tensor: Tensor) -> Tensor:
    # Not every backend moves truth values.
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def _in_buckets(tensors: Sequence[Tensor], start: Callable[[Tensor], Any]) -> None:
    """Packs tensors into flat buckets, starts an operation on every bucket, waits, and unpacks."""
    started = []
    for bucket in buckets(tensors):
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
        started.append((bucket, flat, start(flat)))
    for bucket, flat, work in started:
        work.wait()
        parts = flat.split_with_sizes([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def buckets(tensors: Sequence[TensorT]) -> list[list[TensorT]]:
    """Cuts `tensors` into lists of one type and about BUCKET_BYTES; the same cut on every rank."""
    found: list[list[TensorT]] = []
    current: dict[tuple[torch.dtype, torch.device], list[TensorT]] = {}
    free: dict[tuple[torch.dtype, torch.device], int] = {}
    for tensor in tensors:
        key = (tensor.dtype, tensor.device)
        num_bytes = tensor.numel() * tensor.element_size()
        if key not in current or num_bytes > free[key]:
            current[key], free[key] = [], BUCKET_BYTES
            found.append(current[key])
        current[key].append(tensor)
        free[key] -= num_bytes
    return found
