"""Unimodal: one encoder and one linear head on a single modality, cross-entropy.

In short: One modality is trained alone, and the others are never looked at. It shows what a modality can reach by
itself, which is what a balanced model should get out of it.

Source: "Audio", "Video", "Text" in the papers' tables.

Cost: the part of `joint`'s that the one encoder has.

Shape legend: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.errors import ConfigError, suggest
from mmcore.methods.base import FUSED, METHODS, Context, Method, linear_heads, unimodal_losses

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel


class UnimodalConfig(Section):
    """The one setting of unimodal training.

    Attributes:
        modality: The one that is trained; the others are not even encoded.
    """

    modality: str


@METHODS.register("unimodal")
class Unimodal(Method):
    """Trains one modality alone.

    Samples that lack it are left out of the loss. In evaluation nothing is left to tell them by: they are answered by
    the classes' frequencies (see `Trainer.evaluate`).
    """

    Config = UnimodalConfig

    def __init__(self, model: MultimodalModel, config: UnimodalConfig, context: Context):
        super().__init__(model, config, context)
        self.heads = linear_heads(model, [config.modality], context.num_classes)

    @classmethod
    def used_modalities(cls, config: UnimodalConfig, modalities: Sequence[str]) -> tuple[str, ...]:
        """Returns the one modality of `config`."""
        if config.modality not in modalities:
            raise ConfigError([f"unknown modality 'method.modality = {config.modality}'"
                               f"{suggest(config.modality, modalities)}"])  # fmt: skip
        return (config.modality,)

    @classmethod
    def rows(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns one row per modality."""
        return {name: {"modality": name} for name in modalities}

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the modality's cross-entropy."""
        logits = self.predict(batch)
        return unimodal_losses({self.config.modality: logits[self.config.modality]}, batch, engine)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the head's logits (B, K), under the modality's name and as the fused ones."""
        name = self.config.modality
        logits = self.heads[name](self.model.encode(batch)[name])
        return {FUSED: logits, name: logits}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modality's head."""
        return dict(self.heads.items())
