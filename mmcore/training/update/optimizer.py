"""The optimizer: made and restored by names, the precision of its steps, which gradients are clipped together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmcore.config.schema import RunConfig
from mmcore.errors import CheckpointError

PRECISIONS = {"float32": None, "float64": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def gradient_norms(groups: Mapping[str, list[nn.Parameter]]) -> dict[str, Tensor]:
    """Returns group -> norm of its gradient, for the groups that have one."""
    with_gradients = {name: [p.grad for p in group if p.grad is not None] for name, group in groups.items()}
    # All at once: on a GPU the launches of one norm per parameter would show in the step's time.
    norms = iter(torch._foreach_norm([gradient for found in with_gradients.values() for gradient in found]))
    return {
        name: torch.linalg.vector_norm(torch.stack([next(norms) for _ in found]))
        for name, found in with_gradients.items()
        if found
    }


def resolve_precision(precision: str, device: torch.device) -> str:
    """Returns the precision `auto` stands for: bfloat16 on GPUs, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" else "float32"


def build_optimizer(
    config: RunConfig, groups: Mapping[str, list[nn.Parameter]], factors: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Returns the optimizer, with all parameters of one rate in one list: several short lists make a step slower.

    Args:
        config: The run.
        groups: Group -> its parameters.
        factors: Group -> factor on its learning rate, kept as `factor` of its list; others have 1.
    """
    settings = config.optimizer
    lists: dict[float, list[nn.Parameter]] = {}
    for name, parameters in groups.items():
        lists.setdefault(factors.get(name, 1.0), []).extend(parameters)
    by_rate = [{"params": parameters, "factor": factor} for factor, parameters in lists.items()]
    if settings.name == "sgd":
        return torch.optim.SGD(by_rate, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    optimizer = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return optimizer(by_rate, lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Gives an optimizer a checkpoint's state, by the names of the parameters.

    Raises:
        CheckpointError: The state names parameters that the method does not have.
    """
    if unknown := sorted(set(state) - set(parameters)):
        raise CheckpointError(f"the checkpoint's optimizer names parameters the model lacks: {unknown[:3]}")
    for name, entry in state.items():
        # Scalars (Adam's step count) stay on the CPU, where a plain optimizer reads them without waiting.
        optimizer.state[parameters[name]] = {
            key: value.to(parameters[name].device) if isinstance(value, Tensor) and value.dim() else value
            for key, value in entry.items()
        }


def clip_groups(groups: Mapping[str, list[nn.Parameter]]) -> list[list[nn.Parameter]]:
    """Returns the parameters whose gradients are clipped by one norm: those of a modality, and those of the fusion."""
    # By modality, since one norm over all would let the largest modality's gradients shrink the others'.
    by_modality: dict[str, list[nn.Parameter]] = {}
    for name, parameters in groups.items():
        by_modality.setdefault(name.rpartition("/")[2], []).extend(parameters)
    return list(by_modality.values())
