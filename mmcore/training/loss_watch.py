"""Finds the first loss that was not finite without waiting for the device in every step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmcore import distributed
from mmcore.errors import TrainingError

MAX_UNPACKED = 256
"""Loss terms kept as tensors of their own."""


class LossWatch:
    """Keeps loss terms until somebody looks at them.

    A step neither waits for the device nor computes anything for it: terms are kept as they came, older ones packed.
    """

    def __init__(self) -> None:
        self._unpacked: list[Tensor] = []
        self._packed: list[Tensor] = []
        self._entries: list[tuple[int, tuple[str, ...]]] = []

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Takes the detached scalar terms of a backward pass of this step."""
        self._entries.append((step, tuple(terms)))
        self._unpacked += terms.values()
        if len(self._unpacked) >= MAX_UNPACKED:
            self._pack()

    def first_bad(self) -> tuple[int, dict[str, float]] | None:
        """Returns step and loss terms of the first pass whose loss was not finite, and forgets all of them.

        Waits for the device.
        """
        self._pack()
        values = iter(torch.cat(self._packed).tolist() if self._packed else [])
        entries, self._packed, self._entries = self._entries, [], []
        for step, names in entries:
            terms = {name: next(values) for name in names}
            if not all(math.isfinite(value) for value in terms.values()):
                return step, terms
        return None

    def _pack(self) -> None:
        if self._unpacked:
            self._packed.append(torch.stack([term.float() for term in self._unpacked]))
            self._unpacked = []


def check_finite(
    losses: LossWatch, parameters: Sequence[nn.Parameter], step: int, lr: float, device: torch.device
) -> None:
    """Checks that all losses since the last call, and all weights, are finite; waits for the device.

    Raises:
        TrainingError: A loss or a weight was NaN or infinite; names the first such step and its terms. Raised on
            every rank, even if only one saw it: the others would wait for it in the next collective.
    """
    if found := distributed.gather_found(losses.first_bad(), device):
        worker, (bad_step, values) = min(found.items(), key=lambda item: item[1][0])
        listed = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        where = f" on worker {worker}" if distributed.is_distributed() else ""
        raise TrainingError(
            f"the loss is not finite at step {bad_step}{where} ({listed}): a smaller optimizer.lr "
            f"(now {lr:g}) or optimizer.clip_norm usually helps"
        )
    norm = torch.nn.utils.get_total_norm([parameter.detach() for parameter in parameters])
    if not torch.isfinite(norm):
        raise TrainingError(
            f"the weights are not finite after step {step}: a smaller optimizer.lr "
            f"(now {lr:g}) or optimizer.clip_norm usually helps"
        )
