"""AUG: adds classifiers to the modality that lags behind, as boosting does.

In short: Now and then the modality that lags behind gets one more small classifier, which learns what its older ones
still get wrong. So a weak modality grows in what it can express, as in boosting, and no modality is held back.

Paper: "AUG", NeurIPS 2025 (arXiv 2502.20120), equations (2)-(6), §3.3 and Algorithm 1. Released code:
github njustkmg/NeurIPS25-AUG at 841d079, first drop 966dbf5 (read for facts; nothing of it is here).

Every modality has n classifiers on its encoder. Each has a Layer 1 (D -> 256) of its own and a ReLU; Layer 2
(256 -> K) is shared by all classifiers of all modalities. A modality's loss has three terms: the newest classifier
learns what the older ones leave over (ε), and both the sum of all and the sum without the newest learn the label
(ε_all, ε_pre). Every t_N epochs, a modality whose training score has fallen behind the strongest's gets one more
classifier. The modalities meet in Layer 2 only; there is no fused loss.

Cost: that of `joint_unimodal`, and of the classifiers that were added.

Rulings and deviations (each with a test in tests/core/methods/test_aug.py):
  1. A modality with one classifier has one cross-entropy (C1); Eq. 5 taken literally would count it twice.
  2. Logits are summed, then one softmax (C2): a sum of probabilities would exceed 1.
  3. The residual term is (1 - λ p_y)·CE of the newest, with p_y from the sum of the others, detached (C3). The paper's
     residual label can turn negative, and the loss then has no lower bound.
  4. Score: mean over the epoch's training samples of softmax(sum of logits)_y (C4).
  5. Growth: the weakest grows if s_strong > σ·s_weak + τ (C5); the paper's text leaves no dead zone, its Algorithm 1
     grows the wrong modality.
  6. Growth is checked every t_N epochs after evaluation (C6), but not after the last epoch: that head would not learn.
  7. Added classifiers are trained (C7); the released code leaves them out of the optimizer.
  8. One step on the sum over the modalities (C8).
  9. Inference: mean of the modalities' logits (C10).

Shape legend: B samples, K classes, D features, H hidden units, M modalities, n classifiers of a modality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.errors import ConfigError
from mmcore.layers.precision import full_precision
from mmcore.methods.base import (
    FUSED,
    METHODS,
    Context,
    EpochStats,
    Method,
    cross_entropy,
    mean_logits,
    require_weights,
)

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel


class AugConfig(Section):
    """Settings of AUG; defaults follow the paper (spec rulings C1-C11).

    Attributes:
        residual_weight: λ of the residual label, in [0, 1]; 0: the newest classifier learns the plain label.
        check_every_epochs: t_N, counted in epochs of the paper's schedule.
        schedule_epochs: Length of the paper's schedule; t_N is scaled from it to the run's `trainer.max_epochs`.
        sigma: σ, factor on the weak score before the comparison.
        tau: τ, by how much the strong score must exceed σ times the weak one.
        hidden: H, width between Layer 1 and Layer 2.
        max_classifiers: Largest number of classifiers per modality; none: no limit.
        first_loss: Loss of a modality with one classifier: `single` cross-entropy, or `double` (Eq. 5 literally).
        residual: Factor of the residual term: `soft`, 1 - λ p_y; or `literal`, 1 - λ Σ_j p_jy, at least 0.
        score: What is compared: `confidence` (smallest = weakest), `entropy` or `loss` (largest = weakest).
        growth: Which modality grows: `difference` (§3.3); `ratio` (App. C.7, released: s_strong / s_weak > σ + τ); or
            `share` (first code drop: every modality with less than 2/7 of the scores' sum).
        check_first_epoch: Whether to check after the first epoch too (released).
        added_classifiers: `trained`; `frozen` at Xavier-normal weights without bias (released); or `none`, a control: a
            modality that would grow has its cross-entropy weighted like the three terms instead.
        initial_classifiers: n at the start; with an equal `max_classifiers` a control that has all heads at once.
        update: `joint`, one step on the summed loss; or `alternating`, one step per modality (released).
        second_layer: `shared` by the modalities, or `private` to each (control).
        fusion_weights: Modality -> weight of its logits at inference; scaled to sum to 1, so not all 0. None: equal.
    """

    residual_weight: Annotated[float, Ge(0), Le(1)] = 0.5
    check_every_epochs: Annotated[int, Ge(1), Le(10**6)] = 20
    schedule_epochs: Annotated[int, Ge(1), Le(10**6)] = 200
    sigma: Annotated[float, Ge(1)] = 1.0
    tau: Annotated[float, Ge(0)] = 0.01
    hidden: Annotated[int, Ge(1), Le(65_536)] = 256
    max_classifiers: Annotated[int, Ge(1), Le(1000)] | None = None
    first_loss: Literal["single", "double"] = "single"
    residual: Literal["soft", "literal"] = "soft"
    score: Literal["confidence", "entropy", "loss"] = "confidence"
    growth: Literal["difference", "ratio", "share"] = "difference"
    check_first_epoch: bool = False
    added_classifiers: Literal["trained", "frozen", "none"] = "trained"
    initial_classifiers: Annotated[int, Ge(1), Le(1000)] = 1
    update: Literal["joint", "alternating"] = "joint"
    second_layer: Literal["shared", "private"] = "shared"
    fusion_weights: dict[str, Annotated[float, Ge(0)]] | None = None


def scaled_interval(check_every_epochs: int, schedule_epochs: int, max_epochs: int) -> int:
    """Returns t_N in epochs of this run: scaled with its length, at least 1, at most a quarter of it."""
    # At most a quarter, so that a short run checks three times too.
    scaled = round(check_every_epochs * max_epochs / schedule_epochs)
    return max(1, min(scaled, max_epochs // 4))


def residual_factor(previous_logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Returns 1 - λ p_y per sample, (B,), with p the softmax of the summed logits (B, K) of the older classifiers."""
    # Detached: the older classifiers must not lower their own confidence to make the newest's loss smaller.
    probability = full_precision(previous_logits.detach()).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return 1 - weight * probability


def literal_residual_factor(each_logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Returns 1 - λ Σ_j p_jy per sample, (B,), clamped at 0, from the logits (B, n, K) of the older classifiers."""
    probabilities = full_precision(each_logits.detach()).softmax(dim=2)
    index = labels[:, None, None].expand(-1, each_logits.shape[1], 1)
    return (1 - weight * probabilities.gather(2, index).sum(dim=(1, 2))).clamp(min=0)


def sample_scores(logits: Tensor, labels: Tensor, score: str) -> Tensor:
    """Returns each sample's score, (B,): confidence in the label, entropy, or loss; a modality's is their mean."""
    logits = full_precision(logits.detach())
    if score == "confidence":
        return logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    if score == "loss":
        return F.cross_entropy(logits, labels, reduction="none")
    log_probabilities = logits.log_softmax(dim=1)  # the logarithm of an underflowed probability would be -∞
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def modalities_to_grow(scores: Sequence[float], config: AugConfig) -> list[int]:
    """Returns the indices of the modalities that get a classifier (§3.3; `AugConfig.growth`).

    Args:
        scores: Each modality's mean over the epoch.
        config: Which rule, σ, τ, and whether a large score is strong (confidence) or weak (entropy, loss).
    """
    if config.growth == "share":
        return [index for index, score in enumerate(scores) if score < 2 / 7 * sum(scores)]
    # Entropy and loss need no rule of their own: their largest is the weakest, and all are positive.
    high, low = max(scores), min(scores)
    weakest = scores.index(low if config.score == "confidence" else high)
    grows = high > config.sigma * low + config.tau
    if config.growth == "ratio":
        grows = high > (config.sigma + config.tau) * low  # multiplied: a score of 0 must not be divided by
    return [weakest] if grows else []


@METHODS.register("aug")
class Aug(Method):
    """AUG for any number of modalities.

    Class weights multiply all three terms of a sample's loss, the residual one too: w_y (1 - λ p_y) CE. The scores that
    decide growth are unweighted.

    Missing modalities: a modality's loss and score are means over the samples that have it; a sample's fused logits are
    the (weighted) mean over the modalities it has.

    State (buffers): per modality, the sum of its training scores in this epoch, the number of samples in that sum, and
    (with `added_classifiers: none`) whether its loss is weighted.
    """

    Config = AugConfig

    def __init__(self, model: MultimodalModel, config: AugConfig, context: Context):
        super().__init__(model, config, context)
        names = context.modalities
        require_weights("method.fusion_weights", config.fusion_weights, names)
        if config.growth == "share" and config.score != "confidence":
            raise ConfigError([f"method.score must be confidence with method.growth = share, got {config.score!r}"])
        if config.added_classifiers == "none" and config.initial_classifiers > 1:
            raise ConfigError(["method.initial_classifiers must be 1 with method.added_classifiers = none, "
                               f"got {config.initial_classifiers}"])  # fmt: skip
        self.first_layers = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    nn.Linear(model.num_features[name], config.hidden) for _ in range(config.initial_classifiers)
                )
                for name in names
            }
        )
        keys = ["shared"] if config.second_layer == "shared" else list(names)
        self.second_layers = nn.ModuleDict({key: nn.Linear(config.hidden, context.num_classes) for key in keys})
        self.interval = scaled_interval(config.check_every_epochs, config.schedule_epochs, context.max_epochs)
        self.score_sum: Tensor
        self.score_count: Tensor
        self.register_buffer("score_sum", torch.zeros(len(names)))
        self.register_buffer("score_count", torch.zeros(len(names)))
        self.boosted: Tensor
        self.register_buffer("boosted", torch.zeros(len(names)))

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's choices, and controls that show which part of the method helps.

        Released weights of the logits exist for audio with another modality, and for three modalities. For two
        modalities without audio the plain mean stays.
        """
        released: dict[str, Any] = {
            "method.growth": "ratio",
            "method.check_first_epoch": True,
            "method.added_classifiers": "frozen",
            "method.update": "alternating",
            "schedule.name": "step",
            "schedule.step_epochs": 70,
        }
        if weights := _released_weights(modalities):
            released["method.fusion_weights"] = weights
        return {
            "released": released,
            "single": {"method.max_classifiers": 1},
            "frozen": {"method.added_classifiers": "frozen"},
            "from_start": {"method.initial_classifiers": 4, "method.max_classifiers": 4},
            "weighted": {"method.added_classifiers": "none"},
            "private": {"method.second_layer": "private"},
            "entropy": {"method.score": "entropy"},
            "loss": {"method.score": "loss"},
        }

    def phases(self) -> tuple[str, ...]:
        """Returns one phase, or one per modality with `update: alternating`."""
        return ("joint",) if self.config.update == "joint" else self.context.modalities

    def phase_parameters(self, phase: str) -> list[nn.Parameter]:
        """Returns all parameters, or those with which the phase's modality predicts."""
        if phase == "joint":
            return super().phase_parameters(phase)
        groups = self.parameter_groups()
        own = [*groups.get(f"encoder/{phase}", []), *groups[f"head/{phase}"]]
        return [*own, *self._second_layer(phase).parameters()]

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns each modality's loss, equation (5); in an alternating phase only that modality's."""
        names = self.context.modalities if phase == "joint" else (phase,)
        features = self.model.encode(batch, names)
        masks = {name: batch.has(name) for name in names}
        # Known without looking at the device: a modality that is never missing has no mask.
        is_complete = all(mask is None for mask in masks.values())
        losses, scores = {}, {}
        for name in names:
            hidden = self._hidden(name, features[name])
            everything, losses[name] = self._losses(name, hidden, batch.labels, engine, average=is_complete)
            scores[name] = sample_scores(everything, batch.labels, self.config.score)
        self._add_scores(scores, masks, engine)
        return losses if is_complete else engine.means(losses, masks)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's summed logits and their (weighted) mean, (B, K)."""
        features = self.model.encode(batch)
        logits = {}
        for name, values in features.items():
            hidden = self._hidden(name, values)
            logits[name] = self._summed_logits(name, hidden)
        return {FUSED: mean_logits(logits, batch, self.config.fusion_weights), **logits}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns each modality's number of classifiers and mean score in this epoch, and largest ÷ smallest score."""
        scores = self.score_sum / self.score_count
        values = {f"score/{name}": scores[index] for index, name in enumerate(self.context.modalities)}
        for name in self.context.modalities:
            values[f"classifiers/{name}"] = scores.new_tensor(float(len(self._layers(name))))
        return values | {"score_ratio": scores.max() / scores.min()}

    def end_epoch(self, stats: EpochStats, engine: Step) -> None:
        """Grows the weakest modality where the rule says so, and starts the next epoch's scores."""
        num_done = stats.epoch + 1
        is_due = num_done % self.interval == 0 or (self.config.check_first_epoch and stats.epoch == 0)
        if is_due and num_done < self.context.max_epochs:
            # The one read from the device; scores are sums over all ranks, so every rank decides alike.
            for index in modalities_to_grow((self.score_sum / self.score_count).tolist(), self.config):
                self._add_classifier(self.context.modalities[index], engine)
        self.score_sum.zero_()
        self.score_count.zero_()

    def structure(self) -> dict[str, Any]:
        """Returns the number of classifiers of each modality."""
        return {"classifiers": {name: len(self._layers(name)) for name in self.context.modalities}}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """Builds as many classifiers as the checkpoint has."""
        for name, count in structure["classifiers"].items():
            while len(self._layers(name)) < count:
                self._layers(name).append(self._new_layer(name))

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns each modality's first layers; the second belongs to all."""
        return dict(self.first_layers.items())

    def _layers(self, name: str) -> nn.ModuleList:
        return cast(nn.ModuleList, self.first_layers[name])

    def _second_layer(self, name: str) -> nn.Linear:
        return cast(nn.Linear, self.second_layers["shared" if self.config.second_layer == "shared" else name])

    def _hidden(self, name: str, features: Tensor) -> Tensor:
        """Returns the hidden units of all classifiers of a modality, (B, n, H), by one matrix product."""
        layers = cast(list[nn.Linear], list(self._layers(name)))
        if len(layers) == 1:  # as strong modalities stay: joining one layer's weights would only copy them
            single: Tensor = layers[0](features)
            return single.relu()[:, None]
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        return torch.unflatten(F.linear(features, weight, bias).relu(), 1, (len(layers), -1))

    def _summed_logits(self, name: str, hidden: Tensor) -> Tensor:
        """Returns the sum of the classifiers' logits, (B, K)."""
        layer, count = self._second_layer(name), hidden.shape[1]
        if count == 1:
            logits: Tensor = layer(hidden.squeeze(1))
            return logits
        # Layer 2 is linear: of n summed inputs it gives n summed outputs, but for the bias, which then counts n times.
        return F.linear(hidden.sum(dim=1), layer.weight, count * layer.bias)

    def _losses(
        self, name: str, hidden: Tensor, labels: Tensor, engine: Step, *, average: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns a modality's summed logits (B, K), and its samples' losses (B,) or, with `average`, their mean."""
        count = hidden.shape[1]
        if count == 1:
            logits = self._summed_logits(name, hidden)
            if self.config.added_classifiers == "none":
                loss = self._loss_weight(name, logits, labels) * cross_entropy(logits, labels, engine, average=False)
                return logits, loss.mean() if average else loss
            loss = cross_entropy(logits, labels, engine, average=average)
            return logits, 2 * loss if self.config.first_loss == "double" else loss
        older, last = hidden.split_with_sizes([count - 1, 1], dim=1)
        previous, newest = self._summed_logits(name, older), self._summed_logits(name, last)
        if self.config.residual == "soft":
            factor = residual_factor(previous, labels, self.config.residual_weight)
        else:
            factor = literal_residual_factor(self._second_layer(name)(older), labels, self.config.residual_weight)
        residual = factor * cross_entropy(newest, labels, engine, average=False)
        everything = previous + newest
        loss = cross_entropy(everything, labels, engine, average=average)
        loss = loss + cross_entropy(previous, labels, engine, average=average)
        return everything, loss + (residual.mean() if average else residual)

    def _loss_weight(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the weight of each sample's one loss term, (B,): 1, or 2 + (1 - λ p_y) for a modality that lags."""
        factor = 1 + residual_factor(logits, labels, self.config.residual_weight)
        return 1 + self.boosted[self.context.modalities.index(name)] * factor

    @torch.no_grad()
    def _add_scores(self, scores: dict[str, Tensor], masks: dict[str, Tensor | None], engine: Step) -> None:
        """Adds the batch's scores of some modalities (neighbours, in their order) to the epoch's sums."""
        # Always all modalities, or one in an alternating phase: so a slice does, where indices would be a copy.
        start = self.context.modalities.index(next(iter(scores)))
        rows = slice(start, start + len(scores))
        each = torch.stack(list(scores.values()))
        if all(mask is None for mask in masks.values()):
            totals, count = engine.total(each.mean(dim=1))
        else:
            everywhere = torch.ones_like(each[0])
            shares = torch.stack([everywhere if mask is None else mask.to(each.dtype) for mask in masks.values()])
            (totals, count), _ = engine.total(torch.stack([each * shares, shares]).mean(dim=2))
        self.score_sum[rows] += totals
        self.score_count[rows] += count

    def _add_classifier(self, name: str, engine: Step) -> None:
        layers = self._layers(name)
        if self.config.added_classifiers == "none":
            self.boosted[self.context.modalities.index(name)] = 1
            return
        if self.config.max_classifiers is not None and len(layers) >= self.config.max_classifiers:
            return
        layer = self._new_layer(name)
        # From the engine's own generator, whose state is in the checkpoint: a resumed run adds the same classifier.
        initialise = _initialise if self.config.added_classifiers == "trained" else _initialise_frozen
        initialise(layer, engine.generator("growth"))
        layers.append(layer)
        engine.grow(layer, f"head/{name}")

    def _new_layer(self, name: str) -> nn.Linear:
        first = cast(nn.Linear, self._layers(name)[0])
        layer = nn.Linear(first.in_features, first.out_features, dtype=first.weight.dtype, device=first.weight.device)
        return layer.requires_grad_(self.config.added_classifiers == "trained")


def _initialise(layer: nn.Linear, generator: torch.Generator) -> None:
    """Gives a linear layer PyTorch's default initial values, drawn on the CPU from `generator`."""
    bound = 1 / math.sqrt(layer.in_features)
    for parameter in (layer.weight, layer.bias):
        values = torch.empty(parameter.shape, dtype=parameter.dtype).uniform_(-bound, bound, generator=generator)
        parameter.data.copy_(values)


def _initialise_frozen(layer: nn.Linear, generator: torch.Generator) -> None:
    """Gives a layer that will not be trained the released code's initial values: Xavier-normal weights, no bias."""
    deviation = math.sqrt(2 / (layer.in_features + layer.out_features))
    values = torch.empty(layer.weight.shape, dtype=layer.weight.dtype).normal_(0, deviation, generator=generator)
    layer.weight.data.copy_(values)
    layer.bias.data.zero_()


def _released_weights(modalities: Sequence[str]) -> dict[str, float]:
    """Returns the weights of the modalities' logits that stand in the released programs, where there are any."""
    if len(modalities) == 3:
        return dict(zip(modalities, (0.33, 0.33, 0.34), strict=True))
    if len(modalities) == 2 and "audio" in modalities:
        return {name: 0.4 if name == "audio" else 0.6 for name in modalities}
    return {}
