"""QMF: each sample's modalities are weighted by how sure they are, and sureness is trained to follow past losses.

In short: Each modality answers by itself, and what it counts in a sample's fused answer is its confidence, read off its
logits. Of two samples, the one that has cost a modality more so far is asked to be the less confident one.

Paper: "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023.

Step by step: c_m = logsumexp(z_m)/10 and ẑ = Σ_m c_m z_m. L = CE(ẑ) + Σ_m CE(z_m) + λ Σ_m R_m. Each sample i of a
batch is paired with the next, j; the last with the first. h_i is what sample i's own CE has summed up to, scaled to
[0, 1] over all of training; σ = sgn(h_i - h_j), and R = mean_i max(0, σ (c_i - c_j) - |h_i - h_j|). In words, with
σ = 1: the sample that has cost more may not be much surer than the other.

Cost: that of `ensemble`, and two small messages among workers for each step; 8 bytes a modality and training sample.

Rulings and deviations (each with a test in tests/core/methods/test_qmf.py):
  1. Confidences are constants in ẑ, as in the authors' code for text and images; that for colour and depth lets ẑ's
     gradient through them: variant `released_depth`.
  2. h holds the losses of earlier epochs. The authors' codes write them down in each step, before the loss (text and
     images; not offered) or after it (colour and depth), and scale by the least and greatest of that moment; here all
     workers scale by those at the epoch's start.
  3. Where all h are equal, as in the first epoch, R is 0; the released code divides 0 by 0.
  4. The losses written down are unweighted, whatever `trainer.class_weights` says.
  5. A confidence may be negative, so that ẑ turns an unsure modality's answer round; neither code prevents it.
  6. Any number of modalities. A missing one: it adds nothing to ẑ, its CE is of the samples that have it, and pairs are
     among them alone; what a sample lacks has cost 0.
  7. Neighbours in a batch may lie on different workers; they are paired all the same. Micro-batches are paired each by
     itself.

Shape legend: B samples of this rank's shard, S places of all ranks', N training samples, K classes, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.config.sections import Section
from mmcore.errors import TrainingError
from mmcore.layers.precision import full_precision
from mmcore.methods.base import (
    FUSED,
    METHODS,
    Context,
    Method,
    cross_entropy,
    linear_heads,
    sum_logits,
    unimodal_losses,
)

if TYPE_CHECKING:
    from mmcore.methods.step import Step
    from mmcore.model import MultimodalModel

SCALE = 10.0


class QmfConfig(Section):
    """Settings of QMF; defaults are the authors' for text and images.

    Attributes:
        weight: λ, weight of the ranking losses; 0: confidences are not trained to follow past losses.
        detach: Whether confidences are constants in the fused logits.
    """

    weight: Annotated[float, Ge(0)] = 0.1
    detach: bool = True


def confidence(logits: Tensor) -> Tensor:
    """Returns c = logsumexp(z)/10 of logits (B, K), (B,), at least float32; it may be negative."""
    return full_precision(logits).logsumexp(dim=1) / SCALE


def confident_logits(logits: Mapping[str, Tensor], batch: Batch, *, detach: bool) -> Tensor:
    """Returns ẑ = Σ_m c_m z_m (B, K), at least float32, over the modalities each sample has.

    Args:
        logits: Modality -> z_m, (B, K).
        batch: Tells which samples have which modalities.
        detach: Whether c_m passes no gradient on.
    """
    parts = {}
    for name, values in logits.items():
        weight = confidence(values.detach() if detach else values)
        parts[name] = weight[:, None] * full_precision(values)
    return sum_logits(parts, batch)


def scaled_history(table: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what is taken off a history, and what it is then divided by, to lie in [0, 1]; 1 where all are equal.

    Args:
        table: (N,), the summed losses of all training samples.
    """
    low, high = table.aminmax()
    width = high - low
    return low, torch.where(width > 0, width, 1)


def next_counted(counted: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the order in which counted samples come first, (S,), and the place therein of each one's next, (S,).

    The last counted sample's next is the first. Of the others, behind them, the next means nothing.

    Args:
        counted: (S,) bool.
    """
    order = torch.argsort(counted, descending=True, stable=True)
    places = torch.arange(len(counted), device=counted.device) + 1
    return order, torch.where(places < counted.sum(), places, 0)


def ranking_loss(confidences: Tensor, history: Tensor, counted: Tensor) -> Tensor:
    """Returns R = mean_i max(0, σ (c_i - c_j) - |h_i - h_j|) with j the next counted sample and σ = sgn(h_i - h_j).

    0 where none is counted.

    Args:
        confidences: c, (S,).
        history: h, (S,), in [0, 1]; without gradient.
        counted: (S,) bool: those that are paired.
    """
    order, following = next_counted(counted)
    c, h = confidences[order], history[order]
    gap = h - h[following]
    losses = (gap.sign() * (c - c[following]) - gap.abs()).relu()
    losses = torch.where((gap != 0) & counted[order], losses, 0)
    return losses.sum() / counted.sum().clamp(min=1)


@METHODS.register("qmf")
class Qmf(Method):
    """Trains the fused and the unimodal cross-entropies, and the order of confidences.

    The fused logits are a sum over the modalities a sample has, each times its confidence.

    State: `engine.samples` holds each training sample's summed cross-entropy by each modality.
    """

    Config = QmfConfig

    def __init__(self, model: MultimodalModel, config: QmfConfig, context: Context):
        super().__init__(model, config, context)
        self.heads = linear_heads(model, context.modalities, context.num_classes)

    @classmethod
    def variants(cls, modalities: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns the released code for colour and depth, and confidences that are not trained."""
        return {"released_depth": {"method.detach": False}, "no_ranking": {"method.weight": 0.0}}

    def losses(self, batch: Batch, phase: str, engine: Step) -> dict[str, Tensor]:
        """Returns the fused cross-entropy, each modality's, and λ times each one's ranking loss."""
        logits = self._logits(batch)
        fused = confident_logits(logits, batch, detach=self.config.detach)
        terms = {FUSED: cross_entropy(fused, batch.labels, engine), **unimodal_losses(logits, batch, engine)}
        if self.config.weight:
            for name, loss in self._ranking_losses(logits, batch, engine).items():
                terms[f"ranking/{name}"] = self.config.weight * loss
            self._remember(logits, batch, engine)
        return terms

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Returns each modality's logits, and their sum, each times its confidence, (B, K)."""
        logits = self._logits(batch)
        return {FUSED: confident_logits(logits, batch, detach=True), **logits}

    def head_modules(self) -> dict[str, nn.Module]:
        """Returns the modalities' heads."""
        return dict(self.heads.items())

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        return {name: self.heads[name](features) for name, features in self.model.encode(batch).items()}

    def _ranking_losses(self, logits: dict[str, Tensor], batch: Batch, engine: Step) -> dict[str, Tensor]:
        """Returns each modality's ranking loss over all ranks' samples, as a loss term of this rank."""
        columns = []
        for name, values in logits.items():
            present = batch.has(name)
            own = confidence(values)
            mask = torch.ones_like(own) if present is None else present.to(own.dtype)
            columns += [own, self._history(name, batch, engine).to(own.dtype), mask]
        gathered, is_sample = engine.gather(torch.stack(columns, dim=1))
        by_modality = gathered.view(len(gathered), len(logits), 3).unbind(dim=1)
        # All ranks know the whole loss. Each one's gradient is by its own samples, and counts by their number.
        whole = is_sample.sum().to(gathered.dtype) / max(1, batch.num_samples)
        terms = {}
        for name, rows in zip(logits, by_modality, strict=True):
            c, h, mask = rows.unbind(dim=1)
            loss = ranking_loss(c, h.detach(), is_sample & (mask > 0))
            terms[name] = loss.detach() + whole * (loss - loss.detach())
        return terms

    def _history(self, name: str, batch: Batch, engine: Step) -> Tensor:
        """Returns what the batch's samples have cost a modality in earlier epochs, (B,), scaled to [0, 1]."""
        if batch.rows is None:
            raise TrainingError("qmf remembers what each training sample cost, and no loader gave the batch its rows")
        table = engine.samples.values(name)
        low, width = scaled_history(table)
        return (table.index_select(0, batch.rows) - low) / width

    @torch.no_grad()
    def _remember(self, logits: dict[str, Tensor], batch: Batch, engine: Step) -> None:
        for name, values in logits.items():
            costs = F.cross_entropy(full_precision(values), batch.labels, reduction="none")
            present = batch.has(name)
            engine.samples.add(name, batch, costs if present is None else torch.where(present, costs, 0))
