"""Ensemble (UME): all modalities trained side by side, their logits averaged; no fused head.

In short: Each modality is trained by itself, and their answers are averaged only when a prediction is made. No modality
can hold another one back, so it is the reference of every ranking: a method is worth its trouble where it beats this.

Source: Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023 (arXiv 2305.01233).

Cost: that of `joint`.

Nothing is shared between the modalities, so with a learning rate that does not react to the fused loss it equals
separate trainings.

`tune --method ensemble-tuned` searches each modality by itself, with its share of the trials, and sums the logits by
weights fitted on validation (`rayjobs.runs.parts`): the strongest simple reference, at equal budget.

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.layers.precision import full_precision
from mmcore.methods.base import (
    FUSED,
    METHODS,
    Context,
    Method,
    linear_heads,
    mean_logits,
    modality_shares,
    unimodal_losses,
)

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel


class EnsembleConfig(Section):
    """The one setting of the ensemble.

    Attributes:
        average: What is averaged over the modalities at inference.
    """

    average: Literal["logits", "probabilities"] = "logits"


def mean_probabilities(logits: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Returns the logarithm of the mean softmax of the modalities each sample has, (B, K); 0 where it has none."""
    log_probabilities = torch.stack([full_precision(values).log_softmax(dim=1) for values in logits.values()])
    averaged = torch.logsumexp(log_probabilities + modality_shares(logits, batch).log(), dim=0)
    return torch.where(averaged.isneginf().all(dim=1, keepdim=True), 0, averaged)


@METHODS.register("ensemble")
class Ensemble(Method):
    """Sums the modalities' cross-entropies, each a mean over the samples that have the modality.

    The average is over the modalities a sample has.
    """

    Config = EnsembleConfig

    def __init__(self, model: MultimodalModel, config: EnsembleConfig, context: Context):
        super().__init__(model, config, context)
        self.heads = linear_heads(model, context.modalities, context.num_classes)

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns each modality's cross-entropy."""
        return unimodal_losses(self._logits(batch), batch, engine)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's logits and their average, (B, K)."""
        logits = self._logits(batch)
        average = mean_logits if self.config.average == "logits" else mean_probabilities
        fused = average(logits, batch)
        return {FUSED: fused, **logits}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' heads."""
        return dict(self.heads.items())

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.heads[name](features) for name, features in self.model.encode(batch).items()}
