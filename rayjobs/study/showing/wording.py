"""Numbers and words of a study as a reader gets them: the same in the page, in the terminal and in the tables."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from mmcore.metric_names import ACCURACY, CALIBRATION_ERROR, LOSS, MACRO_F1, MEAN_AVERAGE_PRECISION
from rayjobs.study.document import Comparison, Ends, ScoreEntry

MISSING = "–"
FAILED = "F"
"""In place of a number that a failed method does not have."""
LEFT_OUT = "left out"
"""In place of the number of one that a race left out."""
NOT_OF_A_MODALITY = (ACCURACY, MACRO_F1, CALIBRATION_ERROR, LOSS, MEAN_AVERAGE_PRECISION)
SMALLEST_P = 0.001
"""A smaller p is not told by its digits."""


def known(value: float | None) -> bool:
    """Tells whether there is such a number: None and NaN are none."""
    return value is not None and math.isfinite(value)


def number(value: float | None, decimals: int = 1) -> str:
    """Returns `91.2`."""
    return MISSING if value is None or not known(value) else f"{value:.{decimals}f}"


def signed(value: float | None, decimals: int = 1) -> str:
    """Returns `+1.4`."""
    # Adding 0 takes the sign of what rounds to nothing.
    return MISSING if value is None or not known(value) else f"{round(value, decimals) + 0.0:+.{decimals}f}"


def interval(ends: Ends | None) -> str:
    """Returns `[-0.7, +3.4]`."""
    if ends is None or not all(known(end) for end in ends):
        return MISSING
    return f"[{signed(ends[0])}, {signed(ends[1])}]"


def p_value(p: float | None) -> str:
    """Returns `0.012`, or `<0.001`."""
    if p is None or not known(p):
        return MISSING
    return f"<{SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def percent(share: float | None) -> str:
    """Returns `12 %` of a share in [0, 1]."""
    return MISSING if share is None or not known(share) else f"{100 * share:.0f} %"


def three(shares: tuple[float, float, float] | None) -> str:
    """Returns `2 / 91 / 7 %`: worse, within the margin, better."""
    if shares is None or not all(known(share) for share in shares):
        return MISSING
    return " / ".join(f"{100 * share:.0f}" for share in shares) + " %"


def count(value: int | None) -> str:
    """Returns `12,345`."""
    return MISSING if value is None else f"{value:,}"


def points(value: float) -> str:
    """Returns `1 point`, `0.5 points`."""
    return f"{value:g} {'point' if value == 1 else 'points'}"


def score(entry: ScoreEntry) -> str:
    """Returns `91.2 ± 0.8`, `91.2` under 3 folds, or why there is none: `F`, `left out`."""
    if entry.status != "done" or not known(entry.mean):
        return without(entry)
    half = f" ± {number(entry.half_width)}" if known(entry.half_width) else ""
    return number(entry.mean) + half


def without(entry: ScoreEntry) -> str:
    """Returns what stands in place of a number that a method has not: `F`, `left out`, or a dash."""
    return {"failed": FAILED, "left out": LEFT_OUT}.get(entry.status, MISSING)


def without_word(entry: ScoreEntry, primary: str, references: Collection[str]) -> str:
    """Returns what stands in place of a word where a method is not compared with the primary reference."""
    if entry.method == primary:
        return "the reference"
    return "a reference" if entry.status == "done" and entry.method in references else without(entry)


def why_without(entry: ScoreEntry) -> str:
    """Returns why a method has no result, as a sentence; "" where it has one."""
    if entry.status == "failed":
        return f"{entry.method} failed: {entry.reason}. It is not averaged over the folds that worked."
    if entry.status == "left out":
        return f"{entry.method} was left out by the race: {entry.reason}. No word is said of it."
    return ""


def word(comparison: Comparison | None) -> str:
    """Returns the word a comparison ends in; a mark where there is none."""
    return comparison.word or MISSING if comparison else MISSING


def is_better(text: str | None) -> bool:
    """Tells whether a word says better, by however little: that alone may be bold."""
    return bool(text) and str(text).startswith("better")


def is_equivalent(text: str | None) -> bool:
    """Tells whether a word says that a difference does not matter: equivalent, or there but under the margin."""
    return bool(text) and ("equivalent" in str(text) or ", by less than" in str(text))


def short_word(text: str) -> str:
    """Returns a word as it fits beside a figure, without its margin: `equivalent`, `better, < δ`."""
    if ", by less than" in text:
        return text.partition(",")[0] + ", < δ"
    return text.partition(" within")[0].partition(" than")[0]


def modalities(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """Returns the modalities that any of some models has an accuracy of, in the order they come."""
    names = dict.fromkeys(name for each in metrics for name in each)
    return [name for name in names if name not in NOT_OF_A_MODALITY]


def shortened(label: str, most: int = 18) -> str:
    """Returns a label as it fits beside a figure: variants differ at its end, so its middle goes where it is long."""
    return label if len(label) <= most else f"{label[: most - most // 2]}…{label[1 - most // 2 :]}"


def folds_text(folds: Sequence[int]) -> str:
    """Returns `folds 0 to 5`, `folds 0, 2, 3`, `fold 1`."""
    if not folds:
        return "no fold"
    if len(folds) == 1:
        return f"fold {folds[0]}"
    if len(folds) > 2 and list(folds) == list(range(folds[0], folds[-1] + 1)):
        return f"folds {folds[0]} to {folds[-1]}"
    return "folds " + ", ".join(map(str, folds))
