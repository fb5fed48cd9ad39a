"""G2D: joint training that learns from a teacher of each modality, the better-taught encoders waiting for the others.

In short: The joint answer and the encoders' features are both drawn to those of models that learnt each modality alone.
For the first half of the run the modality whose teacher answers better keeps its encoder still, so that the others
learn first.

Paper: "G2D: Boosting Multimodal Learning with Gradient-Guided Distillation", ICCV 2025.

Step by step: L = CE(z) + Σ_m [a T² KL(p_m ‖ p) + b MSE(f_m, t_m)], with p_m and p the softmax of teacher m's logits ÷ T
and of z ÷ T, and t_m the teacher's features. Within the window the encoders with s_m > mean of the others' s get the
gradient 0, s being the mean probability of the label that the teacher gives.

Cost: that of `joint` and a forward pass of M teachers; before it, one run of `unimodal` for each modality.

Rulings and deviations (each with a test in tests/core/methods/test_g2d.py):
  1. The whole encoder waits; the released code touches convolution kernels alone (`parameters: convolutions`).
  2. Equal teachers let none wait; the released code fails there.
  3. Any number of modalities: each teacher is compared with the mean of the others, and several encoders may wait,
     never all.
  4. A waiting encoder has a gradient of 0, not none: momentum and weight decay still move it, as released.
  5. The window is in the authors' epochs and scaled with the run's length; both ends are inside.
  6. Scores are of the samples that have all modalities; a step without any lets none wait. What a teacher says counts
     for the samples that have its modality.
  7. Teachers are the final models of `unimodal`, and one whose features have another size is refused, as in `umt`.

Shape legend: B samples, K classes, D_m features of modality m, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Context, Need, cross_entropy
from mmcore.methods.encoder_tensors import convolution_kernels, require_convolutions
from mmcore.methods.fusion import fusion_needs
from mmcore.methods.joint import Joint, JointConfig
from mmcore.methods.umt import feature_terms, require_sizes
from mmcore.methods.unimodal_scores import inside, score_ratios, score_totals, window

if TYPE_CHECKING:
    from mmcore.methods.step import Answer, Step
    from mmcore.model import MultimodalModel


class G2dConfig(JointConfig):
    """Settings of G2D; defaults are the authors'.

    Attributes:
        distil: a, weight of the joint answer's distance to the teachers' answers.
        features: b, weight of the features' distance to the teachers' features.
        temperature: T, what logits are divided by before answers are compared.
        prioritise: Whether encoders wait whose teachers do better than the others.
        start_epoch: First epoch in which encoders wait, from 0, in epochs of `schedule_epochs`.
        end_epoch: Last such epoch, inside.
        schedule_epochs: Length of the authors' run, to which the window belongs.
        parameters: `all` of an encoder waits, or its `convolutions`' kernels (released).
    """

    distil: Annotated[float, Ge(0)] = 1.0
    features: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 1.0
    prioritise: bool = True
    start_epoch: Annotated[int, Ge(0)] = 0
    end_epoch: Annotated[int, Ge(0)] = 150
    schedule_epochs: Annotated[int, Ge(1)] = 300
    parameters: Literal["all", "convolutions"] = "all"


def answer_divergences(taught: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Returns each sample's T² KL(softmax(teacher ÷ T) ‖ softmax(z ÷ T)), (B,), at least float32.

    Args:
        taught: A teacher's logits, (B, K); without gradient.
        logits: z, (B, K).
        temperature: T.
    """
    target = (full_precision(taught) / temperature).log_softmax(dim=1)
    own = (full_precision(logits) / temperature).log_softmax(dim=1)
    return temperature**2 * (target.exp() * (target - own)).sum(dim=1)


@METHODS.register("g2d")
class G2d(Joint):
    """Trains the fused cross-entropy, over all samples, and what the teachers ask for, over those that have a modality.

    A missing modality is features of zero to the fusion head.

    State (buffer): which encoders learn, 1, and which wait, 0, in the newest step.
    """

    Config = G2dConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: G2dConfig, context: Context):
        super().__init__(model, config, context)
        self.window = window(config.start_epoch, config.end_epoch, config.schedule_epochs, context.max_epochs)
        if config.parameters == "convolutions":
            require_convolutions(model.encoders, context.modalities)
        self.learning: Tensor
        self.register_buffer("learning", torch.ones(len(context.modalities)))
        self._totals: Tensor

    @classmethod
    def needs(cls, config: Any) -> frozenset[Need]:
        """Returns teachers, unless nothing asks them, and equal feature sizes for the fusion heads that add up."""
        asks = config.distil or config.features or config.prioritise
        return fusion_needs(config.fusion) | ({Need.TEACHERS} if asks else set())

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's choice of parameters, and each part of the rule left out."""
        return {
            "released": {"method.parameters": "convolutions"},
            "distil_only": {"method.prioritise": False},
            "priority_only": {"method.distil": 0.0, "method.features": 0.0},
            "no_answers": {"method.distil": 0.0},
            "no_features": {"method.features": 0.0},
        }

    def begin_epoch(self, engine: Step) -> None:
        """Looks whether the teachers fit.

        Raises:
            TrainingError: One's features have another size.
        """
        if self.config.features:
            require_sizes(self.model.num_features, self.context.teachers)

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy and the distances to the teachers, each times its weight."""
        config, features = self.config, self.model.encode(batch)
        logits = self.fusion(features)
        terms = {FUSED: cross_entropy(logits, batch.labels, engine)}
        answers = {name: teacher(batch) for name, teacher in self.context.teachers.items()}
        if config.prioritise:
            totals = score_totals({name: answer.logits for name, answer in answers.items()}, batch, engine)
            self._totals = totals if engine.is_first_part else self._totals + totals
        if config.distil:
            terms |= self._distilled(logits, answers, batch, engine)
        if config.features:
            terms |= feature_terms(features, answers, batch, engine, config.features)
        return terms

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Sets the waiting encoders' gradients to 0."""
        if not self.config.prioritise or not inside(self.window, engine):
            self.learning.fill_(1)
            return
        self.learning.copy_(score_ratios(self._totals) <= 1)
        for name, factor in zip(self.context.modalities, self.learning.unbind(), strict=True):
            if gradients := [p.grad for p in self._waiting(name) if p.grad is not None]:
                torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns which encoders learnt in the newest step: 1, and 0 where one waited."""
        return {
            f"learning/{name}": value
            for name, value in zip(self.context.modalities, self.learning.unbind(), strict=True)
        }

    def _distilled(
        self, logits: Tensor, answers: Mapping[str, Answer], batch: Batch, engine: Step
    ) -> dict[str, Tensor]:
        temperature = self.config.temperature
        values = {name: answer_divergences(answer.logits, logits, temperature) for name, answer in answers.items()}
        means = engine.means(values, {name: batch.has(name) for name in values})
        return {f"answer/{name}": self.config.distil * value for name, value in means.items()}

    def _waiting(self, name: str) -> list[nn.Parameter]:
        """Returns the parameters of a modality that may have to wait."""
        if self.config.parameters == "convolutions":
            return convolution_kernels(self.model.encoders[name])
        return self.model.parameter_groups()[f"encoder/{name}"]
