"""MMCosine: joint training on cosine logits, so that no modality wins by the size of its features or weights.

In short: A modality's vote for a class is the angle between its features and the class's weights, not their product.
So no modality can win by growing large, only by pointing the right way.

Paper: "MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning", ICASSP 2023.

Step by step: z_m = s·cos(f_m, W_m,k); z = Σ_m z_m; the loss is the cross-entropy of z.

Cost: that of `joint`.

Rulings and deviations (each with a test in tests/core/methods/test_mmcosine.py):
  1. Training and prediction use the same cosine logits; the released evaluation takes the raw linear head with its
     bias (`predict: linear`, variant `released`).
  2. No bias: in the released code it never gets a gradient.
  3. Vectors are divided by √(‖x‖² + ε), which has a finite gradient at 0.
  4. Any number of modalities: their logits are summed; a missing one adds 0.

Shape legend: B samples, K classes, D features, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy, sum_logits

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

EPSILON = 1e-12


class MMCosineConfig(Section):
    """Settings of MMCosine.

    Attributes:
        scale: s, the logit of a modality whose features point along a class's weights; 0: all classes alike.
        predict: `cosine` logits, as in training, or the raw `linear` head with its untrained bias (released).
    """

    scale: Annotated[float, Ge(0)] = 10.0
    predict: Literal["cosine", "linear"] = "cosine"


def unit(vectors: Tensor) -> Tensor:
    """Returns vectors along the last axis over √(their squared norm + ε): about length 1, and 0 for 0; ≥ float32."""
    vectors = full_precision(vectors)
    return vectors * (vectors.square().sum(dim=-1, keepdim=True) + EPSILON).rsqrt()


def cosine_logits(features: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Returns s·cos(f, W_k), (B, K), from features (B, D) and weights (K, D); each within ±s."""
    return scale * F.linear(unit(features), unit(weight))


@METHODS.register("mmcosine")
class MMCosine(Method):
    """Trains the cross-entropy of the summed cosine logits, over all samples; a missing modality adds 0 to the sum.

    The summed logits stay within ±s·M, so that s bounds how confident the model can become.

    State (buffer, `predict: linear` only): the bias, which nothing trains.
    """

    Config = MMCosineConfig

    def __init__(self, model: MultimodalModel, config: MMCosineConfig, context: Context):
        super().__init__(model, config, context)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(model.num_features[name], context.num_classes, bias=False) for name in context.modalities}
        )
        self.bias: Tensor | None
        bound = 1 / math.sqrt(sum(model.num_features[name] for name in context.modalities))
        is_linear = config.predict == "linear"
        self.register_buffer("bias", torch.empty(context.num_classes).uniform_(-bound, bound) if is_linear else None)

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's prediction by the raw linear head."""
        return {"released": {"method.predict": "linear"}}

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the cross-entropy of the summed cosine logits."""
        return {FUSED: cross_entropy(sum_logits(self._cosines(batch), batch), batch.labels, engine)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the summed logits and each modality's cosine logits, (B, K)."""
        features = self.model.encode(batch)
        own = {name: self._own(name, values) for name, values in features.items()}
        if self.bias is None:
            return {FUSED: sum_logits(own, batch), **own}
        raw = {name: self.heads[name](values) for name, values in features.items()}
        return {FUSED: sum_logits(raw, batch) + self.bias, **own}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' heads."""
        return dict(self.heads.items())

    def _cosines(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self._own(name, values) for name, values in self.model.encode(batch).items()}

    def _own(self, name: str, features: Tensor) -> Tensor:
        return cosine_logits(features, cast("Tensor", self.heads[name].weight), self.config.scale)
