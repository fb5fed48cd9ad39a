"""From the predictions of all ranks on a split to what they are worth.

What a modality's own head or probe is worth is measured on the samples that have the modality. A sample that has none
of the method's modalities leaves nothing to predict from: its fused answer is the classes' frequencies.

Shape legend: N samples of a split, B samples of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcore import distributed
from mmcore.batch import Batch
from mmcore.evaluation.metrics import evaluate_logits
from mmcore.methods.base import FUSED
from mmcore.metric_names import LOSS, PROBE_ACCURACY, of_head

PROBE = "/probe"
"""Ends the name of a probe's logits."""


@dataclass
class Evaluation:
    """Predictions on a whole split and what they are worth.

    Attributes:
        metrics: "<head>/<metric>" -> value; heads are "fused" and the modalities.
        logits: Head -> (N, K) on the CPU, in the order of `Loader.rows`.
        labels: (N,) int64 on the CPU.
        present: Modality -> (N,) bool on the CPU, for modalities that may be missing.
    """

    metrics: dict[str, float]
    logits: dict[str, Tensor]
    labels: Tensor
    present: dict[str, Tensor] = field(default_factory=dict)


class Collector:
    """Takes the predictions of this rank batch by batch.

    Args:
        modalities: Those the method predicts from.
        num_classes: K.
        log_prior: Returns the logits (K,) of a sample that has none of them; asked only where there is one.
        device: Where the predictions are.
        dtype: Type of the logits kept.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        num_classes: int,
        log_prior: Callable[[], Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ):
        self._modalities = modalities
        self._num_classes = num_classes
        self._log_prior = log_prior
        self._device = device
        self._dtype = dtype
        self._logits: dict[str, list[Tensor]] = {}
        self._present: dict[str, list[Tensor]] = {}
        self._labels: list[Tensor] = []

    def add(self, batch: Batch, logits: Mapping[str, Tensor]) -> None:
        """Takes the logits (B, K) of a batch by head."""
        answerable = batch.has_any(*self._modalities)
        for name, values in logits.items():
            values = values.to(self._dtype)
            if name == FUSED and answerable is not None:
                values = torch.where(answerable[:, None], values, self._log_prior().to(values))
            self._logits.setdefault(name, []).append(values)
        for name, mask in batch.present.items():
            self._present.setdefault(name, []).append(mask)
        self._labels.append(batch.labels)

    def finish(self, *, full: bool) -> Evaluation:
        """Returns the evaluation over all ranks; every rank must call it.

        Args:
            full: Also the metrics that cost more (mAP, calibration error, per class).
        """
        none = torch.zeros(0, dtype=torch.int64, device=self._device)
        labels = distributed.gather_rows(torch.cat(self._labels) if self._labels else none).cpu()
        empty = torch.zeros(0, self._num_classes, device=self._device, dtype=self._dtype)
        logits = _gather(self._logits, empty)
        present = _gather(self._present, none.bool())
        metrics: dict[str, float] = {}
        for name, values in logits.items():
            mask = present.get(name.removesuffix(PROBE))
            if mask is None:
                metrics |= head_metrics(name, values, labels, full=full)
            elif mask.any():
                metrics |= head_metrics(name, values[mask], labels[mask], full=full)
        return Evaluation(metrics, logits, labels, present)


def log_prior(labels: Tensor, num_classes: int) -> Tensor:
    """Returns the logarithms (K,) of the classes' frequencies among `labels` (N,), each counted once more than it is.

    The one more keeps a class that training never saw from an infinite loss.
    """
    counts = torch.bincount(labels, minlength=num_classes).double() + 1
    return (counts / counts.sum()).log()


def _gather(parts: Mapping[str, list[Tensor]], empty: Tensor) -> dict[str, Tensor]:
    """Returns name -> the rows of all ranks; a rank without a share knows no names, and has `empty`."""
    names = distributed.broadcast_object(list(parts))
    return {name: distributed.gather_rows(torch.cat(parts[name]) if parts else empty).cpu() for name in names}


def head_metrics(name: str, logits: Tensor, labels: Tensor, *, full: bool) -> dict[str, float]:
    """Returns "<head>/<metric>" -> value of a head's logits (N, K); of a probe the accuracy alone."""
    if name.endswith(PROBE):
        right = (logits.argmax(dim=1) == labels).double().mean()
        return {of_head(name.removesuffix(PROBE), PROBE_ACCURACY): float(right)}
    found = evaluate_logits(logits, labels, logits.shape[1], full=full)
    metrics = {of_head(name, LOSS): float(F.cross_entropy(logits, labels))}
    return metrics | {of_head(name, metric): float(value) for metric, value in found.items()}
