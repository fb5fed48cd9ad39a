"""OGM and OGM-GE: the gradient of the modality that does better is damped, in each step; GE adds noise.

In short: In each step the modality that answers better has its encoder's gradient made smaller, so that the others can
catch up. GE adds noise of the gradient's own size, which is meant to find flatter minima.

Paper: "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022.

Step by step: ρ_m = s_m / mean of the others' s, with s the mean probability of the label in the modality's part of
the joint logits; k_m = 1 - tanh(α ρ_m) where ρ_m > 1, else 1; g_m <- k_m g_m (OGM), + N(0, σ²) with σ the deviation of
each tensor's undamped gradient (GE).

Cost: that of `joint`; with noise also one random number for each weight.

Rulings and deviations (each with a test in tests/core/methods/test_ogm.py):
  1. Damped where ρ > 1; the released code damps audio at ρ = 1 too.
  2. Any number of modalities: each is compared with the mean of the others, and several may be damped.
  3. The whole encoder is damped; the released code touches convolution kernels alone (`parameters: convolutions`).
  4. Noise is drawn after the gradients are averaged, equal on all ranks. A tensor of one element has no unbiased
     deviation: σ = 1e-8.
  5. The window is in the paper's epochs and scaled with the run's length.
  6. Scores are of the samples that have all modalities; a step without any is not damped.

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy
from mmcore.methods.encoder_tensors import convolution_kernels, require_convolutions
from mmcore.methods.fusion import build_fusion
from mmcore.methods.unimodal_scores import inside, score_ratios, score_totals, slice_logits, window

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

MIN_DEVIATION = 1e-8


class OgmConfig(Section):
    """Settings of OGM; defaults are the authors' for CREMA-D.

    Attributes:
        alpha: α, how much the stronger modality is damped; 0: not at all.
        noise: Whether noise as large as the gradient is added to it (GE, generalisation enhancement).
        start_epoch: First epoch of the rule, from 0, in epochs of `schedule_epochs`.
        end_epoch: Last epoch of the rule, inside.
        schedule_epochs: Length of the authors' run, to which the window belongs.
        fusion: `concat` or `sum`: heads that can be taken apart by modality.
        parameters: `all` of an encoder, or its `convolutions`' kernels (released).
    """

    alpha: Annotated[float, Ge(0)] = 0.8
    noise: bool = False
    start_epoch: Annotated[int, Ge(0), Le(10**6)] = 0
    end_epoch: Annotated[int, Ge(0), Le(10**6)] = 50
    schedule_epochs: Annotated[int, Ge(1), Le(10**6)] = 100
    fusion: Literal["concat", "sum"] = "concat"
    parameters: Literal["all", "convolutions"] = "all"


def damping(ratios: Tensor, alpha: float) -> Tensor:
    """Returns k = 1 - tanh(α ρ) where ρ > 1, else 1, (M,), in (0, 1]; it jumps at ρ = 1, as the paper's does."""
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios), 1)


def noise_deviation(gradient: Tensor) -> Tensor:
    """Returns σ of the noise for one tensor: the unbiased deviation of its undamped gradient, plus 1e-8."""
    if gradient.numel() < 2:
        return gradient.new_full((), MIN_DEVIATION)
    return gradient.std() + MIN_DEVIATION


@METHODS.register("ogm")
class Ogm(Method):
    """Trains the fused cross-entropy, over all samples. A missing modality is features of zero to the fusion head.

    State (buffer): k of the newest step.
    """

    Config = OgmConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: OgmConfig, context: Context):
        super().__init__(model, config, context)
        self.fusion = build_fusion(config.fusion, model.num_features, context.num_classes)
        self.window = window(config.start_epoch, config.end_epoch, config.schedule_epochs, context.max_epochs)
        if config.parameters == "convolutions":
            require_convolutions(model.encoders, context.modalities)
        self.coefficients: Tensor
        self.register_buffer("coefficients", torch.ones(len(context.modalities)))
        self._totals: Tensor

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns OGM-GE, the released code's choice of parameters, and noise alone."""
        released = {"method.noise": True, "method.parameters": "convolutions"}
        return {
            "ge": {"method.noise": True},
            "released": {**released, "schedule.name": "step", "schedule.step_epochs": 70},
            "noise_only": {"method.noise": True, "method.alpha": 0.0},
        }

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy; scores the modalities beside it, from the same features."""
        features = self.model.encode(batch)
        totals = score_totals(slice_logits(self.fusion, features), batch, engine)
        self._totals = totals if engine.is_first_part else self._totals + totals
        return {FUSED: cross_entropy(self.fusion(features), batch.labels, engine)}

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Damps the encoders' gradients, and adds the noise."""
        if not inside(self.window, engine):
            self.coefficients.fill_(1)
            return
        self.coefficients.copy_(damping(score_ratios(self._totals), self.config.alpha))
        for name, coefficient in self._by_name():
            gradients = [p.grad for p in self._adjusted(name) if p.grad is not None]
            if not gradients:
                continue
            added = self._noise(gradients, engine)
            torch._foreach_mul_(gradients, coefficient.to(gradients[0].dtype))
            if added:
                torch._foreach_add_(gradients, added)

    def _noise(self, gradients: list[Tensor], engine: Step) -> list[Tensor]:
        if not self.config.noise:
            return []
        return [engine.normal("ogm", gradient) * noise_deviation(gradient) for gradient in gradients]

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the fusion head's logits (B, K)."""
        return {FUSED: self.fusion(self.model.encode(batch))}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns k of each modality in the newest step."""
        return {f"coefficient/{name}": value for name, value in self._by_name()}

    def _by_name(self) -> list[tuple[str, Tensor]]:
        return list(zip(self.context.modalities, self.coefficients.unbind(), strict=True))

    def _adjusted(self, name: str) -> list[nn.Parameter]:
        if self.config.parameters == "convolutions":
            return convolution_kernels(self.model.encoders[name])
        return self.model.parameter_groups()[f"encoder/{name}"]
