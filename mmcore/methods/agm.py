"""AGM: each modality's share of the joint logits is found by leaving inputs out, and its gradient is scaled.

In short: What each modality adds to the joint answer is found by answering again with its input left out. A modality
that does better than usual beside the others has the gradient of that part made smaller; one that does worse, larger.

Paper: "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation", ICCV 2023.

Step by step: z(S) are the joint logits with the inputs outside S at zero, z(∅) = 0; m_j is modality j's Shapley share
of them, so that Σ_j m_j = z(all); c_j is the cross-entropy of m_j; r_j = exp(M/(M-1)·(mean of the c's - c_j)), and τ_j
the same of the c's means over all earlier steps; the gradient that reaches m_j is multiplied by
k_j = exp(α·min(τ_j - r_j, cap)). The loss is that of z(all): the other passes change its gradient alone.

Cost: in the window about twice `joint`'s, where inputs have lengths three times; outside it `joint`'s. The rule as
it is written takes 2^M - 1 times.

Rulings and deviations (each with a test in tests/core/methods/test_agm.py):
  1. Outside the window k = 1; the released code keeps the last batch's k for the rest of the run
     (`after_window: last`).
  2. Epochs of the window are counted from 1 as in the released code, and scaled with the run's length; at least one.
  3. The passes with inputs left out run as in evaluation: batch norms use their running statistics and keep them.
  4. Encoders share nothing, so an encoder is run three times, and not once for each of the 2^M - 1 subsets; of zeros
     without lengths one sample is enough. The fusion head is run for each subset.
  5. Costs are of the samples that have all modalities; a step without any has k = 1 and leaves the means alone. A
     missing modality is features of zero in every pass.
  6. In micro-batches k is of the micro-batch; the running means are of whole steps.
  7. Gradients are clipped by modality, as the run's `optimizer.clip_norm` says (variant `released`: 1.0); the released
     code clips a global norm of 1.0, where an entry of the head's gradient exceeds 1.

Shape legend: B samples, K classes, D features, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Context, cross_entropy
from mmcore.methods.joint import Joint, JointConfig
from mmcore.methods.unimodal_scores import inside, totals_over_complete, window

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

MOST_MODALITIES = 4
MIN_PROBABILITY = 1e-8

Subset = frozenset[str]


class AgmConfig(JointConfig):
    """Settings of AGM; defaults are the authors' for CREMA-D.

    Attributes:
        fusion: The fusion head; any.
        alpha: α, how strongly gradients are scaled; 0: not at all.
        cap: Largest τ - r that counts; the authors' is 7 for three modalities.
        start_epoch: First epoch of the rule, from 1, in epochs of `schedule_epochs`.
        end_epoch: Last epoch of the rule, inside.
        schedule_epochs: Length of the authors' run, to which the window belongs.
        after_window: `off`: joint training after it; `last`: with the last step's coefficients (released).
    """

    alpha: Annotated[float, Ge(0)] = 1.5
    cap: Annotated[float, Ge(0)] = 10.0
    start_epoch: Annotated[int, Ge(1), Le(10**6)] = 1
    end_epoch: Annotated[int, Ge(1), Le(10**6)] = 20
    schedule_epochs: Annotated[int, Ge(1), Le(10**6)] = 100
    after_window: Literal["off", "last"] = "off"


def subsets(names: Sequence[str]) -> list[Subset]:
    """Returns every subset of the modalities but the empty one, the smallest first and all of them last."""
    return [frozenset(chosen) for size in range(1, len(names) + 1) for chosen in combinations(names, size)]


def shapley_shares(logits: Mapping[Subset, Tensor], names: Sequence[str]) -> Tensor:
    """Returns each modality's share of the joint logits, (M, B, K): m_j = Σ_{S∌j} |S|!(M-|S|-1)!/M! (z(S∪j) - z(S)).

    Args:
        logits: z(S), (B, K), of every subset but the empty one, whose z is 0.
        names: The modalities, in their order.
    """
    count = len(names)
    shares = []
    for name in names:
        parts = []
        for subset, values in logits.items():
            size = len(subset - {name})
            weight = 1 / (count * math.comb(count - 1, size))
            parts.append(full_precision(values) * (weight if name in subset else -weight))
        shares.append(torch.stack(parts).sum(dim=0))
    return torch.stack(shares)


def pass_weights(coefficients: Tensor, names: Sequence[str]) -> dict[Subset, Tensor]:
    """Returns by what the gradient at each z(S) is multiplied so that the gradient at each m_j is, by k_j.

    The mean of k inside S less its mean outside, over the number of subsets of that size. For M = 2: ½(k_1 + k_2) for
    all, ½(k_1 - k_2) for {1}. With equal k it is exactly that k for all, and 0 for the others.

    Args:
        coefficients: k, (M,).
        names: The modalities, in their order.
    """
    by_name = dict(zip(names, coefficients.unbind(), strict=True))
    weights = {}
    for subset in subsets(names):
        inside = torch.stack([by_name[name] for name in names if name in subset]).mean()
        if len(subset) < len(names):
            outside = torch.stack([by_name[name] for name in names if name not in subset]).mean()
            inside = (inside - outside) / math.comb(len(names), len(subset))
        weights[subset] = inside
    return weights


def label_costs(share: Tensor, labels: Tensor) -> Tensor:
    """Returns -log max(softmax(m)[y], 1e-8), (B,), from one modality's share m (B, K) and labels (B,)."""
    return -share.softmax(dim=1).gather(1, labels[:, None])[:, 0].clamp(min=MIN_PROBABILITY).log()


def discrepancies(costs: Tensor) -> Tensor:
    """Returns r_j = exp(M/(M-1)·(mean of the costs - c_j)), (M,), from costs c (M,); 1 where all are equal."""
    count = len(costs)
    return torch.exp(count / (count - 1) * (costs.mean() - costs))


def gradient_coefficients(reference: Tensor, current: Tensor, alpha: float, cap: float) -> Tensor:
    """Returns k_j = exp(α·min(τ_j - r_j, cap)), (M,), from the reference τ and the step's r; capped above alone."""
    return torch.exp(alpha * (reference - current).clamp(max=cap))


@METHODS.register("agm")
class Agm(Joint):
    """Trains the fused cross-entropy, over all samples, with the gradient of each modality's share scaled.

    A missing modality is features of zero to the fusion head, in every pass. The modalities' own logits are their
    shares m_j, which sum to the fused ones.

    State (buffers): k of the newest step, the means of the costs over all earlier steps and the number of those.
    """

    Config = AgmConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: AgmConfig, context: Context):
        super().__init__(model, config, context)
        names = context.modalities
        if len(names) > MOST_MODALITIES:
            raise ConfigError([f"method.name = agm predicts from each of the 2^M subsets of the modalities in every "
                               f"step, so it takes at most {MOST_MODALITIES}, got {len(names)} "
                               f"({', '.join(names)})"])  # fmt: skip
        if config.end_epoch < config.start_epoch:
            raise ConfigError([f"method.end_epoch must be at least method.start_epoch ({config.start_epoch}), "
                               f"got {config.end_epoch}"])  # fmt: skip
        first, stop = window(config.start_epoch - 1, config.end_epoch, config.schedule_epochs, context.max_epochs)
        self.window = first, max(first, stop - 1)
        self.coefficients: Tensor
        self.register_buffer("coefficients", torch.ones(len(names)))
        self.cost_means: Tensor
        self.register_buffer("cost_means", torch.zeros(len(names)))
        self.cost_steps: Tensor
        self.register_buffer("cost_steps", torch.zeros(()))
        self._totals: Tensor

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code's frozen coefficients, with its clipping as near as ours comes to it."""
        return {"released": {"method.after_window": "last", "optimizer.clip_norm": 1.0}}

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy, with the scaled gradient."""
        features = self.model.encode(batch)
        fused = self.fusion(features)
        is_active = inside(self.window, engine)
        if not is_active and self.config.after_window == "off":
            return {FUSED: cross_entropy(fused, batch.labels, engine)}
        leaf = full_precision(fused).detach().requires_grad_()
        loss = cross_entropy(leaf, batch.labels, engine)
        (gradient,) = torch.autograd.grad(loss, leaf)
        logits = {**self._partial(self.model.encode_as_evaluated(batch), batch), frozenset(features): fused}
        if is_active:
            self._scale(logits, batch, engine)
        surrogate = torch.stack(
            [
                weight * (gradient * full_precision(logits[subset])).sum()
                for subset, weight in pass_weights(self.coefficients, self.context.modalities).items()
            ]
        ).sum()
        # Its value is the loss, its gradient the surrogate's.
        return {FUSED: loss.detach() + (surrogate - surrogate.detach())}

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Takes the step's costs into their running means; gradients are scaled already."""
        if not inside(self.window, engine):
            return
        has_any = self._totals[-1] > 0
        self.cost_steps.add_(has_any)
        change = (_costs(self._totals) - self.cost_means) / self.cost_steps.clamp(min=1)
        self.cost_means.add_(torch.where(has_any, change, 0))

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the fused logits and each modality's share of them, (B, K)."""
        features = self.model.encode(batch)
        fused = self.fusion(features)
        logits = {**self._partial(features, batch), frozenset(features): fused}
        shares = shapley_shares(logits, self.context.modalities)
        return {FUSED: fused, **dict(zip(self.context.modalities, shares.unbind(), strict=True))}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns k of each modality in the newest step of the window."""
        pairs = zip(self.context.modalities, self.coefficients.unbind(), strict=True)
        return {f"coefficient/{name}": value for name, value in pairs}

    def _partial(self, features: Mapping[str, Tensor], batch: Batch) -> dict[Subset, Tensor]:
        """Returns z(S) of all subsets but the empty and the whole one, from features as in evaluation."""
        zeros = self._features_of_zeros(batch)
        chosen = subsets(self.context.modalities)[:-1]
        return {
            subset: self.fusion({name: values if name in subset else zeros[name] for name, values in features.items()})
            for subset in chosen
        }

    def _features_of_zeros(self, batch: Batch) -> dict[str, Tensor]:
        """Returns what the encoders make of inputs of zero, (B, D_m), as in evaluation; 0 for a missing modality."""
        found: dict[str, Tensor] = {}
        for name in self.model.modalities:
            blank = batch.with_inputs({name: torch.zeros_like(batch.inputs[name])})
            if name in batch.lengths:
                found |= self.model.encode_as_evaluated(blank, [name])
                continue
            one = Batch({name: blank.inputs[name][:1]}, batch.labels[:1])
            features = self.model.encode_as_evaluated(one, [name])[name].expand(len(batch.labels), -1)
            present = batch.has(name)
            found[name] = features if present is None else torch.where(present[:, None], features, 0)
        return found

    @torch.no_grad()
    def _scale(self, logits: Mapping[Subset, Tensor], batch: Batch, engine: Step) -> None:
        """Sets k from the shares of one micro-batch, over all ranks, and adds their costs to the step's."""
        names = self.context.modalities
        costs = [label_costs(share, batch.labels) for share in shapley_shares(logits, names).unbind()]
        totals = totals_over_complete(costs, names, batch, engine)
        self._totals = totals if engine.is_first_part else self._totals + totals
        reference, current = discrepancies(self.cost_means), discrepancies(_costs(totals))
        scaled = gradient_coefficients(reference, current, self.config.alpha, self.config.cap)
        self.coefficients.copy_(torch.where(totals[-1] > 0, scaled, 1))


def _costs(totals: Tensor) -> Tensor:
    """Returns the mean cost of each modality, (M,), from sums and their count, (M + 1,); 0 without samples."""
    return totals[:-1] / torch.where(totals[-1] > 0, totals[-1], 1)
