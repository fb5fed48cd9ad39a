"""AMSS and AMSS+: in each step a part of an encoder's units learns, fewer of the modality that does better.

In short: In each step only some units of every layer are updated, most often those with large gradients. The modality
that does worse has more of its units updated, so that it can catch up.

Paper: "Learning to Rebalance Multi-Modal Optimization by Adaptively Masking Subnetworks", TPAMI 2025.

Step by step: z_m is the modality's part of the joint logits, H_y the entropy of the step's label frequencies, H_m the
mean entropy of softmax(f_m) over its features; u_m = (H_y + ½ - CE(z_m)) / H_m; ρ_m = M/2 · softmax_m(-u / T), or ½
for all where H_y + ½ - CE(z_m) is not above 0 for one; then within [.1, .9]. A weight tensor of encoder m has C rows;
I_c is the squared length of a row's gradient, p_c = I_c / ΣI. n = ⌈ρ_m C⌉ rows are drawn by p without replacement; the
others' gradients are 0. Plus: those of the rows drawn are divided by p_c + 1/C.

Cost: that of `joint`, and a length and two random numbers for each row.

Rulings and deviations (each with a test in tests/core/methods/test_amss.py):
  1. H_y is the entropy; the released code takes the cross-entropy of the frequencies as logits, which is about ln K
     (`label_entropy: released`).
  2. Rows are the output units of every tensor of an encoder with two or more dimensions, so that any encoder is masked.
     The released code masks the convolutions of residual stages alone, without the first one and those of the shortcuts
     (`parameters: convolutions`).
  3. More than two modalities: M/2 times the softmax, which for two is the paper's.
  4. Rows are drawn on the device, in the order of E_c / I_c with E_c exponential, which is drawing without replacement.
     A row whose gradient is 0 comes last, so that fewer than n with a gradient are all kept.
  5. Scores, entropies and label frequencies are of the samples that have all modalities, over all workers and the whole
     step; a step without any is `joint`'s.
  6. Plus is not unbiased, since 1/(p_c + 1/C) is less than 1/p_c. It makes gradients longer, by C/2 where rows are
     alike: a larger rate of the encoders' weights is part of it.

Shape legend: B samples, K classes, D features, M modalities, T weight tensors, R rows of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Context, cross_entropy
from mmcore.methods.joint import Joint, JointConfig
from mmcore.methods.unimodal_scores import slice_logits, totals_over_complete

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

MARGIN = 0.5
MIN_ENTROPY = 1e-8
ROUNDING = 1e-6
"""What ρC may be above a whole number by rounding alone."""
STAGE_CONVOLUTION = re.compile(r"(^|\.)layer\d+\.(.*\.)?conv\d+\.weight$")
Share = Annotated[float, Ge(0), Le(1)]


class AmssConfig(JointConfig):
    """Settings of AMSS.

    Attributes:
        fusion: `concat` or `sum`: heads that can be taken apart by modality.
        temperature: T, how even the modalities' shares are; the authors' are .2 to .5.
        plus: Whether gradients are divided by p_c + 1/C (AMSS+).
        mode: Whether the rows that learn are drawn (`sample`), or are those with the longest gradients (`top`).
        low: Least share of a tensor's rows that learns.
        high: Largest share; with 1 for both all rows learn, which is joint training.
        parameters: `all` of an encoder, or the `convolutions` of its residual stages (released).
        label_entropy: H_y as the `entropy` of the label frequencies, or as `released`.
    """

    fusion: Literal["concat", "sum"] = "concat"
    temperature: Annotated[float, Gt(0)] = 0.2
    plus: bool = False
    mode: Literal["sample", "top"] = "sample"
    low: Share = 0.1
    high: Share = 0.9
    parameters: Literal["all", "convolutions"] = "all"
    label_entropy: Literal["entropy", "released"] = "entropy"


def label_entropy(counts: Tensor, kind: str) -> Tensor:
    """Returns H_y in nats, a scalar, from how many samples each class has, (K,).

    Args:
        counts: At least 0.
        kind: `entropy` of the frequencies, or `released`: the cross-entropy of the frequencies taken for logits.
    """
    shares = counts / counts.sum().clamp(min=1)
    if kind == "released":
        return -(shares * shares.log_softmax(dim=0)).sum()
    return -torch.xlogy(shares, shares).sum()


def feature_entropy(features: Tensor) -> Tensor:
    """Returns the entropy of softmax(f) over the feature axis in nats, (B,), at least float32, from (B, D)."""
    logs = full_precision(features).log_softmax(dim=1)
    return -(logs.exp() * logs).sum(dim=1)


def learning_shares(labels: Tensor, costs: Tensor, entropies: Tensor, temperature: float) -> Tensor:
    """Returns ρ, the share of rows that learns in each modality's encoder, (M,), before its bounds.

    Args:
        labels: H_y, a scalar.
        costs: CE(z_m), (M,).
        entropies: H_m, (M,).
        temperature: T.
    """
    known = labels + MARGIN - costs
    utilities = known / entropies.clamp(min=MIN_ENTROPY)
    shares = len(costs) / 2 * (-utilities / temperature).softmax(dim=0)
    return torch.where((known > 0).all(), shares, 0.5)


def first_rows(keys: Tensor, tensors: Tensor, places: Tensor, numbers: Tensor) -> Tensor:
    """Returns which rows have the smallest keys of their tensor, (R,) bool: as many as the tensor's number.

    Args:
        keys: (R,).
        tensors: (R,) int64, each row's tensor; rising.
        places: (R,) int64, each row's place in its tensor.
        numbers: (T,).
    """
    order = keys.argsort()
    order = order[tensors[order].argsort(stable=True)]
    return torch.zeros_like(tensors, dtype=torch.bool).scatter(0, order, places < numbers[tensors])


def row_factors(importance: Tensor, kept: Tensor, *, plus: bool) -> Tensor:
    """Returns what the gradients of one tensor's rows are multiplied by, (C,).

    Args:
        importance: I, (C,), the squared length of each row's gradient.
        kept: (C,) bool.
        plus: Whether kept rows have 1/(p_c + 1/C), and not 1.
    """
    if not plus:
        return kept.to(importance.dtype)
    total = importance.sum()
    shares = importance / torch.where(total > 0, total, 1)
    return kept / (shares + 1 / len(importance))


@METHODS.register("amss")
class Amss(Joint):
    """Trains the fused cross-entropy, over all samples. A missing modality is features of zero to the fusion head.

    State (buffer): ρ of the newest step.
    """

    Config = AmssConfig
    min_modalities = 2
    config: AmssConfig

    def __init__(self, model: MultimodalModel, config: AmssConfig, context: Context):
        super().__init__(model, config, context)
        if config.high < config.low:
            raise ConfigError([f"method.high must be at least method.low ({config.low}), got {config.high}"])
        if config.parameters == "convolutions":
            self._require_convolutions()
        self.shares: Tensor
        self.register_buffer("shares", torch.ones(len(context.modalities)))
        weights = {name: self._weights(name) for name in context.modalities}
        self._sizes = [len(weight) for own in weights.values() for weight in own]
        self.owners: Tensor
        self.tensors: Tensor
        self.places: Tensor
        self.sizes: Tensor
        # Of the encoders' weight tensors, in order; they follow from the encoders, so checkpoints need none of them.
        tensors = [index for index, size in enumerate(self._sizes) for _ in range(size)]
        places = [place for size in self._sizes for place in range(size)]
        owners = [index for index, own in enumerate(weights.values()) for _ in own]
        self.register_buffer("owners", torch.tensor(owners, dtype=torch.int64), persistent=False)
        self.register_buffer("sizes", torch.tensor(self._sizes, dtype=torch.int64), persistent=False)
        self.register_buffer("tensors", self.owners.new_tensor(tensors), persistent=False)
        self.register_buffer("places", self.owners.new_tensor(places), persistent=False)
        self._totals: Tensor

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns AMSS+, the released code, the longest gradients in place of drawn ones, and half of all encoders."""
        return {
            "plus": {"method.plus": True},
            "released": {"method.parameters": "convolutions", "method.label_entropy": "released"},
            "top": {"method.mode": "top"},
            "half": {"method.low": 0.5, "method.high": 0.5},
        }

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy; measures the modalities beside it, from the same features."""
        features = self.model.encode(batch)
        totals = self._measured(features, batch, engine)
        self._totals = totals if engine.is_first_part else self._totals + totals
        return {FUSED: cross_entropy(self.fusion(features), batch.labels, engine)}

    @torch.no_grad()
    def adjust_gradients(self, batch: Batch, phase: str, engine: Step) -> None:
        """Sets the gradients of the rows that do not learn in this step to 0."""
        is_known = self._totals[-1] > 0
        self.shares.copy_(torch.where(is_known, self._learning_shares(), 1))
        weights = [weight for name in self.context.modalities for weight in self._weights(name)]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if not gradients:
            return
        lengths = [torch.linalg.vector_norm(grad, dim=tuple(range(1, grad.dim()))) for grad in gradients]
        importance = torch.cat(lengths).square()
        numbers = torch.ceil(self.shares[self.owners] * self.sizes - ROUNDING)
        kept = first_rows(self._keys(importance, engine), self.tensors, self.places, numbers)
        parts = zip(
            gradients, importance.split_with_sizes(self._sizes), kept.split_with_sizes(self._sizes), strict=True
        )
        for gradient, own, learns in parts:
            factors = torch.where(is_known, row_factors(own, learns, plus=self.config.plus), 1)
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype))

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns ρ of each modality in the newest step: the share of its rows that learnt."""
        return {f"share/{name}": value for name, value in zip(self.context.modalities, self.shares, strict=True)}

    @torch.no_grad()
    def _measured(self, features: dict[str, Tensor], batch: Batch, engine: Step) -> Tensor:
        """Returns sums over complete samples: M cross-entropies, M entropies, K label counts, and their number."""
        logits = slice_logits(self.fusion, features).values()
        costs = [F.cross_entropy(full_precision(values), batch.labels, reduction="none") for values in logits]
        entropies = [feature_entropy(values) for values in features.values()]
        classes = torch.arange(self.context.num_classes, device=batch.labels.device)
        labels = (batch.labels == classes[:, None]).to(costs[0].dtype).unbind()
        return totals_over_complete([*costs, *entropies, *labels], list(features), batch, engine)

    def _learning_shares(self) -> Tensor:
        count = self._totals[-1].clamp(min=1)
        number = len(self.context.modalities)
        costs, entropies, labels = self._totals[:-1].split_with_sizes([number, number, self.context.num_classes])
        found = label_entropy(labels, self.config.label_entropy)
        shares = learning_shares(found, costs / count, entropies / count, self.config.temperature)
        return shares.clamp(self.config.low, self.config.high)

    def _keys(self, importance: Tensor, engine: Step) -> Tensor:
        """Returns by what rows are put in order, (R,): smallest first."""
        if self.config.mode == "top":
            return -importance
        # Half the sum of two squared normal numbers is exponential.
        exponential = engine.normal("amss", importance.new_empty(2, len(importance))).square().sum(dim=0) / 2
        return torch.where(importance > 0, exponential / importance, torch.inf)

    def _weights(self, name: str) -> list[nn.Parameter]:
        if self.config.parameters == "convolutions":
            named = self.model.encoders[name].named_parameters()
            weights = [weight for path, weight in named if STAGE_CONVOLUTION.search(path)]
        else:
            weights = self.model.parameter_groups()[f"encoder/{name}"]
        return [weight for weight in weights if weight.requires_grad and weight.dim() > 1]

    def _require_convolutions(self) -> None:
        if without := [name for name in self.context.modalities if not self._weights(name)]:
            raise ConfigError([f"method.parameters must be all, got 'convolutions': the encoder of "
                               f"{', '.join(without)} has no residual stages of convolutions"])  # fmt: skip
