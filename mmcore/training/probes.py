"""Linear probes: how well each modality's features alone tell the classes inside a joint model.

One linear classifier per modality, on detached features, with its own optimizer: no effect on the model. For methods
without unimodal heads this is the only view of a modality's own accuracy; for the others it is the comparable one.

They learn from every step, so they must cost next to nothing. Since nothing depends on them before an evaluation or a
checkpoint, features are kept and the updates of several steps done in one go, one after another, which the processor's
caches make several times cheaper; probes on features of one size are one batched product. Adam (Kingma and Ba, 2015)
is written out on one flat tensor of all their weights: torch.optim.Adam on the same tensor, fused, takes 1.6 times as
long for 2,580 weights (89 µs instead of 55, one thread) and 1.3 times for 10,260, and on the smallest networks the
probes have no time left below their bar (docs/performance.md).

Shape legend: B samples, K classes, D features, P probes on features of one size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
        dtype: Type of the probes' weights.

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
        self._running: list[_Seen] = []  # of this step
        self._waiting: list[list[_Seen]] = []  # of the steps before
        self._num_slots = 0  # in use by them
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

        In training those of samples that have it are kept for `step`, in evaluation it leaves `logits` (B, K).
        """
        if not self.training:
            with _full_precision(self.flat.device):
                for names, inputs, weights in self._parts(features):
                    self.logits |= zip(names, torch.bmm(inputs, weights.mT), strict=True)
        elif batch.num_samples:
            for block in self._blocks:
                block.keep(self._num_slots, features, len(batch.labels))
            self._running.append(_Seen(self._num_slots, features.keys(), batch.labels, batch.present))
            self._num_slots += 1

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
        with _full_precision(self.flat.device):
            for step in waiting:
                for seen in step:
                    for block in self._blocks:
                        block.add_gradient(seen)
                distributed.all_reduce_sum([self._gradient])
                self._update()
        if not self._running:
            self._num_slots = 0

    def train(self, mode: bool = True) -> Probes:  # noqa: FBT001, FBT002  # as torch.nn.Module declares it
        """Turns learning on or off; what waits is learned first."""
        self.catch_up()
        return super().train(mode)

    def full_state(self) -> dict[str, Any]:
        """Returns the buffers and the number of steps, which Adam needs."""
        self.catch_up()
        return {"weights": self.state_dict(), "num_steps": self._num_steps}

    def load_full_state(self, state: dict[str, Any]) -> None:
        """Restores what `full_state` returned."""
        self._running, self._waiting, self._num_slots = [], [], 0
        self.load_state_dict(state["weights"])
        self._num_steps = state["num_steps"]

    def _parts(self, features: Mapping[str, Tensor]) -> Iterator[tuple[list[str], Tensor, Tensor]]:
        """Yields what is predicted at once: names, features with a one for the bias (P, B, D + 1), weights."""
        for block in self._blocks:
            for rows in block.runs(features):
                names = block.names[rows]
                inputs = torch.stack([features[name] for name in names]).to(self.flat.dtype)
                yield names, F.pad(inputs, (0, 1), value=1.0), block.weights[rows]

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

    # The flag by position, as torch.nn.Module declares it.
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Probes:  # noqa: FBT001, FBT002
        """Makes the views again where the buffers were moved."""
        self.catch_up()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch has no types for it
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


class _Seen(NamedTuple):
    """What was observed at once: the slot in which its features are kept, whose they are, labels, `Batch.present`."""

    slot: int
    names: Collection[str]
    labels: Tensor
    present: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Block:
    """The probes on features of one size: their modalities, weights and gradients, (P, K, D + 1), views.

    Features are copied while they are at hand, so that what they are a part of can be freed; into slots, (P, B, D + 1)
    with a one for the bias at the end, that are used again: memory asked for anew would cost more than the copy. Each
    batch size has slots of its own: in a part of a larger one products are rounded otherwise, and a resumed run, whose
    first batch may be another, would not equal the uninterrupted one.
    """

    names: list[str]
    weights: Tensor
    gradient: Tensor
    slots: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def keep(self, slot: int, features: Mapping[str, Tensor], num_samples: int) -> None:
        """Copies features (B, D) into a slot."""
        key = slot, num_samples
        if key not in self.slots:
            self.slots[key] = self.weights.new_ones(len(self.names), num_samples, self.weights.shape[2])
        for place, name in zip(self.slots[key], self.names, strict=True):
            if name in features:
                place[:, :-1].copy_(features[name])

    def add_gradient(self, seen: _Seen) -> None:
        """Adds the gradient of the summed cross-entropy of what was seen."""
        inputs = self.slots[seen.slot, len(seen.labels)]
        for rows in self.runs(seen.names):
            mask = _mask(self.names[rows], seen)
            _add_gradient(self.gradient[rows], inputs[rows], self.weights[rows], seen.labels, mask)

    def runs(self, names: Collection[str]) -> list[slice]:
        """Returns the rows to be computed at once: all of them, or those whose features are there one by one."""
        there = [row for row, name in enumerate(self.names) if name in names]
        if len(there) == len(self.names):
            return [slice(None)]
        return [slice(row, row + 1) for row in there]


def _mask(names: list[str], seen: _Seen) -> Tensor | None:
    """Returns which samples have which of the modalities, (P, 1, B) bool; None where none is ever missing."""
    if not any(name in seen.present for name in names):
        return None
    everywhere = torch.ones_like(seen.labels, dtype=torch.bool)
    return torch.stack([seen.present.get(name, everywhere) for name in names])[:, None]


def _add_gradient(gradient: Tensor, inputs: Tensor, weights: Tensor, labels: Tensor, mask: Tensor | None) -> None:
    """Adds to `gradient` that of the summed cross-entropy: (softmax - onehot)ᵀ [features, 1].

    Args:
        gradient: (P, K, D + 1), where it is added.
        inputs: (P, B, D + 1), the features and a one.
        weights: (P, K, D + 1).
        labels: (B,).
        mask: (P, 1, B) bool, the samples that count; None: all.
    """
    # Classes before samples: a softmax over the last of the dimensions takes three times as long where K is small.
    error = torch.bmm(weights, inputs.mT).softmax(dim=1)
    index = labels.expand(len(inputs), 1, -1)
    error.scatter_add_(1, index, error.new_full((), -1.0).expand_as(index))
    if mask is not None:
        error.mul_(mask)
    gradient.baddbmm_(error, inputs)


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context without autocast (which not every kind of device has)."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
