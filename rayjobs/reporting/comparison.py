"""What each method adds to the reference, paired by test sample or by fold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from mmcore.analysis import fold_statistics
from mmcore.analysis.intervals import MIN_SEEDS, choose_clusters, mean_interval, paired_bootstrap
from mmcore.analysis.sign_flips import compare_split
from mmcore.analysis.words import Word, judge_folds, judge_split
from mmcore.data.splits import Assignment, hold_several
from mmcore.errors import DataError
from rayjobs.reporting.finals import Final, Finals, accuracies_of, flattened
from rayjobs.reporting.ranking_table import Delta

MARGIN, MARGIN_TEXT = 0.01, "1 point"
"""How large a difference in accuracy does not matter."""
OVER_FOLDS = (
    "Intervals are over the folds (Student's t), differences paired by fold. The folds share training samples, so the "
    "intervals are a little too narrow."
)
OVER_CLUSTERS = "Intervals are by paired bootstrap over {units} of test and the seeds, each for itself."


def all_folds(line: str) -> str:
    """Returns a protocol's line for all its folds: `cv over groups (6 folds, seed 0)`."""
    return re.sub(r"fold \d+ of (\d+)", r"all \1 folds", line)


def compare_seeds(finals: Finals, reference: str | None) -> tuple[dict[str, Delta], str]:
    """Returns row -> what it adds to the reference, and what must be printed beside the intervals."""
    base = flattened(finals.get(reference or "", []))
    if not base:
        return {}, _no_reference(finals, reference)
    clusters, note = choose_clusters(base[0].groups.tolist(), base[0].sources.tolist())
    deltas, found = {}, {}
    for label, folds in finals.items():
        own = flattened(folds)
        if label == reference or len(own) != len(base):
            continue
        _check_paired(label, reference, [*own, *base])
        answers = [final.correct for final in own], [final.correct for final in base]
        interval = paired_bootstrap(*answers, clusters)
        if interval:
            found[label] = compare_split(*answers, clusters)
            deltas[label] = Delta(mean=interval.mean, low=interval.low, high=interval.high)
        else:
            difference = mean_interval(accuracies_of(own))[0] - mean_interval(accuracies_of(base))[0]
            deltas[label] = Delta(mean=difference, low=None, high=None)
    if len(base) < MIN_SEEDS:
        return deltas, f"No interval: fewer than {MIN_SEEDS} final seeds."
    grouped = hold_several(base[0].groups, base[0].sources)
    verdicts = judge_split(found, held_out="groups" if grouped else "") if found else {}
    words = {label: verdict.word.stating(MARGIN_TEXT) for label, verdict in verdicts.items() if verdict.word}
    deltas = {label: replace(delta, word=words.get(label)) for label, delta in deltas.items()}
    notes = [
        OVER_CLUSTERS.format(units=_units(base[0], clusters)) if found else "",
        f"The intervals hold {note}: nothing is claimed beyond them." if note else "",
        _said(words, reference, f"the exact test by flipped signs, for these training data (Holm over {len(words)})"),
    ]
    return deltas, " ".join(filter(None, notes))


def _units(final: Final, clusters: np.ndarray) -> str:
    """Returns what an interval's clusters are, with their number: `12 groups`."""
    number = len(set(clusters.tolist()))
    if number == len(clusters):
        return f"{number} samples"
    return f"{number} groups" if number == len(set(final.groups.tolist())) else f"{number} recordings"


def compare_folds(finals: Finals, reference: str | None, rho: float) -> tuple[dict[str, Delta], str]:
    """As `compare_seeds`, paired by fold: the folds' mean difference, its interval over the folds, and the word.

    Args:
        finals: Row -> fold -> seed.
        reference: The row the others are compared with.
        rho: `rho_of`.
    """
    base = finals.get(reference or "", [])
    if not all(base) or not base:
        return {}, _no_reference(finals, reference)
    deltas, found = {}, {}
    for label, own in finals.items():
        if label == reference or not own or not all(own):
            continue
        for mine, theirs in zip(own, base, strict=True):
            _check_paired(label, reference, [*mine, *theirs])
        deltas[label] = fold_difference([accuracies_of(of_fold) for of_fold in own], [accuracies_of(x) for x in base])
        found[label] = fold_statistics.compare_folds(deltas[label].folds or [], rho, MARGIN, _disagreements(own, base))
    verdicts = judge_folds(found) if found else {}
    words = {label: verdict.word.stating(MARGIN_TEXT) for label, verdict in verdicts.items() if verdict.word}
    deltas = {label: replace(delta, word=words.get(label)) for label, delta in deltas.items()}
    how = f"a test that allows for that (corrected t, Holm over {len(words)}, margin {MARGIN_TEXT})"
    return deltas, f"{OVER_FOLDS} {_said(words, reference, how)}".strip()


def rho_of(index: pa.Table, assignments: Sequence[Assignment]) -> float:
    """Returns the folds' mean of test by training size, in groups where samples of one group belong together."""
    groups, sources = index["group"].to_numpy(), index["source"].to_numpy()
    by_group = hold_several(groups, sources)

    def size(rows: np.ndarray) -> int:
        return len(set(groups[rows])) if by_group else len(rows)

    sizes = [(size(assignment.test), size(assignment.train)) for assignment in assignments]
    return fold_statistics.mean_rho(*zip(*sizes, strict=True))


def _disagreements(
    own: Sequence[Sequence[Final]], base: Sequence[Sequence[Final]]
) -> list[fold_statistics.Disagreement] | None:
    """Returns where two methods differ on each fold; None where they have not as many models."""
    if any(len(mine) != len(theirs) for mine, theirs in zip(own, base, strict=True)):
        return None
    return [
        fold_statistics.fold_disagreement([one.correct for one in mine], [one.correct for one in theirs])
        for mine, theirs in zip(own, base, strict=True)
    ]


def _said(words: Mapping[str, str], reference: str | None, how: str) -> str:
    """Returns what a test says that allows for several comparisons; "" where there is none.

    Args:
        words: Row -> word.
        reference: The row the others are compared with.
        how: Which test it is.
    """
    open_ones = [label for label, word in words.items() if word == Word.UNDECIDED]
    rows = [f"{label} {word}" for label, word in words.items() if word != Word.UNDECIDED]
    if open_ones:
        rows.append(f"{', '.join(open_ones)} cannot be told apart from {reference}, whatever the order")
    return f"By {how}: {'; '.join(rows)}." if rows else ""


def fold_difference(own: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> Delta:
    """Returns the mean over folds of own - base, each a mean over its seeds, and its interval over the folds.

    Args:
        own: Fold -> seed -> accuracy.
        base: The same of what it is compared with, on the same folds.
    """
    differences = [mean_interval(a)[0] - mean_interval(b)[0] for a, b in zip(own, base, strict=True)]
    mean, half_width = mean_interval(differences)
    return Delta(
        mean=mean,
        low=None if half_width is None else mean - half_width,
        high=None if half_width is None else mean + half_width,
        folds=differences,
    )


def _no_reference(finals: Finals, reference: str | None) -> str:
    trained = any(flattened(folds) for folds in finals.values())
    return f"No differences: {reference} has no final model, or not all of them." if reference and trained else ""


def _check_paired(method: str, reference: str | None, finals: Sequence[Final]) -> None:
    """Raises a DataError where models were tested on different samples."""
    if any(not np.array_equal(final.sample_ids, finals[-1].sample_ids) for final in finals):
        raise DataError(f"{method} and {reference} were tested on different samples: they cannot be compared")
