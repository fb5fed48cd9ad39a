"""Ensemble (UME): all modalities trained side by side, their logits averaged; no fused head.

Source: Du et al., "On Uni-Modal Feature Learning in Supervised Multi-Modal Learning", ICML 2023
(arXiv 2305.01233). The reference row of every ranking: what a balancing method adds is read against it.

Nothing is shared between the modalities, so with a learning rate that does not react to the fused loss it equals
separate trainings.

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config import Section
from mmcore.methods.base import FUSED, METHODS, Context, Method, linear_heads, mean_logits, unimodal_losses
from mmcore.precision import full_precision

if TYPE_CHECKING:
    from mmcore.engine import Engine
    from mmcore.model import MultimodalModel


class EnsembleConfig(Section):
    """What is averaged over the modalities at inference."""

    average: Literal["logits", "probabilities"] = "logits"


def mean_probabilities(logits: dict[str, Tensor]) -> Tensor:
    """Returns the logarithm of the mean of the modalities' softmax, (B, K)."""
    log_probabilities = torch.stack([full_precision(values).log_softmax(dim=1) for values in logits.values()])
    return torch.logsumexp(log_probabilities, dim=0) - math.log(len(logits))


@METHODS.register("ensemble")
class Ensemble(Method):
    """Sums the modalities' cross-entropies. A missing modality is seen as zeros."""

    Config = EnsembleConfig

    def __init__(self, model: MultimodalModel, config: EnsembleConfig, context: Context):
        super().__init__(model, config, context)
        self.heads = linear_heads(model, context.modalities, context.num_classes)

    def losses(self, batch: Batch, phase: str, engine: Engine) -> dict[str, Tensor]:
        """Returns each modality's cross-entropy."""
        return unimodal_losses(self._logits(batch), batch.labels)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's logits and their average, (B, K)."""
        logits = self._logits(batch)
        fused = mean_logits(logits) if self.config.average == "logits" else mean_probabilities(logits)
        return {FUSED: fused, **logits}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' heads."""
        return dict(self.heads.items())

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.heads[name](features) for name, features in self.model.encode(batch).items()}
