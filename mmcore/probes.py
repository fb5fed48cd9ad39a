"""Linear probes: how well each modality's features alone tell the classes inside a joint model.

One linear classifier per modality, on detached features, with its own optimizer: no effect on the model. For methods
without unimodal heads this is the only view of a modality's own accuracy; for the others it is the comparable one.

They learn from every step, so they must cost next to nothing. Since nothing depends on them before an evaluation or a
checkpoint, features are kept and the updates of several steps done in one go, one after another, which the processor's
caches make several times cheaper; probes on features of one size are one batched product; Adam (Kingma and Ba, 2015)
is written out on one flat tensor of all their weights.

Shape legend: B samples, K classes, D features, P probes on features of one size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcore import distributed
from mmcore.batch import Batch

LEARNING_RATE = 0.01
BETAS = (0.9, 0.999)
EPSILON = 1e-8
MAX_WAITING = 16
"""Steps whose features are kept until the probes learn from them."""


class Probes(nn.Module):
    """Listens to a model's features: learns from them in training, predicts from them in evaluation.

    State (buffers): the weights of all probes, and Adam's two running means of their gradients.

    Args:
        num_features: Modality -> D.
        num_classes: K.
        dtype: Of the probes' weights.

    Attributes:
        logits: Modality -> (B, K), of the batch seen last in evaluation.
    """

    def __init__(self, num_features: Mapping[str, int], num_classes: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        sizes = sorted(set(num_features.values()))
        self._names = {size: [name for name, own in num_features.items() if own == size] for size in sizes}
        self._num_classes = num_classes
        self._num_steps = 0
        self._blocks: list[_Block] = []
        self._running: list[_Seen] = []
        self._waiting: list[list[_Seen]] = []
        self.logits: dict[str, Tensor] = {}
        total = sum(num_classes * (size + 1) for size in num_features.values())
        self.flat: Tensor
        self.first_moment: Tensor
        self.second_moment: Tensor
        for name in ("flat", "first_moment", "second_moment"):
            self.register_buffer(name, torch.zeros(total, dtype=dtype))
        self._make_views()

    @property
    def weights(self) -> dict[str, Tensor]:
        """Modality -> its probe, (K, D + 1), the bias last; views."""
        self.catch_up()
        return {name: block.weights[row] for block in self._blocks for row, name in enumerate(block.names)}

    @torch.no_grad()
    def observe(self, features: Mapping[str, Tensor], batch: Batch) -> None:
        """Takes features (B, D) of some modalities.

        In training they are kept for `step`, in evaluation it leaves `logits` (B, K).
        """
        if self.training and not batch.num_samples:
            return
        for block in self._blocks:
            for rows in block.runs(features):
                names = block.names[rows]
                # A copy: what is kept must not hold on to a larger tensor that a feature is a part of.
                inputs = torch.stack([features[name].detach() for name in names]).to(self.flat.dtype)
                if self.training:
                    self._running.append(_Seen(block, rows, inputs, batch.labels))
                else:
                    with _full_precision(inputs.device):
                        self.logits |= zip(names, _logits(_with_one(inputs), block.weights[rows]), strict=True)

    def step(self) -> None:
        """Ends a step: the probes will be updated once with what was observed since the last."""
        self._waiting.append(self._running)
        self._running = []
        if len(self._waiting) >= MAX_WAITING:
            self.catch_up()

    @torch.no_grad()
    def catch_up(self) -> None:
        """Does the updates that wait, each with the gradients summed over all samples of all ranks in its step."""
        waiting, self._waiting = self._waiting, []
        for step in waiting:
            with _full_precision(self.flat.device):
                for seen in step:
                    _add_gradient(seen)
            distributed.all_reduce_sum([self._gradient])
            self._update()

    def train(self, mode: bool = True) -> Probes:
        """Turns learning on or off; what waits is learned first."""
        self.catch_up()
        return super().train(mode)

    def full_state(self) -> dict[str, Any]:
        """Returns the buffers and the number of steps, which Adam needs."""
        self.catch_up()
        return {"weights": self.state_dict(), "num_steps": self._num_steps}

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Restores what `full_state` returned."""
        self.load_state_dict(state["weights"])
        self._num_steps = state["num_steps"]

    def _update(self) -> None:
        """Does one step of Adam and clears the gradient."""
        gradient = self._gradient
        self._num_steps += 1
        self.first_moment.lerp_(gradient, 1 - BETAS[0])
        self.second_moment.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        # Both bias corrections are in the factor and in ε, which leaves the tensors to fewer operations.
        correction = math.sqrt(1 - BETAS[1] ** self._num_steps)
        rate = LEARNING_RATE * correction / (1 - BETAS[0] ** self._num_steps)
        self.flat.addcdiv_(self.first_moment, self.second_moment.sqrt().add_(EPSILON * correction), value=-rate)
        gradient.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Probes:
        """Makes the views again where the buffers were moved."""
        super()._apply(fn, recurse)
        self._make_views()
        return self

    def _make_views(self) -> None:
        """Cuts the flat tensors once: in a step of a few milliseconds every view made counts."""
        self._gradient = torch.zeros_like(self.flat)
        self._blocks, start = [], 0
        for size, names in self._names.items():
            shape = (len(names), self._num_classes, size + 1)
            part = slice(start, start + math.prod(shape))
            self._blocks.append(_Block(names, self.flat[part].view(shape), self._gradient[part].view(shape)))
            start = part.stop


@dataclass(frozen=True)
class _Block:
    """The probes on features of one size: their modalities, weights and gradients, (P, K, D + 1), views."""

    names: list[str]
    weights: Tensor
    gradient: Tensor

    def runs(self, features: Mapping[str, Tensor]) -> list[slice]:
        """Returns the rows to be computed at once: all of them, or those whose features are there one by one."""
        there = [row for row, name in enumerate(self.names) if name in features]
        if len(there) == len(self.names):
            return [slice(None)]
        return [slice(row, row + 1) for row in there]


@dataclass(frozen=True)
class _Seen:
    """Features (P, B, D) of some of a block's modalities, of samples with the labels (B,)."""

    block: _Block
    rows: slice
    inputs: Tensor
    labels: Tensor


def _with_one(inputs: Tensor) -> Tensor:
    """Returns (P, B, D + 1): the features and a one, for the bias."""
    return F.pad(inputs, (0, 1), value=1.0)


def _logits(inputs: Tensor, weights: Tensor) -> Tensor:
    """Returns (P, B, K)."""
    return torch.bmm(inputs, weights.mT)


def _add_gradient(seen: _Seen) -> None:
    """Adds to the block's gradient that of the summed cross-entropy: (softmax - onehot)ᵀ [features, 1]."""
    inputs = _with_one(seen.inputs)
    logits = _logits(inputs, seen.block.weights[seen.rows])
    target = torch.zeros_like(logits[0]).scatter_(1, seen.labels[:, None], 1.0)
    error = logits.softmax(dim=2).sub_(target)
    seen.block.gradient[seen.rows].baddbmm_(error.mT, inputs)


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context without autocast (which not every kind of device has)."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
