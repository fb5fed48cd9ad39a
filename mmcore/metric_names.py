"""The names of metrics: built here, and taken apart here alone.

In an epoch's row (`metrics.jsonl`, TensorBoard):

    val/<head>/<metric>                        head: `fused` or a modality
    train/<term>/loss, train/total/loss
    train/<group>/gradient_norm                group: encoder/<modality>, head/<modality>, fusion
    train/<group>/added_<i>/moved
    train/encoder/<modality>/cosine
    train/samples                              of epochs that the method plans
    method/<name>
    time/epoch_s, time/samples_per_s

In what one evaluation gives (test, in `result.json`): `<head>/<metric>` and `<head>/class_<i>/accuracy`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

FUSED = "fused"
"""Head of a method's own prediction; the others are the modalities'."""

ACCURACY = "accuracy"
PROBE_ACCURACY = "probe_accuracy"
"""Accuracy of a linear probe on a modality's features, where it has no head of its own."""
MACRO_F1 = "macro_f1"
MEAN_AVERAGE_PRECISION = "map"
CALIBRATION_ERROR = "ece"
LOSS = "loss"

EPOCH_SECONDS = "time/epoch_s"
SAMPLES_PER_SECOND = "time/samples_per_s"
LEARNING_RATE = "train/lr"
TRAIN_SAMPLES = "train/samples"
"""Samples that an epoch gave, each as often as it came; only where the method planned the epoch."""


def of_head(head: str, metric: str) -> str:
    """Returns the name of a head's metric in one evaluation."""
    return f"{head}/{metric}"


def of_class(number: int) -> str:
    """Returns the metric of a head that is its accuracy on one class."""
    return f"class_{number}/{ACCURACY}"


def val(name: str) -> str:
    """Returns the name that a metric of an evaluation has in an epoch's row."""
    return f"val/{name}"


def train(name: str) -> str:
    """Returns the name that a number of the epoch's training has in its row."""
    return f"train/{name}"


def train_loss(term: str) -> str:
    """Returns the name of a term of the training loss, `total` for their sum."""
    return train(f"{term}/{LOSS}")


def gradient_norm(group: str) -> str:
    """Returns the name of a parameter group's gradient norm."""
    return train(f"{group}/gradient_norm")


def gradient_cosine(modality: str) -> str:
    """Returns the name of the cosine of an encoder's joint and own gradient."""
    return train(f"encoder/{modality}/cosine")


def of_method(name: str) -> str:
    """Returns the name of one of the method's own numbers."""
    return f"method/{name}"


def moved(group: str, number: int) -> str:
    """Returns the name of how far a group's addition has moved; `number` counts from 1."""
    return train(f"{group}/added_{number}/moved")


def additions(row: Iterable[str], modality: str) -> list[str]:
    """Returns the names in an epoch's row of how far each addition to a modality's head has moved, oldest first."""
    start = train(f"head/{modality}/added_")
    names = [name for name in row if name.startswith(start)]
    return sorted(names, key=lambda name: int(name.removeprefix(start).split("/")[0]))


FUSED_ACCURACY = of_head(FUSED, ACCURACY)
VAL_ACCURACY = val(FUSED_ACCURACY)
VAL_LOSS = val(of_head(FUSED, LOSS))


def own_metrics(names: Collection[str], *, probes: bool = True) -> dict[str, str]:
    """Returns modality -> the name of its own accuracy: by its head where it has one, else by its linear probe.

    Args:
        names: The metrics of one evaluation, or of an epoch's row, where those of validation count.
        probes: Whether a probe counts where a modality has no head.
    """
    own = [name.removeprefix(val("")).split("/") for name in names]
    heads = dict.fromkeys(parts[0] for parts in own if len(parts) == 2 and parts[0] != FUSED)
    found: dict[str, str] = {}
    for head, metric in itertools.product(heads, (ACCURACY, PROBE_ACCURACY) if probes else (ACCURACY,)):
        for name in (of_head(head, metric), val(of_head(head, metric))):
            if name in names:
                found.setdefault(head, name)
    return found


def own_accuracies(row: Mapping[str, Any], *, probes: bool = True) -> dict[str, float]:
    """Returns modality -> its own validation accuracy in an epoch's row, as `own_metrics` chooses it."""
    return {modality: row[name] for modality, name in own_metrics(row, probes=probes).items()}
