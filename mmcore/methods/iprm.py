"""IPRM: rebalancing by geodesic mixing of the modalities' features.

In short: The features of two modalities are mixed along the sphere, and the mixture is classified too. How much of each
is mixed in follows in every step from how far each one's own prediction is from the mixed one's.

Paper: "IPRM", IJCAI 2025, pp. 3552-3560, equations (1)-(4) and Algorithm 1. Released code:
github njustkmg/IJCAI25-IPRM at 0bb457f (read for facts; nothing of it is here).

Each step runs the encoders once and the mixed head twice:
  - probing pass, without gradients: mixes the normalised features with the running weight λ_t, and measures how far
    each modality's own prediction is from the mixed one;
  - rebalanced pass: mixes with λ̂_t, which follows from these divergences, and learns.
The modality *nearer* to the mixed prediction gets the larger weight. This may look the wrong way round for a
rebalancing method, but paper and code agree on it.

Cost: that of `joint_unimodal`, and the mixed heads twice; the encoders run once.

Rulings and deviations (each with a test in tests/core/methods/test_iprm.py):
  1. θ is computed by atan2, and near θ = π the path is a fixed one: the paper's arccos is NaN or imprecise there.
  2. Features are normalised as z / sqrt(‖z‖² + 1e-8): a zero feature has a bounded gradient.
  3. Divergences are clamped at 0; if both are 0, λ̂ = 1/2 (C14).
  4. λ at inference is λ_T, the last probed value (C12); the fused logits are the sum of the modalities' own heads
     plus the mean of the mixed heads (C13). Both as in the released code; the paper states neither.
  5. More than two modalities: one mixed head per pair, cross-entropies summed (C15, the paper's Tri-CLS).
  6. Every modality has its own head (C16); the released code sends the third through the second's.
  7. The learning rate falls when the validation loss stops falling (C17); that is the run's schedule, not done here.
  8. A step of several micro-batches is one t: all are probed with λ_t, each is mixed with its own λ̂, and equation (4)
     is applied once, to the ω that follows from the divergences of all their samples.

Shape legend: B samples, K classes, D features, M modalities, P pairs of modalities.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
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
    cross_entropies,
    linear_heads,
    sum_logits,
    unimodal_losses,
)

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

Fraction = Annotated[float, Ge(0), Le(1)]
Path = Callable[[Tensor], Tensor]

NORM_EPSILON = 1e-8
SMALL_ANGLE = 1e-4
SMALL_DIVERGENCE = 1e-7
"""Below this a sum of divergences counts as 0: float32 rounds one by about 1e-8, so shares of less are noise."""


class IprmConfig(Section):
    """Settings of IPRM; defaults follow the paper (spec rulings C12-C16).

    Attributes:
        alpha: Weight of the old value in the running average of λ, equation (4). 0: λ_{t+1} = ω_t (the ablation
            without the average); 1: λ stays 1/2 in the probing pass.
        mixing: The path between two features: along the sphere, equation (1), or straight (ablation L-Mixup).
        passes: `two` as in Algorithm 1; `one` learns in the first pass already, with λ_t (ablation One-Pass).
        fixed_weight: Replaces λ and λ̂ by a constant; 0.5 is IPRM without its adaptation.
        pair_heads: Mixed heads of more than two modalities: `per_pair` (Tri-CLS), or `single`, shared, one random
            pair a step (Single-CLS).
        third_head: `own`, or `shared`: the third modality predicts through the second's head (released code).
        inference_weight: λ at inference: `last` probed, `next` (λ_{T+1}), or a number.
        predict: `all` heads summed, or the `mixed` heads alone.
    """

    alpha: Fraction = 0.8
    mixing: Literal["geodesic", "linear"] = "geodesic"
    passes: Literal["two", "one"] = "two"
    fixed_weight: Fraction | None = None
    pair_heads: Literal["per_pair", "single"] = "per_pair"
    third_head: Literal["own", "shared"] = "own"
    inference_weight: Literal["last", "next"] | Fraction = "last"
    predict: Literal["all", "mixed"] = "all"


def normalise(features: Tensor) -> Tensor:
    """Returns features (..., D) scaled to norm 1; near zero the norm goes to 0 instead, with a bounded gradient."""
    return features / torch.sqrt(features.square().sum(dim=-1, keepdim=True) + NORM_EPSILON)


class Arc(NamedTuple):
    """Great-circle arc between two unit vectors, computed once for both passes' points on it.

    Attributes:
        first: (..., D), the end where λ = 1.
        second: (..., D), the end where λ = 0; between opposite vectors the point half-way instead.
        angle: (..., 1), θ between `first` and `second`, at least `SMALL_ANGLE`.
        is_half_circle: (..., 1) bool, whether the vectors are opposite.
    """

    first: Tensor
    second: Tensor
    angle: Tensor
    is_half_circle: Tensor


def great_circle(first: Tensor, second: Tensor) -> Arc:
    """Returns the arc between unit vectors (..., D).

    Between opposite vectors every direction is as short; the arc then goes by a fixed one, orthogonal to `first`.
    """
    # atan2 keeps its precision at both ends, where arccos of a rounded dot product is NaN or a step function.
    difference = torch.linalg.vector_norm(first - second, dim=-1, keepdim=True)
    total = torch.linalg.vector_norm(first + second, dim=-1, keepdim=True)
    angle = 2 * torch.atan2(difference, total)
    is_half_circle = (total < SMALL_ANGLE) & (difference > total)
    # Where the angle is replaced its gradient is 0; under SMALL_ANGLE the shares are λ and 1 - λ to 2e-9.
    angle = torch.where(is_half_circle, math.pi / 2, angle).clamp(min=SMALL_ANGLE)
    return Arc(first, torch.where(is_half_circle, _orthogonal(first), second), angle, is_half_circle)


def point_on(arc: Arc, weight: Tensor) -> Tensor:
    """Returns sin(λθ)/sin θ · x̄ + sin((1-λ)θ)/sin θ · ȳ, (..., D), for a share λ of the arc's first end."""
    # The arc of a half circle is its first quarter turn; λ < 1/2 then means a point beyond the arc's end.
    weight = torch.where(arc.is_half_circle, 2 * weight - 1, weight)
    sine = torch.sin(arc.angle)
    first_share, second_share = torch.sin(weight * arc.angle) / sine, torch.sin((1 - weight) * arc.angle) / sine
    return torch.addcmul(first_share * arc.first, second_share, arc.second)


def slerp(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Mixes unit vectors along the great circle: equation (1) of the paper.

    f(x̄, ȳ, λ) = sin(λθ)/sin θ · x̄ + sin((1-λ)θ)/sin θ · ȳ with θ the angle between x̄ and ȳ.

    Args:
        first: x̄, (..., D), norm 1.
        second: ȳ, (..., D), norm 1.
        weight: λ in [0, 1], the share of `first`; a scalar or broadcastable to (..., 1).

    Returns:
        (..., D), norm 1; `first` at λ = 1, `second` at λ = 0.
    """
    return point_on(great_circle(first, second), weight)


@torch.no_grad()
def _orthogonal(first: Tensor) -> Tensor:
    """Returns a unit vector orthogonal to each of `first`: the basis vector least aligned with it, made orthogonal."""
    index = first.abs().argmin(dim=-1, keepdim=True)
    entry = first.gather(-1, index)  # at most 1 / sqrt(D)
    side = (first * -entry).scatter_add_(-1, index, torch.ones_like(entry))
    return side * torch.rsqrt(1 - entry.square())


def linear_mix(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Returns λ x̄ + (1 - λ) ȳ, the ablation L-Mixup."""
    return weight * first + (1 - weight) * second


def divergences(logits: Tensor, mixed_logits: Tensor) -> Tensor:
    """Returns each sample's KL(p ‖ p̄), (B,).

    Args:
        logits: (..., B, K), of p, predictions of single modalities.
        mixed_logits: (B, K), of p̄, the mixed prediction.
    """
    log_p, log_mixed = logits.log_softmax(dim=-1), mixed_logits.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_mixed)).sum(dim=-1)


def mean_divergence(logits: Tensor, mixed_logits: Tensor) -> Tensor:
    """Returns the mean over samples of KL(p ‖ p̄), (...), at least 0; see `divergences`."""
    # Rounding can make a divergence slightly negative, and a share of it more than 1.
    return divergences(logits, mixed_logits).mean(dim=-1).clamp(min=0)


def rebalanced_weight(first_divergence: Tensor, second_divergence: Tensor) -> Tensor:
    """Returns ω, the first modality's share in [0, 1], equations (2) and (3); 1/2 where both divergences are 0.

    It is the *other* modality's part of the summed divergences: the nearer modality gets more.
    """
    total = first_divergence + second_divergence
    is_zero = total < SMALL_DIVERGENCE
    # Replaced before dividing: torch.where keeps a NaN of the other branch out of its value, not out of its gradient.
    share = second_divergence / torch.where(is_zero, 1.0, total)
    return torch.where(is_zero, 0.5, share).clamp(0, 1)


def running_weight(old: Tensor, share: Tensor, alpha: float) -> Tensor:
    """Returns λ_{t+1} = α λ_t + (1 - α) ω_t, equation (4)."""
    return alpha * old + (1 - alpha) * share


@METHODS.register("iprm")
class Iprm(Method):
    """IPRM for any number of modalities.

    Missing modalities: a modality's own loss is a mean over the samples that have it. A pair's mixed loss and its
    divergences, and so λ, use the samples that have both; a step without any leaves λ unchanged. A sample's fused
    logits are the sum of its modalities' own heads plus the mean of the mixed heads of its complete pairs. With
    `predict: mixed`, a sample without a complete pair is predicted by its modalities' own heads.

    Class weights enter only the cross-entropies, of modalities and pairs. Divergences, and so λ, are unweighted: they
    measure how predictions differ, not how much a sample counts.

    State (buffers): per pair, λ that the last step probed with, λ for the next step, the last step's two divergences.
    """

    Config = IprmConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: IprmConfig, context: Context):
        super().__init__(model, config, context)
        names = context.modalities
        self.pairs = list(itertools.combinations(names, 2))
        own = [name for name in names if not (config.third_head == "shared" and name in names[2:3])]
        self.heads = linear_heads(model, own, context.num_classes)
        size = next(iter(model.num_features.values()))
        keys = ["any"] if config.pair_heads == "single" else [pair_key(*pair) for pair in self.pairs]
        self.mixed_heads = nn.ModuleDict({key: nn.Linear(size, context.num_classes) for key in keys})
        self.weight: Tensor
        self.next_weight: Tensor
        self.divergence: Tensor
        start = 0.5 if config.fixed_weight is None else config.fixed_weight
        self.register_buffer("weight", torch.full((len(self.pairs),), start))
        self.register_buffer("next_weight", torch.full((len(self.pairs),), start))
        self.register_buffer("divergence", torch.zeros(len(self.pairs), 2))
        # Both belong to the running step, and checkpoints lie between steps, so they are no buffers: the pairs it
        # mixes, and their summed divergences and sample counts so far.
        self._rows = slice(None)
        self._totals = torch.zeros(0)

    @classmethod
    def needs(cls, config: IprmConfig) -> frozenset[Need]:
        """Returns equal feature sizes, since both vectors lie on one sphere."""
        return frozenset({Need.EQUAL_FEATURES})

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the paper's ablations (Table 3), IPRM without its adaptation, and the released code's choices."""
        return {
            "released": {"method.third_head": "shared", "schedule.name": "step", "schedule.step_epochs": 70},
            "linear": {"method.mixing": "linear"},
            "no_average": {"method.alpha": 0.0},
            "one_pass": {"method.passes": "one"},
            "fixed": {"method.fixed_weight": 0.5},
        }

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the cross-entropy of each modality and of each pair's mixed prediction.

        With `pair_heads: single` there is one pair only, drawn for the step, the same on every rank.
        """
        features = self.model.encode(batch)
        logits = {name: self._own_head(name)(values) for name, values in features.items()}
        # In float32 at least: bfloat16's two to three digits would show in the angle.
        directions = {name: normalise(full_precision(values)) for name, values in features.items()}
        terms = unimodal_losses(logits, batch, engine)
        # Drawn once a step, not per micro-batch: equation (4) must see one pair's divergences.
        if self.config.pair_heads == "single" and engine.is_first_part:
            drawn = int(torch.randint(len(self.pairs), (), generator=engine.generator("pairs")))
            self._rows = slice(drawn, drawn + 1)
        pairs = self.pairs[self._rows]
        paths = [self._path(pair, directions) for pair in pairs]
        masks = [batch.has(*pair) for pair in pairs]
        shares = self._probe(paths, logits, masks, engine)
        names = [f"mixed/{pair_key(*pair)}" for pair in pairs]
        mixed = [self._mixed_head(pair)(path(share)) for pair, path, share in zip(pairs, paths, shares, strict=True)]
        masked = dict(zip(names, masks, strict=True))
        return terms | cross_entropies(dict(zip(names, mixed, strict=True)), batch.labels, masked, engine)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's logits and the fused ones, (B, K)."""
        features = self.model.encode(batch)
        logits = {name: self._own_head(name)(values) for name, values in features.items()}
        directions = {name: normalise(full_precision(values)) for name, values in features.items()}
        mixed = []
        for pair, weight in zip(self.pairs, self._inference_weights(), strict=True):
            mixed.append(full_precision(self._mixed_head(pair)(self._path(pair, directions)(weight))))
        own = {name: full_precision(values) for name, values in logits.items()}
        return {FUSED: self._fused(own, torch.stack(mixed), batch), **logits}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns λ (the first modality's share) and both divergences of every pair."""
        values: dict[str, Tensor] = {}
        for index, (first, second) in enumerate(self.pairs):
            key = pair_key(first, second)
            values[f"lambda/{key}"] = self.weight[index]
            values[f"kl/{key}/{first}"] = self.divergence[index, 0]
            values[f"kl/{key}/{second}"] = self.divergence[index, 1]
        return values

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' own heads."""
        return dict(self.heads.items())

    def _fused(self, logits: dict[str, Tensor], mixed: Tensor, batch: Batch) -> Tensor:
        """Returns the fused logits (B, K) from the modalities' own and those of each pair (P, B, K)."""
        complete = [batch.has(*pair) for pair in self.pairs]
        if all(mask is None for mask in complete):
            # The usual case, without masks: a masked mean would cost every batch several small operations.
            mean = mixed.mean(dim=0)
            return mean if self.config.predict == "mixed" else torch.stack([*logits.values(), mean]).sum(dim=0)
        everywhere = torch.ones_like(batch.labels, dtype=torch.bool)
        masks = torch.stack([everywhere if mask is None else mask for mask in complete])[..., None]
        mean = torch.where(masks, mixed, 0).sum(dim=0) / masks.sum(dim=0).clamp(min=1)
        own = sum_logits(logits, batch)
        return torch.where(masks.any(dim=0), mean, own) if self.config.predict == "mixed" else own + mean

    @torch.no_grad()
    def _probe(
        self, paths: list[Path], logits: dict[str, Tensor], masks: list[Tensor | None], engine: Step
    ) -> tuple[Tensor, ...]:
        """Does the probing pass for the step's pairs; returns the λ̂ with which this micro-batch mixes each.

        After every micro-batch the buffers hold what they should if it was the step's last; so nothing needs to know
        which one is.
        """
        rows, is_first = self._rows, engine.is_first_part
        # Only the first micro-batch moves on to λ_{t+1}; later ones find this step's λ_t in `weight`.
        probed = (self.next_weight if is_first else self.weight)[rows].clone()
        measured = []
        for pair, path, weight, mask in zip(self.pairs[rows], paths, probed, masks, strict=True):
            own = torch.stack([full_precision(logits[name]) for name in pair])
            measured.append(_mean_divergences(own, full_precision(self._mixed_head(pair)(path(weight))), mask))
        totals, _ = engine.total(torch.stack(measured).to(probed.dtype))
        self._totals = totals if is_first else self._totals + totals
        of_step = _divided(self._totals)
        updated = running_weight(probed, self._share(of_step), self.config.alpha)
        self.divergence[rows] = of_step
        self.weight[rows] = probed
        # Without a sample that has both modalities there is no divergence, and λ stays.
        self.next_weight[rows] = torch.where(self._totals[:, 2] > 0, updated, probed)
        return (probed if self.config.passes == "one" else self._share(_divided(totals))).unbind()

    def _share(self, pair_divergences: Tensor) -> Tensor:
        """Returns the first modality's share of each pair (P,), from both divergences (P, 2)."""
        return self._fixed(rebalanced_weight(*pair_divergences.unbind(dim=1)))

    def _fixed(self, share: Tensor) -> Tensor:
        return share if self.config.fixed_weight is None else torch.full_like(share, self.config.fixed_weight)

    def _inference_weights(self) -> Tensor:
        if self.config.fixed_weight is not None:
            return self._fixed(self.weight)
        if isinstance(self.config.inference_weight, float):
            return torch.full_like(self.weight, self.config.inference_weight)
        return self.weight if self.config.inference_weight == "last" else self.next_weight

    def _path(self, pair: tuple[str, str], directions: dict[str, Tensor]) -> Path:
        """Returns the path between two modalities' directions: a function from the first's share to (B, D)."""
        first, second = (directions[name] for name in pair)
        if self.config.mixing == "linear":
            return partial(linear_mix, first, second)
        return partial(point_on, great_circle(first, second))

    def _mixed_head(self, pair: tuple[str, str]) -> nn.Module:
        return self.mixed_heads["any" if self.config.pair_heads == "single" else pair_key(*pair)]

    def _own_head(self, name: str) -> nn.Module:
        return self.heads[name] if name in self.heads else self.heads[self.context.modalities[1]]


def _mean_divergences(own: Tensor, mixed: Tensor, mask: Tensor | None) -> Tensor:
    """Returns (3,): both divergences' means over the batch, with 0 for samples outside the mask, and the mask's mean.

    All three in one tensor, since they are then summed over ranks in one message.
    """
    if mask is None:
        return F.pad(mean_divergence(own, mixed), (0, 1), value=1.0)
    masked = torch.where(mask, divergences(own, mixed), 0).mean(dim=-1).clamp(min=0)
    return torch.cat([masked, mask.to(mixed.dtype).mean()[None]])


def _divided(totals: Tensor) -> Tensor:
    """Returns mean divergences (P, 2) from their sums and the number of samples behind them, (P, 3)."""
    sums, count = totals.split_with_sizes([2, 1], dim=1)
    return sums / torch.where(count > 0, count, 1)


def pair_key(first: str, second: str) -> str:
    """Returns the name of a pair of modalities."""
    return f"{first}+{second}"
