"""What a method may decide for one epoch: how often each training sample comes, what it lacks, what comes together.

Shape legend: N training samples, n entries of a plan.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcore.errors import TrainingError


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochPlan:
    """The entries of one epoch. An entry is a training sample that is given once; it may lack modalities.

    The loader draws the order of the entries from the run's seed and the epoch, as it does without a plan: a plan of
    every sample once, with nothing dropped, is the epoch as it is anyway.

    Attributes:
        rows: (n,) int64, each entry's sample, by `Batch.rows`; a sample may come often, or not at all.
        dropped: Modality -> (n,) bool, the entries that lack it in this epoch. All batches of the epoch then say who
            has it (`Batch.present`).
        parts: (n,) int64: a batch has entries of one part alone. None: all are one part.
        mixed: Whether batches of different parts come in a drawn order; else the parts follow each other, by number.
    """

    rows: Tensor
    dropped: Mapping[str, Tensor] = field(default_factory=dict)
    parts: Tensor | None = None
    mixed: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def part_sizes(self) -> dict[int, int]:
        """Part -> its entries, by number; no part is empty."""
        if self.parts is None:
            return {0: len(self)}
        numbers, sizes = np.unique(self.parts.numpy(), return_counts=True)
        return dict(zip(numbers.tolist(), sizes.tolist(), strict=True))

    def num_steps(self, batch_size: int) -> int:
        """Returns the steps of the epoch; the last batch of each part may be small."""
        return sum(-(-size // batch_size) for size in self.part_sizes.values())

    def on_cpu(self) -> EpochPlan:
        """Returns the plan in tensors of the CPU and of the types named above."""
        return EpochPlan(
            rows=self.rows.to("cpu", torch.int64),
            dropped={name: mask.to("cpu", torch.bool) for name, mask in self.dropped.items()},
            parts=None if self.parts is None else self.parts.to("cpu", torch.int64),
            mixed=self.mixed,
        )

    def check(self, num_samples: int, modalities: Collection[str]) -> None:
        """Raises a TrainingError that says what is wrong with a plan for N samples of these modalities."""
        if not len(self):
            raise TrainingError("plan_epoch gave an epoch without samples: give at least one, or None for all")
        least, most = int(self.rows.min()), int(self.rows.max())
        if least < 0 or most >= num_samples:
            raise TrainingError(f"plan_epoch gave rows from {least} to {most}; training has 0 to {num_samples - 1}")
        if unknown := sorted(set(self.dropped) - set(modalities)):
            raise TrainingError(f"plan_epoch drops {', '.join(unknown)}; the method has {', '.join(modalities)}")
        tables = {**{f"dropped[{name!r}]": mask for name, mask in self.dropped.items()}, "parts": self.parts}
        for name, values in tables.items():
            if values is not None and values.shape != self.rows.shape:
                raise TrainingError(f"plan_epoch gave {len(self)} rows, but {name} of shape {tuple(values.shape)}")
        if self.dropped.keys() >= set(modalities) and torch.stack(list(self.dropped.values())).all(dim=0).any():
            raise TrainingError("plan_epoch drops every modality of a sample: leave the sample out instead")

    def checksum(self) -> str:
        """Returns what plans differ in that differ: workers compare it."""
        found = hashlib.sha256(repr((sorted(self.dropped), self.mixed)).encode())
        tables = [self.rows, *(self.dropped[name] for name in sorted(self.dropped))]
        for table in [*tables, *([] if self.parts is None else [self.parts])]:
            found.update(table.contiguous().numpy().tobytes())
        return found.hexdigest()

    def state(self) -> dict[str, Any]:
        """Returns the plan as a checkpoint holds it, in tensors and plain values."""
        return {"rows": self.rows, "dropped": dict(self.dropped), "parts": self.parts, "mixed": self.mixed}

    @classmethod
    def of_state(cls, state: Mapping[str, Any] | None) -> EpochPlan | None:
        """Returns the plan of a checkpoint; None where it has none."""
        return None if state is None else cls(**state).on_cpu()
