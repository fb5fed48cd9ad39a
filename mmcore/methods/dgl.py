"""DGL: encoders learn from their own modality's loss alone, the joint head from the joint loss alone.

In short: The joint loss teaches the joint head and nothing else; each encoder learns only from how well the head
answers with its modality alone. So no modality can spare another one's encoder the work.

Paper: "Boosting Multimodal Learning via Disentangled Gradient Learning", ICCV 2025.

Step by step: z = W [f_1; ...; f_M] + b of features without gradient; z_m = W_m f_m + b of a head without gradient, W_m
the columns that see f_m. The loss is CE(z) + α Σ_m CE(z_m): the head moves by the first term, the encoders by the
others. α multiplies the encoders' gradient and nothing else, so it is a learning-rate factor and must be compared as
one.

Cost: that of `joint`, and M products with parts of its head.

Rulings and deviations (each with a test in tests/core/methods/test_dgl.py):
  1. One backward pass of one loss gives both gradients.
  2. The head alone with one modality has the whole bias (`concat`); with `sum` it has that modality's bias.
  3. Gradients are clipped by modality, as the run's `optimizer.clip_norm` says; the released code clips their global
     norm at 40 (variant `released`: 40 for each).
  4. Any number of modalities from two.
  5. A missing modality is features of zero to the joint head; CE(z_m) is a mean over the samples that have m.

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge
from torch import Tensor

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy, unimodal_losses
from mmcore.methods.fusion import build_fusion
from mmcore.methods.unimodal_scores import lone_logits

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel


class DglConfig(Section):
    """Settings of DGL; defaults are the authors'.

    Attributes:
        alpha: α, factor on the encoders' gradients; 0: they learn nothing.
        fusion: `concat` or `sum`: heads that can be taken apart by modality.
    """

    alpha: Annotated[float, Ge(0)] = 4.0
    fusion: Literal["concat", "sum"] = "concat"


@METHODS.register("dgl")
class Dgl(Method):
    """Trains the joint head on the fused cross-entropy, over all samples, and each encoder on its own.

    A missing modality is features of zero to the joint head; its own cross-entropy is a mean over the samples that have
    it.
    """

    Config = DglConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: DglConfig, context: Context):
        super().__init__(model, config, context)
        self.fusion = build_fusion(config.fusion, model.num_features, context.num_classes)

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's clipping, as near as ours comes to it, and the rule without its factor."""
        return {"released": {"optimizer.clip_norm": 40.0}, "no_factor": {"method.alpha": 1.0}}

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy, which the head alone learns from, and α times each modality's."""
        features = self.model.encode(batch)
        fused = self.fusion({name: values.detach() for name, values in features.items()})
        own = unimodal_losses(lone_logits(self.fusion, features, frozen=True), batch, engine)
        weighted = {name: self.config.alpha * loss for name, loss in own.items()}
        return {FUSED: cross_entropy(fused, batch.labels, engine), **weighted}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the joint head's logits, and those with each modality alone, (B, K)."""
        features = self.model.encode(batch)
        return {FUSED: self.fusion(features), **lone_logits(self.fusion, features)}
