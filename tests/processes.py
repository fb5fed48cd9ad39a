"""Runs a function in several gloo processes on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def run_processes(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Calls `function(rank, *args)` in `world_size` fresh processes of one thread, joined by gloo.

    Args:
        function: A module's top-level function, since it is pickled. Several checks in one function cost one start.
        world_size: Number of processes.
        *args: Pickled and sent to each.

    Returns:
        What each rank returned (anything `torch.save` takes), in the order of the ranks.

    Raises:
        torch.multiprocessing.ProcessRaisedException: A rank raised; the others are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_run, (function, world_size, folder, args), nprocs=world_size)
        return [torch.load(Path(folder) / f"result-{rank}.pt", weights_only=False) for rank in range(world_size)]


def _run(rank: int, function: Callable[..., Any], world_size: int, folder: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timedelta(seconds=120), world_size=world_size, rank=rank
    )
    try:
        torch.save(function(rank, *args), Path(folder) / f"result-{rank}.pt")
        dist.barrier()  # none leaves while another may still talk to it: gloo's threads would abort the process
    finally:
        dist.destroy_process_group()
