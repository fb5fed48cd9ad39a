"""SimBaMM: a small transformer over one token per modality, its cross-entropy alone.

In short: Each modality becomes one token, and a small transformer reads the tokens beside one more, off which the
answer is taken. Attention settles for each sample what each modality counts; the authors found this plain fusion hard
to beat.

Paper: Rheude, Eils, Wild, "Fusion or Confusion? Multimodal Complexity Is Not All You Need" (arXiv 2512.22991); of the
text only the released code could be read.

Cost: that of `joint`, and of a transformer over M + 1 tokens.

Rulings and deviations (each with a test in tests/core/methods/test_simbamm.py):
  1. One token per modality; the authors' variant with all steps of a sequence needs encoders that give steps.
  2. Every layer is drawn by itself; copies of one layer would start equal.
  3. Optimizer and schedule are the run's; the authors' schedule-free AdamW is no part of the rule.
  4. No dropout by default (the authors search 0, 0.1 and 0.2): each worker would draw its own, so that k workers
     would not equal one.
  5. Kaiming initialisation is that of PyTorch's linear layers; attention's input weights are PyTorch's own.

Shape legend: B samples, K classes, D_m features of modality m, d width of a token, M modalities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.errors import ConfigError
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

POSITION_DEVIATION = 0.02


class SimBaMMConfig(Section):
    """Settings of SimBaMM's transformer.

    Attributes:
        width: d, size of a token; a multiple of `attention_heads`.
        layers: Transformer layers.
        hidden: Width of the layers' feed-forward part.
        attention_heads: Heads of the attention.
        dropout: Share of activations dropped in training, drawn on each worker by itself; 0: none.
    """

    width: Annotated[int, Ge(1), Le(65_536)] = 256
    layers: Annotated[int, Ge(1), Le(1000)] = 2
    hidden: Annotated[int, Ge(1), Le(65_536)] = 512
    attention_heads: Annotated[int, Ge(1), Le(65_536)] = 4
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0


class TokenFusion(nn.Module):
    """Projects each modality to a token, and reads the logits off a class token after a post-norm transformer."""

    def __init__(self, sizes: dict[str, int], config: SimBaMMConfig, num_classes: int):
        super().__init__()
        width = config.width
        self.projections = nn.ModuleDict({name: nn.Linear(size, width) for name, size in sizes.items()})
        self.class_token = nn.Parameter(torch.randn(width) * POSITION_DEVIATION)
        # Pairs, since a dictionary would be sorted by its keys.
        self.positions = nn.ParameterDict(
            [(name, torch.randn(width) * POSITION_DEVIATION) for name in ["class", *sizes]]
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, config.attention_heads, config.hidden, config.dropout, batch_first=True)
            for _ in range(config.layers)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, features: dict[str, Tensor], present: dict[str, Tensor | None]) -> Tensor:
        """Returns logits (B, K); tokens of samples outside a modality's mask (B,) are not attended to."""
        tokens = [self.projections[name](values) + self.positions[name] for name, values in features.items()]
        start = (self.class_token + self.positions["class"]).expand_as(tokens[0])
        sequence = torch.stack([start, *tokens], dim=1)
        absent = _absent(start, [present[name] for name in features])
        for layer in self.layers:
            sequence = layer(sequence, src_key_padding_mask=absent)
        logits: Tensor = self.head(sequence[:, 0])
        return logits


def _absent(start: Tensor, masks: list[Tensor | None]) -> Tensor | None:
    """Returns which tokens are to be left out, (B, M + 1); never the class token. None: none is."""
    if all(mask is None for mask in masks):
        return None
    never = torch.zeros_like(start[:, 0], dtype=torch.bool)
    return torch.stack([never, *(never if mask is None else ~mask for mask in masks)], dim=1)


@METHODS.register("simbamm")
class SimBaMM(Method):
    """Trains the fused cross-entropy, over all samples. Tokens of a missing modality are masked out."""

    Config = SimBaMMConfig

    def __init__(self, model: MultimodalModel, config: SimBaMMConfig, context: Context):
        super().__init__(model, config, context)
        if config.width % config.attention_heads:
            raise ConfigError([f"method.width must be a multiple of method.attention_heads "
                               f"({config.attention_heads}), got {config.width}"])  # fmt: skip
        self.fusion = TokenFusion(dict(model.num_features), config, context.num_classes)

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy."""
        return {FUSED: cross_entropy(self.predict(batch)[FUSED], batch.labels, engine)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the logits read off the class token, (B, K)."""
        features = self.model.encode(batch)
        return {FUSED: self.fusion(features, {name: batch.has(name) for name in features})}
