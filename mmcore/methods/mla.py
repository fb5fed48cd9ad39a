"""MLA: modalities train one after another through one shared head, whose gradient is turned off what it just learnt.

In short: Modalities take turns within each step, and all of them answer through one and the same head. So that a turn
does not overwrite what the others taught the head, its gradient is kept off directions that features already had.

Paper: "Multimodal Representation Learning by Alternating Unimodal Adaptation", CVPR 2024.

Step by step: for each modality in turn, a step on CE(head(f_m)) of its encoder and the head. r is the batch's mean f_m,
q = P r, P <- P - q qᵀ/(α + rᵀq) with α = decay^(1 + j/J) for batch j of J, P <- P/‖P‖; the head's weight gets its
gradient times Pᵀ. Fused are Σ_m w_m z_m with w = softmax over the modalities of minus the entropy of softmax(z_m).

Cost: that of `joint`, M optimizer steps instead of one, and a product of K×D by D×D numbers for each modality.

Rulings and deviations (each with a test in tests/core/methods/test_mla.py):
  1. The gradient is projected. The released code looks for the head under another name and never projects: variant
     `released`. Its older version, which did, divides by the matrix α + q rᵀ where the equation has a number: variant
     `released_first`. There a divisor may come near 0, and the run then ends with the message for losses that are not
     finite.
  2. P is divided by its norm, as in every released version, so that the head learns about √D times slower than
     without; `unnormalised` does not. The paper's text was not at hand to settle it.
  3. P takes up the mean features of the modality whose gradient it then turns (released). The idea of the method, not
     to overwrite the previous turn, asks for the previous turn's: variant `previous`. This too the paper must settle.
  4. Weights of the prediction are each sample's own. The released code's dynamic ones are a softmax over the batch, so
     that an answer depends on who else is asked; they are not offered. Its default is a fixed mean: `predict: static`.
  5. The run's first turn changes neither P nor the gradient. Nor does P change in a turn whose modality no sample has.
  6. The head's bias is left alone.

Shape legend: B samples, K classes, D features, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
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
    mean_logits,
    require_weights,
    unimodal_losses,
)

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

THREE_MODALITIES = {"audio": 0.35, "image": 0.25, "text": 0.4}
"""The released code's weights of the logits for these three."""


class MlaConfig(Section):
    """Settings of MLA.

    Attributes:
        projection: Whether the head's gradient is projected; `false`, as the released code runs: never.
        denominator: A `scalar`, as recursive least squares has it, or `elementwise` (an older released version).
        normalise: Whether P is divided by its norm after each change.
        project_on: Whose mean features P takes up before a turn: the `current` modality's, or the `previous` turn's.
        decay: How small α becomes within an epoch: α is decay^(1 + j/J); the larger, the less is projected away.
        predict: Weights by each sample's `entropy`, or `static` ones.
        weights: Modality -> weight of its logits where `static`; scaled to sum to 1, so not all 0. None: equal ones.
    """

    projection: bool = True
    denominator: Literal["scalar", "elementwise"] = "scalar"
    normalise: bool = True
    project_on: Literal["current", "previous"] = "current"
    decay: Annotated[float, Gt(0)] = 0.1
    predict: Literal["entropy", "static"] = "entropy"
    weights: dict[str, Annotated[float, Ge(0)]] | None = None


def step_alpha(decay: float, step: int, num_steps: int) -> float:
    """Returns α = decay^(1 + j/J) of step j of the J of an epoch."""
    return float(decay ** (1 + step / num_steps))


def updated_projector(projector: Tensor, mean: Tensor, alpha: float, denominator: str, *, normalise: bool) -> Tensor:
    """Returns P - q qᵀ/(α + rᵀq) with q = P r, (D, D), divided by its norm if asked for.

    Args:
        projector: P, (D, D).
        mean: r, (D,).
        alpha: α > 0.
        denominator: `scalar`; or `elementwise`: α + q rᵀ, entry by entry.
        normalise: Whether to divide by the Frobenius norm.
    """
    direction = projector @ mean
    size = mean @ direction if denominator == "scalar" else torch.outer(direction, mean)
    projector = projector - torch.outer(direction, direction) / (alpha + size)
    return projector / torch.linalg.matrix_norm(projector) if normalise else projector


def entropy_logits(logits: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Returns Σ_m w_m z_m (B, K), at least float32, with w the softmax of minus the entropies of the z_m.

    Over the modalities each sample has; 0 where it has none.

    Args:
        logits: Modality -> z_m, (B, K).
        batch: Tells which samples have which modalities.
    """
    stacked = torch.stack([full_precision(values) for values in logits.values()])
    log_probabilities = stacked.log_softmax(dim=2)
    confidence = (log_probabilities.exp() * log_probabilities).sum(dim=2).exp()  # exp(-entropy), in [1/K, 1]
    masks = [batch.has(name) for name in logits]
    shares = torch.stack([
        row if mask is None else torch.where(mask, row, 0) for row, mask in zip(confidence, masks, strict=True)
    ])  # fmt: skip
    total = shares.sum(dim=0)
    return (stacked * (shares / torch.where(total > 0, total, 1))[:, :, None]).sum(dim=0)


@METHODS.register("mla")
class Mla(Method):
    """Trains each modality's cross-entropy in its turn, a mean over the samples that have the modality.

    The fused prediction is over the modalities a sample has.

    State (buffers): P, the mean features of the newest turn, the number of turns, and for each modality what was left
    of the head's gradient.
    """

    Config = MlaConfig

    def __init__(self, model: MultimodalModel, config: MlaConfig, context: Context):
        super().__init__(model, config, context)
        require_weights("method.weights", config.weights, context.modalities)
        size = model.num_features[context.modalities[0]]
        self.head = nn.Linear(size, context.num_classes)
        self.projector: Tensor
        self.register_buffer("projector", torch.eye(size))
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.turns: Tensor
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))
        self.kept: Tensor
        self.register_buffer("kept", torch.ones(len(context.modalities)))
        self._totals: Tensor

    @classmethod
    def needs(cls, config: MlaConfig) -> frozenset[Need]:
        """Returns equal feature sizes, as one head serves all modalities."""
        return frozenset({Need.EQUAL_FEATURES})

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the two released versions, and the rule's open questions answered otherwise."""
        schedule = {"schedule.name": "step", "schedule.step_epochs": 70}
        static: dict[str, Any] = {"method.predict": "static"}
        if set(modalities) == set(THREE_MODALITIES):
            static["method.weights"] = dict(THREE_MODALITIES)
        return {
            "released": {"method.projection": False, **static, **schedule},
            "released_first": {"method.denominator": "elementwise", **static, **schedule},
            "unnormalised": {"method.normalise": False},
            "previous": {"method.project_on": "previous"},
            "alternating": {"method.projection": False},
        }

    def phases(self) -> tuple[str, ...]:
        """Returns one phase per modality: its turn."""
        return self.context.modalities

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Returns the parameters of the modality's encoder, and the head's."""
        encoder = self.model.parameter_groups()[f"encoder/{phase}"]
        return [parameter for parameter in [*encoder, *self.head.parameters()] if parameter.requires_grad]

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the modality's cross-entropy; adds up its features beside it."""
        features = self.model.encode(batch, [phase])[phase]
        if self.config.projection:
            self._add_up(features, batch.has(phase), engine)
        return unimodal_losses({phase: self.head(features)}, batch, engine)

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Projects the gradient of the head's weight."""
        if not self.config.projection or self.head.weight.grad is None:
            return
        count = self._totals[-1]
        mean = torch.where(count > 0, self._totals[:-1] / torch.where(count > 0, count, 1), self.mean)
        taken = mean if self.config.project_on == "current" else self.mean
        alpha = step_alpha(self.config.decay, engine.place.step, engine.place.num_steps)
        config = self.config
        updated = updated_projector(self.projector, taken, alpha, config.denominator, normalise=config.normalise)
        self.projector.copy_(torch.where((self.turns > 0) & (count > 0), updated, self.projector))
        self._project(self.head.weight.grad, phase)
        self.mean.copy_(mean)
        self.turns += 1

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's logits and their weighted sum, (B, K)."""
        logits = {name: self.head(features) for name, features in self.model.encode(batch).items()}
        if self.config.predict == "entropy":
            return {FUSED: entropy_logits(logits, batch), **logits}
        return {FUSED: mean_logits(logits, batch, self.config.weights), **logits}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns, for each modality, the length of the head's gradient after ÷ before projection in its last turn."""
        if not self.config.projection:
            return {}
        return {f"kept_gradient/{name}": self.kept[index] for index, name in enumerate(self.context.modalities)}

    def _add_up(self, features: Tensor, mask: Tensor | None, engine: Step) -> None:
        """Adds the micro-batch's features, and the samples that have them, over all ranks, to the turn's (D + 1,)."""
        rows = full_precision(features.detach())
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
        totals, _ = engine.total((rows if mask is None else torch.where(mask[:, None], rows, 0)).mean(dim=0))
        self._totals = totals if engine.is_first_part else self._totals + totals

    def _project(self, gradient: Tensor, phase: str) -> None:
        projected = torch.where(self.turns > 0, gradient @ self.projector.T, gradient)
        before, after = (torch.linalg.vector_norm(values) for values in (gradient, projected))
        self.kept[self.context.modalities.index(phase)] = after / torch.where(before > 0, before, 1)
        gradient.copy_(projected)
