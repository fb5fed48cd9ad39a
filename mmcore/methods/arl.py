"""ARL: every encoder gets more of the gradient the more the answer depends on the others and the surer it is itself.

In short: The joint head is also trained to answer with each modality alone. Then each encoder's gradient is enlarged,
most for a modality that is sure of itself while the joint answer leans on another one.

Paper: "Improving Multimodal Learning via Imbalanced Learning", ICCV 2025.

Step by step: z_m is the joint head's answer with modality m alone. d_m is the mean of Σ_k |z_m,k|, as a share of all
modalities'; H_m the mean entropy of softmax of z_m, as a share, at least .3; v_m = 1/H_m as a share; w is the softmax
over the modalities of T · (d of the other) · v_m. The loss is CE(z) + γ Σ_m CE(z_m), with γ = 1 before the start; from
there on g_m <- (1 + w_m) g_m.

Cost: that of `joint`, and M products with parts of its head.

Rulings and deviations (each with a test in tests/core/methods/test_arl.py):
  1. Gradients are multiplied by 1 + w as the paper has it. The released code prints w and leaves ½ for both, and its
     scaling fails in today's PyTorch: variant `released` is the sum of losses alone (`weighting: none`).
  2. The encoder's gradients are multiplied, once they are averaged: as its output's gradient would be, and in
     micro-batches by the whole step's w.
  3. The start is told by an epoch alone, in epochs of `schedule_epochs`, and scaled with the run's length. How accuracy
     takes part in it is not known.
  4. Any number of modalities: d of the other is the mean of the others'; the least share of H is .3·2/M, as shares are
     smaller among more.
  5. The head alone with one modality has the whole bias (`concat`); with `sum` it has that modality's bias.
  6. d and H are of the samples that have all modalities; a step without any leaves gradients as they are. CE(z_m) is a
     mean over the samples that have m; a missing modality is features of zero to the joint head.
  7. Gradients are clipped by modality, as the run's `optimizer.clip_norm` says; the released code clips their global
     norm at 40 (variant `released`: 40 for each).

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy, unimodal_losses
from mmcore.methods.fusion import build_fusion
from mmcore.methods.unimodal_scores import inside, lone_logits, totals_over_complete, window

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

MIN_SUM = 1e-8
"""Least sum that shares are taken of."""


class ArlConfig(Section):
    """Settings of ARL; defaults are the authors' for CREMA-D.

    Attributes:
        gamma: γ, weight of the modalities' own losses from the start on; 1 before it.
        temperature: T, how much the encoders' weights differ; 0: not at all, each is 1/M.
        entropy_floor: Least share of a modality's entropy that counts, with two modalities.
        weighting: `dependence`: gradients are enlarged by w; `none`: not at all (released).
        start_epoch: First epoch of the rule, from 0, in epochs of `schedule_epochs`.
        schedule_epochs: Length of the run to which the start belongs.
        fusion: `concat` or `sum`: heads that can be taken apart by modality.
    """

    gamma: Annotated[float, Ge(0)] = 4.0
    temperature: Annotated[float, Ge(0)] = 8.0
    entropy_floor: Annotated[float, Ge(0), Le(1)] = 0.3
    weighting: Literal["dependence", "none"] = "dependence"
    start_epoch: Annotated[int, Ge(0), Le(10**6)] = 5
    schedule_epochs: Annotated[int, Ge(1), Le(10**6)] = 100
    fusion: Literal["concat", "sum"] = "concat"


def entropies(logits: Tensor) -> Tensor:
    """Returns the entropy of each sample's answer in nats, (B,), at least float32, from logits (B, K)."""
    logs = full_precision(logits).log_softmax(dim=1)
    return -(logs.exp() * logs).sum(dim=1)


def encoder_weights(sizes: Tensor, entropy: Tensor, temperature: float, floor: float) -> Tensor:
    """Returns w, (M,), which sums to 1: softmax of T · (mean d of the others) · v.

    Args:
        sizes: Each modality's mean Σ_k |z_k|, (M,).
        entropy: Each modality's mean entropy, (M,).
        temperature: T.
        floor: Least share of the entropies that counts, with two modalities; with M it is 2/M of that.
    """
    count = len(sizes)
    dependence = sizes / sizes.sum().clamp(min=MIN_SUM)
    others = (dependence.sum() - dependence) / (count - 1)
    shares = (entropy / entropy.sum().clamp(min=MIN_SUM)).clamp(min=max(floor * 2 / count, MIN_SUM))
    inverse = 1 / shares
    return torch.softmax(temperature * others * inverse / inverse.sum(), dim=0)


@METHODS.register("arl")
class Arl(Method):
    """Trains the fused cross-entropy, over all samples, and the joint head's answers with each modality alone.

    A missing modality is features of zero to the joint head; its own cross-entropy is a mean over the samples that have
    it. The encoders' weights are of the samples that have all modalities.

    State (buffer): w of the newest step, 0 before the start.
    """

    Config = ArlConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: ArlConfig, context: Context):
        super().__init__(model, config, context)
        self.fusion = build_fusion(config.fusion, model.num_features, context.num_classes)
        last = max(config.start_epoch, config.schedule_epochs)
        self.window = window(config.start_epoch, last, config.schedule_epochs, context.max_epochs)
        self.weights: Tensor
        self.register_buffer("weights", torch.zeros(len(context.modalities)))
        self._totals: Tensor

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code as it runs, equal weights, no factor on the own losses, and the rule at once."""
        return {
            "released": {"method.weighting": "none", "optimizer.clip_norm": 40.0},
            "even": {"method.temperature": 0.0},
            "no_factor": {"method.gamma": 1.0},
            "from_start": {"method.start_epoch": 0},
        }

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy, and γ times that of each modality alone."""
        features = self.model.encode(batch)
        logits = lone_logits(self.fusion, features)
        if self._weighs(engine):
            self._measure(logits, batch, engine)
        gamma = self.config.gamma if inside(self.window, engine) else 1.0
        own = {name: gamma * loss for name, loss in unimodal_losses(logits, batch, engine).items()}
        return {FUSED: cross_entropy(self.fusion(features), batch.labels, engine), **own}

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Enlarges the encoders' gradients."""
        if not self._weighs(engine):
            return
        sums, count = self._totals[:-1], self._totals[-1]
        sizes, entropy = (sums / torch.where(count > 0, count, 1)).chunk(2)
        weights = encoder_weights(sizes, entropy, self.config.temperature, self.config.entropy_floor)
        self.weights.copy_(torch.where(count > 0, weights, 0))
        groups = self.model.parameter_groups()
        for name, weight in self._by_name():
            gradients = [p.grad for p in groups[f"encoder/{name}"] if p.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, (1 + weight).to(gradients[0].dtype))

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the joint head's logits, and those with each modality alone, (B, K)."""
        features = self.model.encode(batch)
        return {FUSED: self.fusion(features), **lone_logits(self.fusion, features)}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns w of each modality in the newest step."""
        return {f"weight/{name}": value for name, value in self._by_name()}

    @torch.no_grad()
    def _measure(self, logits: dict[str, Tensor], batch: Batch, engine: Step) -> None:
        """Adds one micro-batch's Σ_k |z_k| and entropies, over all ranks, to the step's."""
        sizes = [full_precision(values).abs().sum(dim=1) for values in logits.values()]
        measured = sizes + [entropies(values) for values in logits.values()]
        totals = totals_over_complete(measured, list(logits), batch, engine)
        self._totals = totals if engine.is_first_part else self._totals + totals

    def _weighs(self, engine: Step) -> bool:
        return self.config.weighting == "dependence" and inside(self.window, engine)

    def _by_name(self) -> list[tuple[str, Tensor]]:
        return list(zip(self.context.modalities, self.weights.unbind(), strict=True))
