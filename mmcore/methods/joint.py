"""Joint training: one fusion head on all encoders, its cross-entropy alone.

In short: All encoders feed one head, and that head's answer alone is trained. The modality that is learnt most easily
soon does the work, and the other encoders hardly learn: this is the imbalance all other methods are meant to cure.

Source: "Concat", "Sum", "Weight", "Affine" and "Gated" in the papers' tables.

Cost: 1; every other method's is told beside it.

Shape legend: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel
from torch import Tensor

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.methods.base import FUSED, METHODS, Context, Method, Need, cross_entropy
from mmcore.methods.fusion import FusionName, build_fusion, fusion_needs

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel


class JointConfig(Section):
    """The one setting of joint training.

    Attributes:
        fusion: The head all features feed.
    """

    fusion: FusionName = "concat"


@METHODS.register("joint")
class Joint(Method):
    """Trains the fusion head's cross-entropy, over all samples. A missing modality is features of zero to it."""

    Config: ClassVar[type[BaseModel]] = JointConfig

    def __init__(self, model: MultimodalModel, config: JointConfig, context: Context):
        super().__init__(model, config, context)
        self.fusion = build_fusion(config.fusion, model.num_features, context.num_classes)

    @classmethod
    def needs(cls, config: JointConfig) -> frozenset[Need]:
        """Returns equal feature sizes for the fusion heads that add features up."""
        return fusion_needs(config.fusion)

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the other ways to fuse."""
        names = [name for name in get_args(FusionName) if name != "concat"]
        return {name: {"method.fusion": name} for name in names}

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy."""
        return {FUSED: cross_entropy(self.fusion(self.model.encode(batch)), batch.labels, engine)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the fusion head's logits (B, K)."""
        return {FUSED: self.fusion(self.model.encode(batch))}
