"""What a method remembers of single training samples: a number for each, by name, kept over the run.

Reading gives the numbers as they stood when the epoch began. What is added meanwhile waits: a rank sees its own samples
alone, and would otherwise read other numbers than one worker does.

Shape legend: N training samples, B samples of this rank's shard.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmcore import distributed
from mmcore.batch import Batch
from mmcore.errors import TrainingError


class SampleTables:
    """Tables of N numbers, 0 at first.

    Args:
        num_samples: N.
        device: Where they are kept.
        dtype: Type of the numbers.
    """

    def __init__(self, num_samples: int, device: torch.device, dtype: torch.dtype):
        self._blank = torch.zeros(num_samples, dtype=dtype, device=device)
        self._merged: dict[str, Tensor] = {}
        self._waiting: dict[str, Tensor] = {}

    def values(self, name: str) -> Tensor:
        """Returns a table (N,), by `Batch.rows`, as of the last `merge`; not to be changed."""
        return self._merged.get(name, self._blank)

    @torch.no_grad()
    def add(self, name: str, batch: Batch, values: Tensor) -> None:
        """Adds to the samples' numbers; every rank adds to the same tables, also where its batch is a placeholder.

        Args:
            name: The table.
            batch: Training samples, with their rows.
            values: (B,).
        """
        waiting = self._waiting.setdefault(name, torch.zeros_like(self._blank))
        if batch.is_placeholder:
            return
        if batch.rows is None:
            raise TrainingError(f"samples cannot be remembered as {name!r}: no loader gave the batch its rows")
        waiting.index_add_(0, batch.rows, values.to(waiting.dtype))

    def forget(self, name: str) -> None:
        """Sets a table to 0, with what waits for it."""
        self._merged.pop(name, None)
        self._waiting.pop(name, None)

    @torch.no_grad()
    def merge(self) -> None:
        """Takes up what waits on all ranks; a collective."""
        waiting, self._waiting = self._waiting, {}
        distributed.all_reduce_sum([waiting[name] for name in sorted(waiting)])
        for name, values in waiting.items():
            self._merged[name] = self.values(name) + values

    @torch.no_grad()
    def gather(self) -> None:
        """Moves what waits on all ranks to the first one, whose state a checkpoint holds; a collective."""
        distributed.all_reduce_sum([self._waiting[name] for name in sorted(self._waiting)])
        self.keep_on_first_rank()

    def keep_on_first_rank(self) -> None:
        """Lets what waits wait on the first rank alone: after a resume all ranks hold the same."""
        if distributed.rank() > 0:
            for values in self._waiting.values():
                values.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Returns the tables and what waits; of all ranks after `gather`."""
        return {"merged": dict(self._merged), "waiting": dict(self._waiting)}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restores what `state_dict` returned; None, of a checkpoint before there were tables: nothing is held."""
        state = state or {"merged": {}, "waiting": {}}
        self._merged, self._waiting = dict(state["merged"]), dict(state["waiting"])
