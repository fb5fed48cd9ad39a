"""How far what a method added during training has moved since: whether it still learned anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmcore import metric_names
from mmcore.errors import CheckpointError


@dataclass(frozen=True)
class Grown:
    """What was added at once.

    Attributes:
        group: Parameter group it joined, `head/<modality>` for example.
        parameters: Its trained parameters.
        initial: Their values when they were added, on the same device.
    """

    group: str
    parameters: Sequence[nn.Parameter]
    initial: Sequence[Tensor]


class Growth:
    """Keeps the initial values of all that a method adds; part of the engine's state.

    A run resumed from a checkpoint of before this was kept has lost the values of its first additions. It tells nothing
    of the later ones either, which would be numbered wrongly.
    """

    def __init__(self) -> None:
        self._grown: list[Grown] = []
        self._complete = True

    def add(self, group: str, parameters: Sequence[nn.Parameter]) -> None:
        """Notes parameters that begin to be trained now, if there are any."""
        if parameters and self._complete:
            initial = [parameter.detach().clone() for parameter in parameters]
            self._grown.append(Grown(group, list(parameters), initial))

    @torch.no_grad()
    def moved(self) -> dict[str, Tensor]:
        """Returns ‖w - w0‖ / ‖w0‖ over all parameters of each addition, scalars on the device.

        They are counted from 1 in each group.
        """
        found: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for grown in self._grown:
            counts[grown.group] = counts.get(grown.group, 0) + 1
            way = _norm(torch._foreach_sub(list(grown.parameters), list(grown.initial)))
            start = _norm(grown.initial)
            # 0, not NaN, where something was added as zeros and stayed there
            name = metric_names.moved(grown.group, counts[grown.group])
            found[name] = way / start.clamp(min=torch.finfo(start.dtype).tiny)
        return found

    def state(self, names: Mapping[Tensor, str]) -> list[dict[str, Any]] | None:
        """Returns all of it by the parameters' names; None where the first additions are not known."""
        if not self._complete:
            return None
        return [
            {
                "group": grown.group,
                "parameters": [names[parameter] for parameter in grown.parameters],
                "initial": list(grown.initial),
            }
            for grown in self._grown
        ]

    def load(self, state: Sequence[Mapping[str, Any]] | None, parameters: Mapping[str, nn.Parameter]) -> None:
        """Restores what `state` returned, for a method that has these parameters already.

        Raises:
            CheckpointError: It tells of parameters the method has not.
        """
        self._complete = state is not None
        state = state or ()
        if unknown := [name for entry in state for name in entry["parameters"] if name not in parameters]:
            raise CheckpointError(f"the checkpoint's growth knows parameters the model has not: {unknown[:3]}")
        self._grown = []
        for entry in state:
            own = [parameters[name] for name in entry["parameters"]]
            initial = [value.to(p.device) for value, p in zip(entry["initial"], own, strict=True)]
            self._grown.append(Grown(entry["group"], own, initial))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
