"""OPM: in training, features of the modality that does better are now and then left out of a sample.

In short: The joint head must answer some samples without the features of the modality that does better, so that the
others have to answer them. How often a sample loses them grows with how far ahead the modality is.

Paper: "On-the-Fly Modulation for Balanced Multimodal Learning", TPAMI 2024.

Step by step: ρ_m = s_m / mean of the others' s, with s the mean probability of the label in the modality's part of
the joint logits; q_m = min(1, q_b (1 + λ tanh(ρ_m - 1))) where ρ_m > 1, else 0. After the warm-up, a step is masked
with the probability of that name: each sample keeps f_m with probability 1 - q_m, and what is kept is divided by
1 - θ, where θ = Σ_m D_m q_m / Σ_m D_m. The loss is the joint cross-entropy of what is left, and in other steps that
of all features.

Cost: that of `joint`.

Rulings and deviations (each with a test in tests/core/methods/test_opm.py):
  1. The rates have no gradient. In the released code one is handed on by mistake, so that the encoders also descend
     ½θ² in masked steps (`rate_gradient`, variant `released`).
  2. A sample with nothing left, be it masked or missing, leaves the loss, a mean over the others of all workers. Where
     none is left the loss is 0 and the step is counted; the released code skips it, and its place in the schedule.
  3. One draw for each step decides whether it is masked. A sample's own draws follow from it and from the sample's
     place in the split, so that they are the same on any number of workers.
  4. Any number of modalities: each is compared with the mean of the others, and several may be left out.
  5. The warm-up is in the paper's epochs and scaled with the run's length.
  6. Rates are of the samples that have all modalities; a step without any is not masked. In micro-batches the rates,
     and the mean over what is left, are of the micro-batch.
  7. The answer in evaluation is that of all features, without a factor.

Shape legend: B samples, K classes, D_m features of modality m, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mmcore.batch import Batch
from mmcore.methods.base import FUSED, METHODS, Context, cross_entropies, cross_entropy
from mmcore.methods.joint import Joint, JointConfig
from mmcore.methods.unimodal_scores import joint_parts, label_probabilities, score_ratios, score_totals
from mmcore.seeding import draw_seed, row_uniforms

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

RATE = "rate"
MIN_KEPT = 1e-8
Share = Annotated[float, Ge(0), Le(1)]


class OpmConfig(JointConfig):
    """Settings of OPM; defaults are the paper's.

    Attributes:
        fusion: `concat` or `sum`: heads that can be taken apart by modality.
        base: q_b, how often a modality barely ahead is left out.
        strength: λ, by how much of q_b the rate grows with the lead; 0: not at all.
        probability: How often a step is masked; 0: never.
        warmup_epochs: Epochs before the first masked step, in epochs of `schedule_epochs`.
        schedule_epochs: Length of the authors' run, to which the warm-up belongs.
        rate_gradient: Whether the encoders also descend ½θ² (released, by mistake).
    """

    fusion: Literal["concat", "sum"] = "concat"
    base: Share = 0.5
    strength: Annotated[float, Ge(0)] = 0.5
    probability: Share = 0.7
    warmup_epochs: Annotated[int, Ge(0), Le(10**6)] = 6
    schedule_epochs: Annotated[int, Ge(1), Le(10**6)] = 100
    rate_gradient: bool = False


def drop_rates(ratios: Tensor, base: float, strength: float) -> Tensor:
    """Returns q = q_b (1 + λ tanh(ρ - 1)), within [0, 1], where ρ > 1, else 0, (M,)."""
    return torch.where(ratios > 1, (base * (1 + strength * torch.tanh(ratios - 1))).clamp(0, 1), 0)


def mean_rate(rates: Tensor, sizes: Sequence[int]) -> Tensor:
    """Returns θ = Σ_m D_m q_m / Σ_m D_m, the share of all features that is left out on average, in [0, 1]."""
    parts = [rate * size for rate, size in zip(rates.unbind(), sizes, strict=True)]
    return torch.stack(parts).sum() / sum(sizes)


def thin(features: Mapping[str, Tensor], kept: Tensor, rate: Tensor) -> dict[str, Tensor]:
    """Returns the features (B, D_m) of the samples that keep them, over 1 - θ; zeros for the others.

    Args:
        features: Modality -> (B, D_m).
        kept: (M, B) bool.
        rate: θ, below 1 unless nothing is kept.
    """
    factors = kept / (1 - rate).clamp(min=MIN_KEPT)
    pairs = zip(features.items(), factors.unbind(), strict=True)
    return {name: values * factor[:, None].to(values.dtype) for (name, values), factor in pairs}


def rate_slopes(totals: Tensor, sizes: Sequence[int], base: float, strength: float) -> Tensor:
    """Returns the derivative of ½θ² by each modality's score s_m, (M,), from `score_totals`."""
    with torch.enable_grad():
        scores = (totals[:-1] / totals[-1].clamp(min=1)).detach().requires_grad_()
        ratios = score_ratios(torch.cat([scores, torch.ones_like(scores[:1])]))
        rate = mean_rate(drop_rates(ratios, base, strength), sizes)
        (slopes,) = torch.autograd.grad(rate.square() / 2, scores)
    return slopes


@METHODS.register("opm")
class Opm(Joint):
    """Trains the fused cross-entropy of what is left of the features. A missing modality is features of zero.

    State (buffer): q of the newest masked step.
    """

    Config = OpmConfig
    min_modalities = 2
    config: OpmConfig

    def __init__(self, model: MultimodalModel, config: OpmConfig, context: Context):
        super().__init__(model, config, context)
        self.first_epoch = round(config.warmup_epochs * context.max_epochs / config.schedule_epochs)
        self.sizes = [model.num_features[name] for name in context.modalities]
        self.rates: Tensor
        self.register_buffer("rates", torch.zeros(len(context.modalities)))
        self._seed: int | None = None

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code, one rate however far ahead a modality is, and masking in every step."""
        return {
            "released": {"method.base": 0.4, "method.rate_gradient": True},
            "one_rate": {"method.strength": 0.0},
            "always": {"method.probability": 1.0, "method.warmup_epochs": 0},
        }

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy, in masked steps that of what is left; as released, also ½θ²."""
        features = self.model.encode(batch)
        if engine.is_first_part:
            self._seed = self._draw(engine)
        if self._seed is None:
            return {FUSED: cross_entropy(self.fusion(features), batch.labels, engine)}
        return self._masked(features, batch, self._seed, engine)

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns how often each modality was left out in the newest masked step."""
        return {f"{RATE}/{name}": value for name, value in zip(self.context.modalities, self.rates, strict=True)}

    def _draw(self, engine: Step) -> int | None:
        """Returns the seed of this step's masks; None where it is not masked."""
        if engine.place.epoch < self.first_epoch or not self.config.probability:
            return None
        generator = engine.generator("opm")
        is_masked = float(torch.rand((), generator=generator, device="cpu")) < self.config.probability
        return draw_seed(generator) if is_masked else None

    def _masked(self, features: dict[str, Tensor], batch: Batch, seed: int, engine: Step) -> dict[str, Tensor]:
        logits = joint_parts(self.fusion, features, frozen=True)
        totals = score_totals(logits, batch, engine)
        rates = drop_rates(score_ratios(totals), self.config.base, self.config.strength)
        rate = mean_rate(rates, self.sizes)
        with torch.no_grad():
            self.rates.copy_(rates)
        rows = torch.arange(len(batch.labels), device=batch.labels.device) if batch.rows is None else batch.rows
        kept = row_uniforms(rows, seed, len(rates)) >= rates[:, None]
        left = torch.stack([own if has is None else own & has
                            for own, has in zip(kept, map(batch.has, features), strict=True)]).any(dim=0)  # fmt: skip
        fused = self.fusion(thin(features, kept, rate))
        terms = cross_entropies({FUSED: fused}, batch.labels, {FUSED: left}, engine)
        if self.config.rate_gradient:
            terms[RATE] = self._descended(logits, totals, rate, batch, engine)
        return terms

    def _descended(self, logits: dict[str, Tensor], totals: Tensor, rate: Tensor, batch: Batch, engine: Step) -> Tensor:
        """Returns ½θ², with the gradient it has by all workers' scores."""
        scores = dict(zip(logits, label_probabilities(logits, batch.labels), strict=True))
        means = engine.means(scores, dict.fromkeys(scores, batch.has(*scores)))
        slopes = rate_slopes(totals, self.sizes, self.config.base, self.config.strength)
        along = (torch.stack(list(means.values())) * slopes).sum()
        return along - along.detach() + rate.square() / 2
