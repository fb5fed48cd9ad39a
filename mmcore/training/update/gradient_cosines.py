"""The cosine between what the joint and what a modality's own loss ask of its encoder, measured in a sampled step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn


class CosineMeter:
    """Measures, within one optimizer step, without any effect on it; costs one more backward pass of the joint terms.

    A loss term named after a modality is its own, all others are joint. Undefined, and not measured, for methods that
    have not both kinds: `joint` has no own terms; `ensemble`, `unimodal` and `aug` have no joint one. NaN where one of
    the gradients is 0, as the joint one of a modality that is not in the pair drawn.

    Attributes:
        values: Modality -> cosine, in [-1, 1], a scalar on the device, of the newest measured step.
    """

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self._joint: dict[str, list[Tensor]] = {}

    def add(
        self,
        terms: Mapping[str, Tensor],
        encoders: Mapping[str, list[nn.Parameter]],
        gradients: Callable[[Tensor, list[nn.Parameter]], list[Tensor]],
    ) -> None:
        """Keeps the joint terms' gradients; before the backward pass of each micro-batch, whose graph it keeps too.

        Args:
            terms: Name -> loss term.
            encoders: Modality -> parameters of its encoder.
            gradients: `Engine.gradients`: averaged over ranks.
        """
        measured = {name: parameters for name, parameters in encoders.items() if name in terms}
        joint = [term for name, term in terms.items() if name not in encoders]
        if not measured or not joint:
            return
        loss = functools.reduce(torch.add, joint)
        found = iter(gradients(loss, [parameter for parameters in measured.values() for parameter in parameters]))
        for name, parameters in measured.items():
            parts = [next(found) for _ in parameters]
            if name in self._joint:  # of this step's other micro-batches
                parts = [before + part for before, part in zip(self._joint[name], parts, strict=True)]
            self._joint[name] = parts

    def finish(self, encoders: Mapping[str, list[nn.Parameter]]) -> None:
        """Compares them with what the other terms add; when the parameters have the whole loss's averaged gradients."""
        for name, joint in self._joint.items():
            whole = [parameter.grad for parameter in encoders[name] if parameter.grad is not None]
            self.values[name] = cosine(joint, [total - part for total, part in zip(whole, joint, strict=True)])
        self._joint = {}


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Returns the cosine of the angle between two gradients, each a list of tensors; NaN where one of them is 0."""
    dot = torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(first, second, strict=True)]).sum()
    return dot / (torch.nn.utils.get_total_norm(first) * torch.nn.utils.get_total_norm(second))
