"""CML: an answer may not become surer when a modality is taken away.

In short: The joint head answers with all modalities, then with one less, and so on, and every answer is trained. Where
taking a modality away makes an answer surer, that is an error of its own, so that no modality can be left unused.

Paper: "Calibrating Multimodal Learning", ICML 2023.

Step by step: z_S is the joint head's answer with the features outside S at zero. An order of the modalities, drawn for
each step, gives a chain T_0 = all, T_1, ..., T_{M-1} of which each set has one modality less; conf_j is the largest
probability in softmax of z_{T_j}. The loss is the mean of the CE(z_{T_j}) + λ Σ_j R_j, with R_j the mean over the
samples of relu(conf_{j+1} - conf_j), which is 0 for a sample that the smaller set has right and the larger one wrong.

Cost: that of `joint`, and of M - 1 more passes of its head (`chain: pairwise`: 2^M - 2).

Rulings and deviations (each with a test in tests/core/methods/test_cml.py):
  1. R_j is a mean over the samples; the released code takes their sum, so that λ grows with the batch (`average: sum`).
  2. Both answers of a pair learn from R: the smaller set to be less sure, the larger one to be surer.
  3. Confidences are compared and samples excused one by one; a toolkit compares sums over the batch and excuses none.
  4. The order is drawn anew for each step, the same on all workers and in all micro-batches. `chain: pairwise` draws
     none: it takes all sets and all pairs of a set and the same with one modality less, each as often as a drawn chain
     has it on average, so that its loss is the mean of the drawn ones.
  5. Any fusion head; with its whole bias, as a missing modality is answered.
  6. λ = 0 leaves the mean of the chain's cross-entropies, which is not `joint`.
  7. Missing modalities: CE(z_T) is over the samples that have any of T, that of all modalities over all samples; R is
     over the samples that have the modality taken away and one that is left.

Shape legend: B samples, K classes, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.layers.precision import full_precision
from mmcore.methods.agm import Subset, subsets
from mmcore.methods.base import FUSED, METHODS, Context, cross_entropies
from mmcore.methods.joint import Joint, JointConfig

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

CALIBRATION = "calibration"
MOST_MODALITIES = 4
"""Most that `chain: pairwise` takes, whose sets double with each."""


class CmlConfig(JointConfig):
    """Settings of CML.

    Attributes:
        fusion: The joint head; any.
        weight: λ, weight of the confidences that rise where they should not.
        chain: One `random` order of the modalities for each step, or all orders' sets and pairs at once (`pairwise`).
        average: Whether rising confidences are a `mean` over the step's samples, or their `sum` (released).
    """

    weight: Annotated[float, Ge(0)] = 0.1
    chain: Literal["random", "pairwise"] = "random"
    average: Literal["mean", "sum"] = "mean"


def rising_confidence(larger: Tensor, smaller: Tensor, labels: Tensor) -> Tensor:
    """Returns by how much the smaller set's answer is surer than the larger one's, (B,), in [0, 1), at least float32.

    0 for a sample that the smaller set has right and the larger one wrong.

    Args:
        larger: Logits of the larger set, (B, K).
        smaller: Logits of the smaller set, (B, K).
        labels: (B,).
    """
    before, after = full_precision(larger).softmax(dim=1).max(dim=1), full_precision(smaller).softmax(dim=1).max(dim=1)
    is_excused = (after.indices == labels) & (before.indices != labels)
    return torch.where(is_excused, 0, (after.values - before.values).relu())


Pair = tuple[Subset, Subset]
"""A set, and the same with one modality less."""


def chain(order: Sequence[str]) -> tuple[dict[Subset, float], dict[Pair, float]]:
    """Returns the sets that are left as the modalities are taken away in an order, and the pairs, by weight.

    Sets weigh 1/M each and pairs 1. The largest come first.
    """
    sets = [frozenset(order[index:]) for index in range(len(order))]
    return dict.fromkeys(sets, 1 / len(order)), dict.fromkeys(pairwise(sets), 1.0)


def all_chains(names: Sequence[str]) -> tuple[dict[Subset, float], dict[Pair, float]]:
    """Returns every set but the empty one, and every pair, by their mean weight over the chains of all orders.

    A set of s modalities is in one chain of C(M, s), a pair in one of C(M, s)·s, s of the larger set.
    """
    count = len(names)
    sets = {chosen: 1 / (count * math.comb(count, len(chosen))) for chosen in reversed(subsets(names))}
    pairs = {
        (larger, larger - {name}): 1 / (math.comb(count, len(larger)) * len(larger))
        for larger in sets
        for name in names
        if name in larger and len(larger) > 1
    }
    return sets, pairs


@METHODS.register("cml")
class Cml(Joint):
    """Trains the joint head's answers along a chain of subsets, and that they do not become surer.

    A missing modality is features of zero to the joint head, as one that is taken away.
    """

    Config = CmlConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: CmlConfig, context: Context):
        super().__init__(model, config, context)
        if config.chain == "pairwise" and len(context.modalities) > MOST_MODALITIES:
            raise ConfigError([f"method.chain must be random, got 'pairwise', which answers with each of the 2^M "
                               f"subsets of the modalities: it takes at most {MOST_MODALITIES}, "
                               f"got {len(context.modalities)}"])  # fmt: skip
        self._chain = all_chains(context.modalities)
        self._step_samples: Tensor

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released sum, all pairs at once, and the chain without the rule."""
        return {
            "released": {"method.average": "sum"},
            "pairwise": {"method.chain": "pairwise"},
            "no_calibration": {"method.weight": 0.0},
        }

    def train_step(self, batch: Batch, engine: Step) -> dict[str, Tensor]:
        """Does one step; counts its samples on all ranks where the rule needs their sum."""
        if self.config.average == "sum":
            self._step_samples = engine.sum(batch.labels.new_full((), batch.num_samples, dtype=torch.float32))
        return super().train_step(batch, engine)

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the cross-entropies of the chain's sets, that of all modalities first, and λ times the rising."""
        if self.config.chain == "random" and engine.is_first_part:
            self._chain = chain(self._drawn_order(engine))
        sets, pairs = self._chain
        features = self.model.encode(batch)
        logits = {chosen: self._answer(features, chosen) for chosen in sets}
        masks = {self._name(chosen): batch.has_any(*chosen) for chosen in sets} | {FUSED: None}
        named = {self._name(chosen): values for chosen, values in logits.items()}
        losses = cross_entropies(named, batch.labels, masks, engine)
        terms = {name: weight * losses[name] for name, weight in zip(named, sets.values(), strict=True)}
        return {**terms, CALIBRATION: self.config.weight * self._rising(logits, pairs, batch, engine)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the joint head's logits, and those with each modality alone, (B, K)."""
        features = self.model.encode(batch)
        return {
            FUSED: self.fusion(features),
            **{name: self._answer(features, frozenset({name})) for name in self.context.modalities},
        }

    def _drawn_order(self, engine: Step) -> list[str]:
        names = self.context.modalities
        drawn = torch.randperm(len(names), generator=engine.generator("chain"), device="cpu")
        return [names[index] for index in drawn.tolist()]

    def _answer(self, features: Mapping[str, Tensor], chosen: Subset) -> Tensor:
        """Returns z_S (B, K) from the features of all modalities (B, D_m)."""
        kept = {name: values if name in chosen else torch.zeros_like(values) for name, values in features.items()}
        logits: Tensor = self.fusion(kept)
        return logits

    def _rising(
        self, logits: Mapping[Subset, Tensor], pairs: Mapping[Pair, float], batch: Batch, engine: Step
    ) -> Tensor:
        """Returns Σ R over the pairs, each times its weight."""
        values: dict[str, Tensor] = {}
        masks: dict[str, Tensor | None] = {}
        for larger, smaller in pairs:
            name = f"{self._name(larger)}>{self._name(smaller)}"
            values[name] = rising_confidence(logits[larger], logits[smaller], batch.labels)
            masks[name] = _both(batch.has(*(larger - smaller)), batch.has_any(*smaller))
        if self.config.average == "sum":
            values = {name: _masked(rising, masks[name]) * self._step_samples for name, rising in values.items()}
            masks = dict.fromkeys(masks)
        means = engine.means(values, masks)
        return torch.stack([weight * means[name] for name, weight in zip(values, pairs.values(), strict=True)]).sum()

    def _name(self, chosen: Subset) -> str:
        if len(chosen) == len(self.context.modalities):
            return FUSED
        return "+".join(name for name in self.context.modalities if name in chosen)


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else torch.where(mask, values, 0)
