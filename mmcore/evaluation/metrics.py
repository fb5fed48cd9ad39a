"""How good predictions are, from the logits of every sample of a split.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcore.metric_names import ACCURACY, CALIBRATION_ERROR, MACRO_F1, MEAN_AVERAGE_PRECISION, of_class

NUM_CALIBRATION_BINS = 15


@torch.no_grad()
def evaluate_logits(logits: Tensor, labels: Tensor, num_classes: int, full: bool = True) -> dict[str, float]:
    """Returns the metrics of one prediction; the device is waited for once.

    Args:
        logits: (N, K) floating, any scale; the first of several largest is the answer.
        labels: (N,) int64.
        num_classes: K.
        full: Whether to compute more than accuracy and macro-F1, which alone take well under a millisecond.

    Returns:
        `accuracy`, `macro_f1` and, if `full`, `map`, `ece` and `class_<i>/accuracy` for each class that has
        samples; all in [0, 1], or all NaN if a logit is NaN.

    Raises:
        ValueError: There are no samples.
    """
    if not len(labels):
        raise ValueError("metrics need at least one sample")
    confusion = confusion_matrix(logits.argmax(dim=1), labels, num_classes)
    values = {ACCURACY: accuracy(confusion), MACRO_F1: macro_f1(confusion)}
    if full:
        probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
        values[MEAN_AVERAGE_PRECISION] = mean_average_precision(probabilities, labels)
        values[CALIBRATION_ERROR] = calibration_error(probabilities, labels)
        values |= {of_class(index): value for index, value in enumerate(recall(confusion))}
    numbers = torch.stack([value.double() for value in values.values()])
    # argmax would answer class 0 for a NaN, and be right now and then.
    numbers = torch.where(logits.isnan().any(), torch.nan, numbers)
    named = dict(zip(values, numbers.tolist(), strict=True))
    return {name: number for name, number in named.items() if not (name.startswith("class_") and math.isnan(number))}


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns (K, K) int64 counts, rows by label, columns by prediction, of (N,) class indices each."""
    pairs = labels * num_classes + predictions
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy(confusion: Tensor) -> Tensor:
    """Returns the share of right answers, a scalar in [0, 1]."""
    return confusion.diagonal().sum().double() / confusion.sum()


def recall(confusion: Tensor) -> Tensor:
    """Returns (K,) each class's share of right answers; NaN for a class that has no sample."""
    return confusion.diagonal().double() / confusion.sum(dim=1)


def macro_f1(confusion: Tensor) -> Tensor:
    """Returns the unweighted mean of F1 over all K classes; it is 0 for a class neither present nor predicted."""
    sizes = confusion.sum(dim=0) + confusion.sum(dim=1)
    return (2 * confusion.diagonal().double() / sizes.clamp(min=1)).mean()


def mean_average_precision(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Returns the unweighted mean, over the classes that have samples, of one-against-rest average precision.

    Average precision is the step-wise sum of precision over the increase of recall; equal scores share one
    threshold.

    Args:
        probabilities: (N, K), rows summing to 1.
        labels: (N,) int64.
    """
    # Imported here: torchmetrics takes longer to import than a short trial's epoch.
    from torchmetrics.functional.classification import multiclass_average_precision

    num_classes = probabilities.shape[1]
    present = torch.bincount(labels, minlength=num_classes) > 0
    scores = multiclass_average_precision(probabilities, labels, num_classes, average="none", validate_args=False)
    return torch.where(present, scores, torch.nan).nanmean()


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = NUM_CALIBRATION_BINS) -> Tensor:
    """Returns the expected calibration error: |confidence - accuracy| by bin, weighted by the bins' sizes.

    Bin b of n is [b/n, (b + 1)/n): an edge belongs to the bin above it, and 1 to the last one. (torchmetrics, which
    does the rest here, gives an exact 1 a bin of its own, so that overconfidence cannot make up for its neighbours.)

    Args:
        probabilities: (N, K), rows summing to 1; the largest is the confidence.
        labels: (N,) int64.
        num_bins: Bins of equal width over [0, 1].
    """
    confidence, answers = probabilities.max(dim=1)
    # The edges as numbers of the confidences' type, or an exact 0.2 in float32 could lie beside its edge.
    edges = (torch.arange(1, num_bins, dtype=torch.float64) / num_bins).to(confidence)
    bins = torch.bucketize(confidence, edges, right=True)
    gaps = confidence.double() - (answers == labels).double()
    return gaps.new_zeros(num_bins).index_add_(0, bins, gaps).abs().sum() / len(labels)
