"""PMR: the modality that does worse is pulled towards the mean features of its samples' classes, beside joint training.

In short: For each modality and class the mean of its features, a prototype, is kept. In each step the modality whose
features say less about the class learns to lie nearer to the right prototype, so that it moves while the other leads.

Paper: "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR 2023.

Step by step: d_m,k = -‖f_m - c_m,k‖ for prototype c of class k; s_m is the mean probability of the label in softmax of
d_m; ρ_m = s_m / mean of the others' s; the loss is CE(z) + α Σ CE(d_m) over the modalities with ρ_m < 1. Before each
epoch c <- (1 - μ) new + μ old, new of a part of the training samples; in the first two epochs c is new.

Cost: that of `joint`, the distances to M·K prototypes, and a forward pass over a tenth of training for each epoch.

Rulings and deviations (each with a test in tests/core/methods/test_pmr.py):
  1. Prototypes are of training samples alone; on one data set the released code takes validation's.
  2. The part of training is drawn by seed and epoch, the same however many workers there are, and has at least one
     batch; the released code takes the loader's first batches.
  3. A class without a sample in the part keeps its prototype. One that never had any is left out of the softmax, and
     its samples out of the prototypes' loss and scores; in the released code all becomes NaN.
  4. The distance has gradient 0 where it is 0; its square root has none.
  5. Any number of modalities: every one with ρ < 1 is pulled. With two that is the worse one; equal scores pull none.
  6. The paper's entropy term on the better modality is not in the released code, and not here.
  7. The window is in the paper's epochs and scaled with the run's length.
  8. Scores are of the samples that have all modalities; a step without any pulls none.

Shape legend: B samples, K classes, D_m features of modality m, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.layers.precision import full_precision
from mmcore.methods.base import FUSED, METHODS, Context, Method, cross_entropy
from mmcore.methods.fusion import build_fusion
from mmcore.methods.unimodal_scores import inside, score_ratios, totals_over_complete, window

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel


class PmrConfig(Section):
    """Settings of PMR; defaults are the authors' for CREMA-D.

    Attributes:
        alpha: α, weight of the prototypes' loss; 0: joint training.
        momentum: μ, how much of the old prototypes stays at each epoch.
        fraction: Share of the training samples behind new prototypes.
        start_epoch: First epoch of the rule, from 0, in epochs of `schedule_epochs`.
        end_epoch: Last epoch of the rule, inside.
        schedule_epochs: Length of the authors' run, to which the window belongs.
        fusion: `concat` or `sum`.
    """

    alpha: Annotated[float, Ge(0)] = 1.0
    momentum: Annotated[float, Ge(0), Le(1)] = 0.2
    fraction: Annotated[float, Gt(0), Le(1)] = 0.1
    start_epoch: Annotated[int, Ge(0)] = 0
    end_epoch: Annotated[int, Ge(0)] = 100
    schedule_epochs: Annotated[int, Ge(1)] = 150
    fusion: Literal["concat", "sum"] = "concat"


def prototype_logits(features: Tensor, prototypes: Tensor, seen: Tensor) -> Tensor:
    """Returns minus the distance of each sample's features to each class's prototype, (B, K), at least float32.

    Args:
        features: (B, D).
        prototypes: (K, D); without gradient.
        seen: (K,) bool: classes that have a prototype; the others get the least number there is.
    """
    features = full_precision(features)
    # Summed, not by a matrix product, which is inexact for near vectors; and its gradient at 0 is 0.
    distances = torch.cdist(features, prototypes.to(features.dtype), compute_mode="donot_use_mm_for_euclid_dist")
    return torch.where(seen, -distances, torch.finfo(distances.dtype).min)


def class_sums(features: Tensor, labels: Tensor, mask: Tensor | None, num_classes: int) -> tuple[Tensor, Tensor]:
    """Returns each class's summed features (K, D) and number of samples (K,), of the samples in the mask (B,)."""
    features = full_precision(features)
    members = F.one_hot(labels, num_classes).to(features.dtype)
    if mask is not None:
        members = torch.where(mask[:, None], members, 0)
    return members.T @ features, members.sum(dim=0)


def updated_prototypes(
    old: Tensor, seen: Tensor, sums: Tensor, counts: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """Returns the prototypes (1 - μ) new + μ old, (K, D), and which classes have one, (K,).

    A class without new samples keeps its old one; one that had none takes the new one as it is.

    Args:
        old: (K, D).
        seen: (K,) bool: classes that have one already.
        sums: (K, D) of the new samples' features.
        counts: (K,) of the new samples.
        momentum: μ.
    """
    has_new = counts > 0
    new = sums / torch.where(has_new, counts, 1)[:, None]
    mixed = torch.where(seen[:, None], (1 - momentum) * new + momentum * old, new)
    return torch.where(has_new[:, None], mixed, old), seen | has_new


@METHODS.register("pmr")
class Pmr(Method):
    """Trains the fused cross-entropy over all samples, and the weaker modalities' cross-entropy of the prototypes.

    A missing modality is features of zero to the fusion head; prototypes and their losses are of the samples that have
    the modality.

    State (buffers): the prototypes of all modalities side by side, which classes have one, and the newest ratios.
    """

    Config = PmrConfig
    min_modalities = 2

    def __init__(self, model: MultimodalModel, config: PmrConfig, context: Context):
        super().__init__(model, config, context)
        self.fusion = build_fusion(config.fusion, model.num_features, context.num_classes)
        self.window = window(config.start_epoch, config.end_epoch, config.schedule_epochs, context.max_epochs)
        self._sizes = [model.num_features[name] for name in context.modalities]
        self.prototypes: Tensor
        self.register_buffer("prototypes", torch.zeros(context.num_classes, sum(self._sizes)))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(len(self._sizes), context.num_classes, dtype=torch.bool))
        self.ratios: Tensor
        self.register_buffer("ratios", torch.ones(len(self._sizes)))

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns prototypes without memory."""
        return {"no_memory": {"method.momentum": 0.0}}

    @torch.no_grad()
    def begin_epoch(self, engine: Step) -> None:
        """Makes the epoch's prototypes, from a part of the training samples."""
        if engine.place.epoch > self.window[1]:
            return
        sums, counts = self._sums(engine)
        momentum = self.config.momentum if engine.place.epoch > 1 else 0.0
        pieces = []
        for index, (old, new) in enumerate(zip(self._split(self.prototypes), self._split(sums), strict=True)):
            piece, seen = updated_prototypes(old, self.seen[index], new, counts[index], momentum)
            self.seen[index] = seen
            pieces.append(piece)
        self.prototypes.copy_(torch.cat(pieces, dim=1))

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy and, within the window, α times the weaker modalities' of the prototypes."""
        features = self.model.encode(batch)
        terms = {FUSED: cross_entropy(self.fusion(features), batch.labels, engine)}
        if not inside(self.window, engine):
            return terms
        prototypes, names = self._split(self.prototypes), self.context.modalities
        logits = {
            name: prototype_logits(features[name], prototypes[index], self.seen[index])
            for index, name in enumerate(names)
        }
        has_prototype = {name: self.seen[index][batch.labels] for index, name in enumerate(names)}
        self.ratios.copy_(self._ratios(logits, has_prototype, batch, engine))
        pulled = self._pulled(logits, has_prototype, batch, engine)
        for index, name in enumerate(names):
            terms[f"prototype/{name}"] = self.config.alpha * torch.where(self.ratios[index] < 1, pulled[name], 0)
        return terms

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the fusion head's logits (B, K)."""
        return {FUSED: self.fusion(self.model.encode(batch))}

    def diagnostics(self) -> dict[str, Tensor]:
        """Returns each modality's score ÷ the mean of the others', in the newest step."""
        return {f"ratio/{name}": self.ratios[index] for index, name in enumerate(self.context.modalities)}

    def _sums(self, engine: Step) -> tuple[Tensor, Tensor]:
        """Returns the summed features (K, ΣD_m) and the samples (M, K) behind new prototypes, over all ranks."""
        sums, counts = torch.zeros_like(self.prototypes), self.prototypes.new_zeros(self.seen.shape)
        for batch in engine.passes("train", self.config.fraction):
            if batch.is_placeholder:
                continue
            with engine.autocast():
                features = self.model.encode(batch)
            found = [
                class_sums(features[name], batch.labels, batch.has(name), self.context.num_classes)
                for name in self.context.modalities
            ]
            sums += torch.cat([own for own, _ in found], dim=1)
            counts += torch.stack([own for _, own in found])
        total = engine.sum(torch.cat([sums.flatten(), counts.flatten()]))
        sums, counts = total.split_with_sizes([sums.numel(), counts.numel()])
        return sums.view_as(self.prototypes), counts.view(self.seen.shape)

    @torch.no_grad()
    def _ratios(
        self, logits: dict[str, Tensor], has_prototype: dict[str, Tensor], batch: Batch, engine: Step
    ) -> Tensor:
        index = batch.labels[:, None]
        scores = [values.softmax(dim=1).gather(1, index)[:, 0] for values in logits.values()]
        counted = torch.stack(list(has_prototype.values())).all(dim=0)
        return score_ratios(totals_over_complete(scores, list(logits), batch, engine, counted))

    def _pulled(
        self, logits: dict[str, Tensor], has_prototype: dict[str, Tensor], batch: Batch, engine: Step
    ) -> dict[str, Tensor]:
        """Returns each modality's cross-entropy of the prototypes, a mean over the samples that have both."""
        masks: dict[str, Tensor | None] = {}
        for name, mask in has_prototype.items():
            present = batch.has(name)
            masks[name] = mask if present is None else mask & present
        losses = {name: cross_entropy(values, batch.labels, engine, average=False) for name, values in logits.items()}
        return engine.means(losses, masks)

    def _split(self, joined: Tensor) -> tuple[Tensor, ...]:
        """Returns the modalities' parts (K, D_m) of what holds them side by side."""
        return joined.split_with_sizes(self._sizes, dim=1)
