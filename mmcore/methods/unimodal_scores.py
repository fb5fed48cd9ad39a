"""How well each modality does inside a joint model: what several balancing methods measure.

They have no heads of their own but take the joint head apart, score each part on the label and compare the scores.
Nothing here has a gradient but `joint_parts` and `lone_logits`, which some methods train by.

Shape legend: B samples of this rank's shard, K classes, D_m features of modality m, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.layers.precision import full_precision
from mmcore.methods.fusion import Concat, Sum

if TYPE_CHECKING:
    from mmcore.methods.step import Step

MIN_SCORE = 1e-8
"""Least mean of the others' scores that a ratio is taken to."""


def head_slices(fusion: nn.Module, sizes: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns each modality's weights W_m (K, D_m) inside a joint head, and the bias (K,) that stands with them.

    Concat: the columns that see f_m, and all of b. Sum: W_m and b_m.

    Args:
        fusion: The joint head.
        sizes: Modality -> D_m.

    Raises:
        TypeError: The fusion head is not a sum of one part per modality.
    """
    if isinstance(fusion, Sum):
        layers = {name: cast(nn.Linear, fusion.heads[name]) for name in sizes}
        return {name: (layer.weight, layer.bias) for name, layer in layers.items()}
    if not isinstance(fusion, Concat):
        raise TypeError(f"{type(fusion).__name__} cannot be taken apart by modality: use the concat or sum fusion")
    columns = fusion.head.weight.split_with_sizes(list(sizes.values()), dim=1)
    return {name: (part, fusion.head.bias) for name, part in zip(sizes, columns, strict=True)}


def joint_parts(fusion: nn.Module, features: Mapping[str, Tensor], *, frozen: bool = False) -> dict[str, Tensor]:
    """Returns each modality's part of the joint logits, (B, K), with gradient; the parts sum to the joint logits.

    Concat: W_m f_m + b/M, with W_m the columns that see f_m. Sum: W_m f_m + b_m.

    Args:
        fusion: The joint head.
        features: Modality -> (B, D_m).
        frozen: Whether the gradient goes to the features alone, and none to the head.

    Raises:
        TypeError: The fusion head is not a sum of one part per modality.
    """
    slices = _slices(fusion, features, frozen=frozen)
    if isinstance(fusion, Concat):
        share = next(iter(slices.values()))[1] / len(
            features
        )  # once, so that its gradient is summed before it is divided
        slices = {name: (weight, share) for name, (weight, _) in slices.items()}
    return {name: F.linear(features[name], weight, bias) for name, (weight, bias) in slices.items()}


@torch.no_grad()
def slice_logits(fusion: nn.Module, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what `joint_parts` does, without gradient."""
    return joint_parts(fusion, features)


def lone_logits(fusion: nn.Module, features: Mapping[str, Tensor], *, frozen: bool = False) -> dict[str, Tensor]:
    """Returns each modality's answer by the joint head when the others are left out, (B, K), with its gradient.

    Concat: W_m f_m + b, with the whole bias. Sum: W_m f_m + b_m.

    Args:
        fusion: The joint head.
        features: Modality -> (B, D_m).
        frozen: Whether the gradient goes to the features alone, and none to the head.

    Raises:
        TypeError: The fusion head is not a sum of one part per modality.
    """
    return {
        name: F.linear(features[name], weight, bias)
        for name, (weight, bias) in _slices(fusion, features, frozen=frozen).items()
    }


def _slices(fusion: nn.Module, features: Mapping[str, Tensor], *, frozen: bool) -> dict[str, tuple[Tensor, Tensor]]:
    slices = head_slices(fusion, {name: values.shape[1] for name, values in features.items()})
    if not frozen:
        return slices
    return {name: (weight.detach(), bias.detach()) for name, (weight, bias) in slices.items()}


@torch.no_grad()
def score_totals(logits: Mapping[str, Tensor], batch: Batch, engine: Step) -> Tensor:
    """Returns (M + 1,): each modality's summed probability of the label, and the samples behind it, over all ranks.

    Samples that lack one of the modalities are left out, as their scores could not be compared.
    """
    return totals_over_complete(label_probabilities(logits, batch.labels), list(logits), batch, engine)


def label_probabilities(logits: Mapping[str, Tensor], labels: Tensor) -> list[Tensor]:
    """Returns each modality's probability of the label, (B,), at least float32, from its logits (B, K)."""
    index = labels[:, None]
    return [full_precision(values).softmax(dim=1).gather(1, index)[:, 0] for values in logits.values()]


@torch.no_grad()
def totals_over_complete(
    values: Sequence[Tensor], names: Sequence[str], batch: Batch, engine: Step, counted: Tensor | None = None
) -> Tensor:
    """Returns (M + 1,): the sum of each modality's values (B,), and the samples behind it, over all ranks.

    Samples that lack one of the modalities are left out, and those not `counted`, (B,) bool.
    """
    mask = batch.has(*names)
    if counted is not None:
        mask = counted if mask is None else mask & counted
    rows = torch.stack([*values, torch.ones_like(values[0])])
    total, _ = engine.total((rows if mask is None else torch.where(mask, rows, 0)).mean(dim=1))
    return total


def score_ratios(totals: Tensor) -> Tensor:
    """Returns ρ_m = s_m / mean of the other modalities' s, (M,), from `score_totals`; 1 where no sample was scored."""
    scores, others = _compared(totals)
    return torch.where(totals[-1] > 0, scores / others.clamp(min=MIN_SCORE), 1)


def score_leads(totals: Tensor) -> Tensor:
    """Returns s_m - mean of the other modalities' s, (M,), from `score_totals`; 0 where no sample was scored."""
    scores, others = _compared(totals)
    return scores - others


def _compared(totals: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each modality's mean score and the mean of the others', (M,) each; 0 where no sample was scored."""
    scores = totals[:-1] / torch.where(totals[-1] > 0, totals[-1], 1)
    return scores, (scores.sum() - scores) / (len(scores) - 1)


def window(start_epoch: int, end_epoch: int, schedule_epochs: int, max_epochs: int) -> tuple[int, int]:
    """Returns the first and the last epoch (from 0, both inside) in this run of a window told in the paper's epochs.

    Raises:
        ConfigError: It ends before it begins.
    """
    if end_epoch < start_epoch:
        raise ConfigError([f"method.end_epoch must be at least method.start_epoch ({start_epoch}), got {end_epoch}"])
    scale = max_epochs / schedule_epochs
    return round(start_epoch * scale), round(end_epoch * scale)


def inside(window: tuple[int, int], engine: Step) -> bool:
    """Returns whether the running epoch lies in a window of this run: a plain truth value, so no step waits for it."""
    first, last = window
    return first <= engine.place.epoch <= last
