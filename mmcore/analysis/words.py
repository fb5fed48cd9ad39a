"""The only words a comparison may end in, and the correction for several comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcore.analysis.fold_statistics import MIN_FOLDS_FOR_A_WORD, FoldComparison
from mmcore.analysis.intervals import finite
from mmcore.analysis.sign_flips import MIN_CLUSTERS, SplitComparison

ALPHA = 0.05
"""How often a word may be wrong, over a family."""
FEW_ERRORS = 20
"""Under so many errors of the reference, in all folds, there is nothing to tell methods apart by."""
CEILING = 0.99
"""Above this accuracy of the reference neither."""


class Word(StrEnum):
    """What may be said of A against B; δ stands for the margin."""

    BETTER = "better"
    BETTER_BY_LESS = "better, by less than δ"
    WORSE = "worse"
    WORSE_BY_LESS = "worse, by less than δ"
    EQUIVALENT = "equivalent within δ"
    NOT_WORSE = "not worse than δ"
    UNDECIDED = "undecided"

    def stating(self, margin: str) -> str:
        """Returns the word with the margin in it: `equivalent within 1 point`."""
        return self.value.replace("δ", margin)


@dataclass(frozen=True)
class Verdict:
    """What one comparison of a family ends in.

    Attributes:
        word: None where there is no test.
        p: Holm-corrected p of "no difference"; None where there is no test.
        p_equivalent: Holm-corrected; None where there is no such test.
        p_not_worse: Holm-corrected; None where there is no such test.
        note: What must be printed beside it, or "".
    """

    word: Word | None
    p: float | None = None
    p_equivalent: float | None = None
    p_not_worse: float | None = None
    note: str = ""


def holm(p_values: ArrayLike, family_size: int | None = None) -> NDArray[np.float64]:
    """Returns Holm's step-down corrected p, in the order given: reject where under α, and α holds over the family.

    Source: Holm 1979.

    Args:
        p_values: (m,) in [0, 1].
        family_size: How many the family was locked with, m or more: one that left without a test counts on.

    Raises:
        ValueError: A p is not in [0, 1], or the family is smaller than what is tested.
    """
    values = finite(p_values, "p values")
    size = len(values) if family_size is None else family_size
    if values.ndim != 1 or values.min() < 0 or values.max() > 1 or size < len(values):
        raise ValueError(
            f"holm needs p values (m,) in [0, 1] and a family of m or more, got {values.tolist()} of {size}"
        )
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * (size - np.arange(len(values))))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def judge_folds(
    comparisons: Mapping[str, FoldComparison], alpha: float = ALPHA, family_size: int | None = None
) -> dict[str, Verdict]:
    """Returns the word of each comparison of one family over folds.

    Each of the three questions (different? equivalent? not worse?) is corrected over the family by itself.

    Args:
        comparisons: Label -> what its differences say, all against one reference on one data set.
        alpha: In (0, 1).
        family_size: As `holm`.

    Raises:
        ValueError: α is out of its range, or the family smaller than what is tested.
    """
    _check(alpha, family_size, len(comparisons))
    tests = {label: found.tests for label, found in comparisons.items() if found.tests}
    size = len(comparisons) if family_size is None else family_size
    p = _corrected({label: test.p for label, test in tests.items()}, size)
    p_equivalent = _corrected({label: test.p_equivalent for label, test in tests.items()}, size)
    p_not_worse = _corrected({label: test.p_not_worse for label, test in tests.items()}, size)
    verdicts = {}
    for label, found in comparisons.items():
        if label not in tests:
            verdicts[label] = Verdict(None, note=_note(found))
            continue
        corrected = p[label], p_equivalent[label], p_not_worse[label]
        decided = [value < alpha and found.num_folds >= MIN_FOLDS_FOR_A_WORD for value in corrected]
        word = _word(found.difference, different=decided[0], equivalent=decided[1], not_worse=decided[2])
        verdicts[label] = Verdict(word, *corrected, note=_note(found))
    return verdicts


def judge_split(
    comparisons: Mapping[str, SplitComparison],
    alpha: float = ALPHA,
    family_size: int | None = None,
    *,
    held_out: str = "",
) -> dict[str, Verdict]:
    """Returns the word of each comparison of one family on a single split: of these training data alone.

    Args:
        comparisons: Label -> what the test clusters say.
        alpha: In (0, 1).
        family_size: As `holm`.
        held_out: What the clusters are in the plural ("speakers"), where a data set of groups was split once: one
            choice of them shows no difference beyond them, so nothing is better or worse. "" where samples are.

    Raises:
        ValueError: α is out of its range, or the family smaller than what is tested.
    """
    _check(alpha, family_size, len(comparisons))
    tests = {label: found for label, found in comparisons.items() if found.num_clusters >= MIN_CLUSTERS}
    size = len(comparisons) if family_size is None else family_size
    p = _corrected({label: test.p for label, test in tests.items()}, size)
    verdicts = {}
    for label, found in comparisons.items():
        if label not in tests:
            note = f"{found.num_clusters} test clusters: under {MIN_CLUSTERS} no p can be under .05"
            verdicts[label] = Verdict(None, note=note)
            continue
        different = p[label] < alpha and not held_out
        word = _word(found.difference, different=different, equivalent=False, not_worse=False)
        verdicts[label] = Verdict(word, p[label], note=f"within these {held_out}" if held_out else "")
    return verdicts


def _word(difference: float, *, different: bool, equivalent: bool, not_worse: bool) -> Word:
    if different and difference > 0:
        return Word.BETTER_BY_LESS if equivalent else Word.BETTER
    if different:
        return Word.WORSE_BY_LESS if equivalent else Word.WORSE
    if equivalent:
        return Word.EQUIVALENT
    return Word.NOT_WORSE if not_worse else Word.UNDECIDED


def ceiling_note(reference_errors: float, num_samples: int, only_a: int, only_b: int) -> str:
    """Returns a note where the reference leaves too few errors to compare by, else "".

    Args:
        reference_errors: Errors of the reference on the test samples of all folds, a mean over seeds.
        num_samples: Test samples of all folds.
        only_a: Samples that the method alone answered rightly.
        only_b: Samples that the reference alone answered rightly.
    """
    if reference_errors >= FEW_ERRORS and 1 - reference_errors / num_samples <= CEILING:
        return ""
    return (
        f"too few errors to compare: the reference errs on {reference_errors:g} of {num_samples}; "
        f"the method alone is right on {only_a}, the reference alone on {only_b}"
    )


def _note(found: FoldComparison) -> str:
    notes = []
    if found.num_folds < MIN_FOLDS_FOR_A_WORD:
        notes.append(f"k < {MIN_FOLDS_FOR_A_WORD}")
    if found.disagreement and found.identical:
        notes.append(f"differ in 0 of {found.disagreement.num_samples}")
    if found.tests and found.tests.floored:
        notes.append("the folds differ by less than one answer: variance of the test samples taken (McNemar)")
    elif found.tests and found.tests.posterior is None and not found.identical:
        notes.append("the folds do not differ at all: no variance to test by")
    return "; ".join(notes)


def _corrected(p_values: Mapping[str, float], size: int) -> dict[str, float]:
    if not p_values:
        return {}
    return dict(zip(p_values, holm(list(p_values.values()), size).tolist(), strict=True))


def _check(alpha: float, family_size: int | None, count: int) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    if family_size is not None and family_size < count:
        raise ValueError(f"family_size must be {count} or more, as many as are compared, got {family_size}")
