"""What an epoch's numbers say, in words, and the one number that is measured for it: the cosine of two gradients.

A reading is said only where the numbers carry it. What a modality could reach is known from a reference alone, a run of
`unimodal` or `ensemble`, whose accuracies are handed in (`Facts.alone`); without one a modality is compared with its
own best epoch and with chance, and no reading speaks of being held back.

A modality's signal is the larger of two accuracies on validation: that of its own head, where the method has one, and
that of the linear probe on its features. Differences count from 5 points on, and from two standard errors of the
difference on where validation is small.

What a method adds to a modality's head can no longer learn if it was trained for three epochs or more, always at a rate
below the run's first, and has moved by less than 2 % of its initial weights' norm, ‖w - w0‖ / ‖w0‖. (On `digits` AUG's
classifiers added at a rate of 0.01 move 4 to 12 % in their first epoch, at 1e-5 0.02 % in all that follow.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mmcore.metric_names import (
    ACCURACY,
    LEARNING_RATE,
    PROBE_ACCURACY,
    additions,
    gradient_cosine,
    gradient_norm,
    of_head,
    val,
)

Row = Mapping[str, float]
COSINE_EVERY_STEPS = 100
"""Steps between two measurements of the cosine, at least: each costs one more backward pass, about half a step."""
PATIENCE_EPOCHS = 3
"""Epochs a modality must have stood still, or been in a state, before that is said."""
MIN_GAIN = 0.01
MIN_DIFFERENCE = 0.05
DEAD_NORM = 1e-12
MIN_MOVEMENT = 0.02
"""Share of its initial weights' norm that something added must have moved by, or it is said to learn no more."""
NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Facts:
    """What readings need beside the rows.

    Attributes:
        modalities: The method's, in their order.
        chance: Accuracy on validation of always answering its most frequent class.
        num_samples: Samples of validation.
        alone: Modality -> validation accuracy of a reference trained on it alone, as far as known.
    """

    modalities: Sequence[str]
    chance: float
    num_samples: int
    alone: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """Something an epoch's numbers say of a modality.

    Attributes:
        kind: `dead`, `at_chance`, `held_back` and `fallen` exclude each other, in this order; `apart` and `late` (what
            was added can no longer learn) may be said beside any.
        modality: The modality it speaks of.
        since: First epoch (from 1) of the unbroken stretch it holds for.
        text: The same in words, with its figures.
    """

    kind: Literal["dead", "at_chance", "held_back", "fallen", "apart", "late"]
    modality: str
    since: int
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return asdict(self)


def kept(row: Row, modalities: Sequence[str]) -> dict[str, float]:
    """Returns the part of an epoch's row that readings go by; a run keeps these of all its epochs."""
    names = [_own(name) for name in modalities] + [_probe(name) for name in modalities]
    names += [key(name) for name in modalities for key in (_norm, gradient_cosine)]
    names += [key for name in modalities for key in additions(row, name)]
    return {name: row[name] for name in ["epoch", LEARNING_RATE, *names] if name in row}


def readings(history: Sequence[Row], facts: Facts) -> list[Reading]:
    """Returns what the newest epoch says, modality by modality; of most epochs nothing.

    Args:
        history: The rows of all epochs so far (or what is `kept` of them), oldest first.
        facts: What they are to be compared with.
    """
    found = []
    for name in facts.modalities if history else ():
        is_measured = math.isfinite(_signal(history[-1], name)[0])
        states = (_dead, _at_chance, _held_back, _fallen) if is_measured else ()
        found += [reading for state in states if (reading := state(history, name, facts))][:1]
        found += [reading for reading in (_apart(history, name), _late(history, name)) if reading]
    return found


def _dead(history: Sequence[Row], name: str, facts: Facts) -> Reading | None:
    """Its encoder gets no gradient, and its own answers (its head's, else the probe's) are no better than chance."""

    def is_dead(row: Row) -> bool:
        own = row.get(_own(name), row.get(_probe(name), math.inf))
        return own <= facts.chance + 1e-9 and row.get(_norm(name), math.inf) <= DEAD_NORM

    since = _since(history, is_dead)
    if not since:
        return None
    return Reading("dead", name, since, f"{name}'s encoder is dead since epoch {since}: gradient norm 0")


def _at_chance(history: Sequence[Row], name: str, facts: Facts) -> Reading | None:
    limit = facts.chance + 2 * math.sqrt(facts.chance * (1 - facts.chance) / facts.num_samples)
    since = _since(history, lambda row: _signal(row, name)[0] <= limit)
    if not since or history[-1]["epoch"] - since + 1 < PATIENCE_EPOCHS:
        return None
    signal, by = _signal(history[-1], name)
    figures = f"its {by} is at {signal:.1%}, chance {facts.chance:.1%}"
    text = f"{name} is no better than chance since epoch {since}: {figures}"
    return Reading("at_chance", name, since, text)


def _held_back(history: Sequence[Row], name: str, facts: Facts) -> Reading | None:
    """Well under what it reaches alone, and not catching up: no gain of a point within the last epochs."""
    if name not in facts.alone:
        return None
    alone = facts.alone[name]
    best = _best_so_far(history, name)
    gained = {
        row["epoch"]: index < PATIENCE_EPOCHS or best[index] - best[index - PATIENCE_EPOCHS] >= MIN_GAIN
        for index, row in enumerate(history)
    }

    def is_held_back(row: Row) -> bool:
        signal = _signal(row, name)[0]
        return not gained[row["epoch"]] and alone - signal >= _margin(alone, signal, facts.num_samples)

    start = _since(history, is_held_back)
    if not start:
        return None
    since = start - PATIENCE_EPOCHS  # the last epoch that brought anything
    signal, by = _signal(history[-1], name)
    text = (
        f"{name} has been held back since epoch {since}: its {by} is {100 * (alone - signal):.0f} points under "
        f"{name} alone ({signal:.1%}, alone {alone:.1%})"
    )
    return Reading("held_back", name, since, text)


def _fallen(history: Sequence[Row], name: str, facts: Facts) -> Reading | None:
    """Well under its own best epoch."""
    best = {row["epoch"]: value for row, value in zip(history, _best_so_far(history, name), strict=True)}

    def has_fallen(row: Row) -> bool:
        signal, highest = _signal(row, name)[0], best[row["epoch"]]
        return highest - signal >= _margin(highest, signal, facts.num_samples)

    since = _since(history, has_fallen)
    if not since:
        return None
    (signal, by), highest = _signal(history[-1], name), best[history[-1]["epoch"]]
    text = (
        f"{name} has fallen back since epoch {since}: its {by} is {100 * (highest - signal):.0f} points under its own "
        f"best ({signal:.1%}, best {highest:.1%})"
    )
    return Reading("fallen", name, since, text)


def _apart(history: Sequence[Row], name: str) -> Reading | None:
    """The joint and the modality's own gradient pulled its encoder apart each time it was measured lately."""
    measured = [row for row in history if gradient_cosine(name) in row]
    since = _since(measured, lambda row: row[gradient_cosine(name)] < 0)
    if not since or sum(row["epoch"] >= since for row in measured) < PATIENCE_EPOCHS:
        return None
    newest = measured[-1][gradient_cosine(name)]
    text = (
        f"{name}'s encoder is pulled apart since epoch {since}: cosine {newest:.2f} between the joint and its own "
        "gradient"
    )
    return Reading("apart", name, since, text)


def _late(history: Sequence[Row], name: str) -> Reading | None:
    """The classifiers added to it last came when the rate had fallen so low that they hardly move."""

    def is_stuck(key: str) -> bool:
        rates = [row[LEARNING_RATE] for row in history if key in row]
        return max(rates) < history[0][LEARNING_RATE] and history[-1][key] < MIN_MOVEMENT

    stuck = list(itertools.takewhile(is_stuck, reversed(additions(history[-1], name))))
    if not stuck:
        return None
    rates = [row[LEARNING_RATE] for row in history if stuck[-1] in row]
    if len(rates) < PATIENCE_EPOCHS:
        return None
    since = _since(history, lambda row: row[LEARNING_RATE] <= max(rates))
    which = f"{_number(len(stuck))} classifiers" if len(stuck) > 1 else "classifier"
    moved = max(history[-1][key] for key in stuck)
    figures = f"{moved:.1%}{' at most' if len(stuck) > 1 else ''}"
    rate = f"{max(rates):.2g}{' or less' if history[-1][LEARNING_RATE] < max(rates) else ''}"
    text = f"rate {rate} since epoch {since}: the last {which} of {name} moved {figures}"
    return Reading("late", name, since, text)


def _since(history: Sequence[Row], holds: Callable[[Row], bool]) -> int:
    """Returns the first epoch of the unbroken stretch, up to the newest row, in which `holds`; 0: not in the newest."""
    stretch = list(itertools.takewhile(holds, reversed(history)))
    return int(stretch[-1]["epoch"]) if stretch else 0


def _signal(row: Row, name: str) -> tuple[float, str]:
    """Returns a modality's accuracy and by what it was measured; infinite where it was not."""
    known = [(row[key], by) for key, by in ((_probe(name), "probe"), (_own(name), "own head")) if key in row]
    return max(known, key=lambda pair: pair[0], default=(math.inf, "probe"))


def _best_so_far(history: Sequence[Row], name: str) -> list[float]:
    return list(itertools.accumulate((_signal(row, name)[0] for row in history), max))


def _margin(first: float, second: float, num_samples: int) -> float:
    variance = (first * (1 - first) + second * (1 - second)) / num_samples
    return max(MIN_DIFFERENCE, 2 * math.sqrt(variance))


def _number(count: int) -> str:
    return NUMBER_WORDS[count - 2] if count - 2 < len(NUMBER_WORDS) else str(count)


def _own(name: str) -> str:
    return val(of_head(name, ACCURACY))


def _probe(name: str) -> str:
    return val(of_head(name, PROBE_ACCURACY))


def _norm(name: str) -> str:
    return gradient_norm(f"encoder/{name}")
