"""Joint training with a head per modality: the fused cross-entropy plus every modality's own.

In short: As `joint`, and each modality also answers by itself through a small head, whose error is added. So every
encoder has a task of its own, however strong the others are; much of what balancing methods gain is already here.

Source: the rung of the ladder between `joint` and the balancing methods, which the papers leave out.

Cost: that of `joint` and of M linear heads.

Shape legend: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.layers.precision import full_precision
from mmcore.methods.base import (
    FUSED,
    METHODS,
    Context,
    Method,
    Need,
    cross_entropy,
    linear_heads,
    sum_logits,
    unimodal_losses,
)
from mmcore.methods.fusion import FusionName, build_fusion, fusion_needs

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel


class JointUnimodalConfig(Section):
    """Settings of joint training with unimodal heads.

    Attributes:
        fusion: The head all features feed.
        predict: The `fused` head's logits, or the `sum` of all heads' (as IPRM predicts).
    """

    fusion: FusionName = "concat"
    predict: Literal["fused", "sum"] = "fused"


@METHODS.register("joint_unimodal")
class JointUnimodal(Method):
    """Sums the fused and the unimodal cross-entropies.

    A missing modality is features of zero to the fusion head; its own cross-entropy is a mean over the samples that
    have it, and its own logits are left out of a predicted `sum`.
    """

    Config = JointUnimodalConfig

    def __init__(self, model: MultimodalModel, config: JointUnimodalConfig, context: Context):
        super().__init__(model, config, context)
        self.fusion = build_fusion(config.fusion, model.num_features, context.num_classes)
        self.heads = linear_heads(model, context.modalities, context.num_classes)

    @classmethod
    def needs(cls, config: JointUnimodalConfig) -> frozenset[Need]:
        """Returns equal feature sizes for the fusion heads that add features up."""
        return fusion_needs(config.fusion)

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the prediction by the sum of all heads, as IPRM predicts."""
        return {"sum": {"method.predict": "sum"}}

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy and each modality's."""
        fused, logits = self._logits(batch)
        return {FUSED: cross_entropy(fused, batch.labels, engine), **unimodal_losses(logits, batch, engine)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the fused logits and each modality's, (B, K)."""
        fused, logits = self._logits(batch)
        if self.config.predict == "sum":
            fused = full_precision(fused) + sum_logits(logits, batch)
        return {FUSED: fused, **logits}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' heads."""
        return dict(self.heads.items())

    def _logits(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.model.encode(batch)
        return self.fusion(features), {name: self.heads[name](values) for name, values in features.items()}
