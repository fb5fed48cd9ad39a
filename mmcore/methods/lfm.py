"""LFM: modalities learn to agree first and to classify later; the balance of the two may itself be learnt.

In short: Besides classifying, the modalities are asked to give similar answers, so that the slow one learns from the
quick one. Early on agreement counts most; how soon the weight goes over to classifying is fixed or found out.

Paper: "Facilitating Multimodal Classification via Dynamically Learning Modality Gap", NeurIPS 2024.

Step by step: L = 2 (α_0 CE(ẑ) + α_1 A) with ẑ the mean of the modalities' logits, α_0 = 1 - α_1 and A the
Jensen-Shannon divergence of their answers. α_1 begins at .95. Learned, before each epoch: with θ' = θ - η ∇L on a batch
of training, α_1 <- α_1 + r η ⟨∇CE(θ'), 2 (∇A - ∇CE)(θ)⟩, the first gradient on a batch of validation, kept within
bounds; r halves every 20 epochs. Fitted: α_0 is a polynomial of the epoch.

Cost: that of `ensemble`; learned, also three gradients for each epoch.

Rulings and deviations (each with a test in tests/core/methods/test_lfm.py):
  1. `learned` is the derivative of the validation loss by α_1 through one step of training. The released code takes the
     mean over the first weight tensor of a Hessian product, on samples of training, which is no derivative by α_1; at
     its rate α_1 stays where it began. Variant `released` is therefore `fixed`.
  2. A's divergences are to the mean of the answers; the released code swaps the arguments (`alignment: released`), and
     takes logarithms of probabilities that may be 0, which is not repeated.
  3. More than two modalities: the mean over all pairs, so that the bounds keep their meaning; `pairs: sum` is the
     authors' answer to a question about it.
  4. Gradients of the learned rule are taken in evaluation mode, over all workers; weights are put back bit for bit.
  5. Epochs of the rule are scaled with the run's length. The authors' is not known; their polynomial rises until 180.
  6. A missing modality: ẑ is the mean over those a sample has, A of the samples that have both of a pair.

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.errors import ConfigError
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy, linear_heads, mean_logits

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

ALIGNMENT = "alignment"
HALVING_EPOCHS = 20
POLYNOMIAL = (0.204623704, 3.35472727e-3, 1.22989557e-4, -2.92947416e-6, 2.23835486e-8, -5.39717505e-11)
"""Coefficients of α_0 by rising powers of the epoch, from the released code."""
Share = Annotated[float, Ge(0), Le(1)]


class LfmConfig(Section):
    """Settings of LFM; defaults are the paper's rule from the released start.

    Attributes:
        schedule: How the alignment's weight moves: `learned` on validation, `fitted` by epoch, or `fixed` at its start.
        start: α_1 at first, the alignment's weight; classifying has 1 - α_1.
        alpha_rate: r, the learning rate of α_1.
        low: Least α_1.
        high: Most α_1.
        alignment: Divergence to the mean of two answers (`js`), or of the mean to them (`released`).
        pairs: Whether the divergences of more than two modalities are averaged (`mean`) or added (`sum`).
        schedule_epochs: Length of the run whose epochs the rule counts.
    """

    schedule: Literal["learned", "fitted", "fixed"] = "learned"
    start: Share = 0.95
    alpha_rate: Annotated[float, Ge(0)] = 1e-4
    low: Share = 0.05
    high: Share = 0.95
    alignment: Literal["js", "released"] = "js"
    pairs: Literal["mean", "sum"] = "mean"
    schedule_epochs: Annotated[int, Ge(1)] = 180


def divergence(first: Tensor, second: Tensor, kind: str) -> Tensor:
    """Returns how far two sets of answers are apart, (B,), at least float32, in nats: 0 where they are equal.

    Args:
        first: Logits (B, K).
        second: Logits (B, K).
        kind: `js`: ½ KL(p_1‖p̄) + ½ KL(p_2‖p̄) with p̄ the mean of both, at most ln 2; `released`: each KL turned round.
    """
    logs = [full_precision(values).log_softmax(dim=1) for values in (first, second)]
    middle = torch.logaddexp(*logs) - math.log(2)
    if kind == "js":
        parts = [own.exp() * (own - middle) for own in logs]
    else:
        parts = [middle.exp() * (middle - own) for own in logs]
    return torch.stack(parts).sum(dim=(0, 2)) / 2


def fitted_weight(epoch: float) -> float:
    """Returns the alignment's weight α_1 = 1 - α_0 in an epoch of the authors' run, by their polynomial for α_0."""
    return 1 - sum(coefficient * epoch**power for power, coefficient in enumerate(POLYNOMIAL))


def weight_rate(rate: float, epoch: float) -> float:
    """Returns the learning rate of α_1 in an epoch of the authors' run: it halves at 20, 40, ..."""
    return float(rate * 0.5 ** (epoch // HALVING_EPOCHS))


def weight_derivative(validation: list[Tensor], classify: list[Tensor], align: list[Tensor], lr: float) -> Tensor:
    """Returns the derivative by α_1 of the validation loss after one step: -η ⟨∇CE(θ'), 2 (∇A - ∇CE)(θ)⟩.

    Args:
        validation: ∇CE(θ') on validation, tensor by tensor.
        classify: ∇CE(θ) on training.
        align: ∇A(θ) on training.
        lr: η.
    """
    products = [(v * (a - c)).sum() for v, c, a in zip(validation, classify, align, strict=True)]
    return -2 * lr * torch.stack(products).sum()


@METHODS.register("lfm")
class Lfm(Method):
    """Trains the cross-entropy of the mean logits, and the modalities' agreement.

    State (buffer): α_1.
    """

    Config = LfmConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: LfmConfig, context: Context):
        super().__init__(model, config, context)
        if not config.low <= config.start <= config.high:
            raise ConfigError([f"method.start must be from method.low to method.high ({config.low} to {config.high}), "
                               f"got {config.start}"])  # fmt: skip
        self.heads = linear_heads(model, context.modalities, context.num_classes)
        self.pairs = list(itertools.combinations(context.modalities, 2))
        self.alignment_weight: Tensor
        self.register_buffer("alignment_weight", torch.tensor(config.start))

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code as it runs, the fitted schedule, and the start alone."""
        return {
            "released": {"method.schedule": "fixed", "method.alignment": "released"},
            "fitted": {"method.schedule": "fitted"},
            "fixed": {"method.schedule": "fixed"},
        }

    def begin_epoch(self, engine: Step) -> None:
        """Moves the alignment's weight, as the schedule says."""
        config = self.config
        epoch = engine.place.epoch * config.schedule_epochs / self.context.max_epochs
        if config.schedule == "fitted":
            self.alignment_weight.fill_(min(config.high, max(config.low, fitted_weight(epoch))))
        elif config.schedule == "learned":
            moved = self.alignment_weight - weight_rate(config.alpha_rate, epoch) * self._derivative(engine)
            self.alignment_weight.copy_(moved.clamp(config.low, config.high))

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the cross-entropy of the mean logits and the alignment, each times twice its weight."""
        classify, align = self._terms(batch, engine)
        weight = self.alignment_weight
        return {FUSED: 2 * (1 - weight) * classify, ALIGNMENT: 2 * weight * align}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's logits and their mean, (B, K)."""
        logits = self._logits(batch)
        return {FUSED: mean_logits(logits, batch), **logits}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns the alignment's weight α_1."""
        return {"alignment_weight": self.alignment_weight}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' heads."""
        return dict(self.heads.items())

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.heads[name](features) for name, features in self.model.encode(batch).items()}

    def _terms(self, batch: Batch, engine: Step) -> tuple[Tensor, Tensor]:
        """Returns CE(ẑ) and the alignment A."""
        logits = self._logits(batch)
        classify = cross_entropy(mean_logits(logits, batch), batch.labels, engine)
        apart = {f"{a}+{b}": divergence(logits[a], logits[b], self.config.alignment) for a, b in self.pairs}
        masks = {f"{a}+{b}": batch.has(a, b) for a, b in self.pairs}
        align = torch.stack(list(engine.means(apart, masks).values()))
        return classify, align.mean() if self.config.pairs == "mean" else align.sum()

    def _derivative(self, engine: Step) -> Tensor:
        """Returns the derivative by α_1 of validation's loss after a step on a batch of training."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        for batch in engine.passes("train", 0):
            with engine.autocast():
                terms = self._terms(batch, engine)
            classify, align = (engine.gradients(term, parameters) for term in terms)
        lr, weight = engine.learning_rate, self.alignment_weight
        kept = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, c, a in zip(parameters, classify, align, strict=True):
                parameter.sub_(2 * lr * ((1 - weight) * c + weight * a))
        for batch in engine.passes("val", 0):
            with engine.autocast():
                loss, _ = self._terms(batch, engine)
            validation = engine.gradients(loss, parameters)
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)
        return weight_derivative(validation, classify, align, lr)
