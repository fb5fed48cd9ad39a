"""Each method against each reference on each data set: differences in points, and the word they end in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcore.analysis.fold_statistics import (
    MIN_FOLDS,
    Disagreement,
    FoldComparison,
    compare_folds,
    fold_disagreement,
    outlook,
    variance_components,
)
from mmcore.analysis.intervals import MIN_GROUPS, paired_bootstrap
from mmcore.analysis.sign_flips import SplitComparison, compare_split
from mmcore.analysis.words import Verdict, ceiling_note, judge_folds, judge_split
from mmcore.errors import DataError
from rayjobs.study.document import Comparison
from rayjobs.study.judging.blocks import FIT, POINTS, PRIMARY, Blocks, blocks_of, counted, fit_label, points
from rayjobs.study.judging.power import Folding
from rayjobs.study.results import FinalModel, StudyResults

OF_THESE_DATA = "for these training data"
"""What every statement of a single split is of."""


def comparisons_of(results: StudyResults) -> list[Comparison]:
    """Returns all comparisons of a study, by data set, family and method.

    A method that failed has none; its family is corrected as if it had.

    Raises:
        DataError: Models of one fold were tested on different samples, or on other data.
    """
    return [
        comparison
        for blocks in blocks_of(results)
        if blocks.folds
        for family, rivals in _families(blocks)
        for comparison in _compared(family, rivals)
    ]


@dataclass(frozen=True)
class _Pair:
    """A method and its reference, fold by fold.

    Attributes:
        differences: (k,) points, each of the means over all seeds.
        by_seed: Fold -> (S,) points, of the seeds that both have.
        own: Fold -> (S, N) bool, right answers of the method's models of these seeds.
        others: The same of the reference.
        reference_errors: On all folds, mean over seeds.
        lost: Final models that failed, of both.
    """

    differences: list[float]
    by_seed: list[NDArray[np.float64]]
    own: list[NDArray[np.bool_]]
    others: list[NDArray[np.bool_]]
    reference_errors: float
    lost: int

    @property
    def disagreements(self) -> list[Disagreement]:
        """One a fold."""
        return [fold_disagreement(a, b) for a, b in zip(self.own, self.others, strict=True)]

    @property
    def num_samples(self) -> int:
        """Of all folds."""
        return sum(fold.shape[1] for fold in self.own)

    def alone(self) -> tuple[float, float]:
        """Returns how many samples the method and the reference alone answered rightly, means over seeds, summed."""
        found = self.disagreements
        return sum(x.only_a / x.num_seeds for x in found), sum(x.only_b / x.num_seeds for x in found)


Rivals = Mapping[str, Sequence[Sequence[FinalModel]]]
"""Label -> fold -> models."""


@dataclass(frozen=True)
class _Family:
    """What is corrected together: all methods against one reference on one data set.

    Attributes:
        blocks: The data set.
        name: As `Comparison.family`.
        reference: Label of the reference.
        size: How many comparisons it is corrected for.
    """

    blocks: Blocks
    name: str
    reference: str
    size: int

    def word(self, verdict: Verdict) -> str | None:
        """Returns a verdict's word with the margin in it."""
        return verdict.word.stating(points(self.blocks.margin)) if verdict.word else None


def _families(blocks: Blocks) -> Iterator[tuple[_Family, Rivals]]:
    """Yields each family with who can be compared in it; last the methods' fitted sums against the first reference."""
    families = blocks.families()
    for name, (reference, labels) in families.items():
        rivals = {label: models for label in labels if (models := blocks.models(label))}
        yield _Family(blocks, name, reference, blocks.family_size(reference)), rivals
    reference, labels = families[PRIMARY]
    fits = {fit_label(label): models for label in labels if (models := blocks.fits(label))}
    yield _Family(blocks, FIT, reference, len(fits)), fits


def _compared(family: _Family, rivals: Rivals) -> list[Comparison]:
    base = family.blocks.models(family.reference)
    if not base or not rivals:
        return []
    for label, models in rivals.items():
        _check_paired(family.blocks.dataset, (label, family.reference), models, base)
    pairs = {label: _pair(models, base) for label, models in rivals.items()}
    return _of_split(family, pairs) if family.blocks.is_split else _over_folds(family, pairs)


def _pair(own: Sequence[Sequence[FinalModel]], base: Sequence[Sequence[FinalModel]]) -> _Pair:
    differences, by_seed, a, b, errors = [], [], [], [], 0.0
    for mine, theirs in zip(own, base, strict=True):
        differences.append(POINTS * (_accuracy(mine) - _accuracy(theirs)))
        errors += (1 - _accuracy(theirs)) * len(theirs[0].final.correct)
        mine, theirs = _of_same_seeds(mine, theirs)
        a.append(np.array([model.final.correct for model in mine]))
        b.append(np.array([model.final.correct for model in theirs]))
        by_seed.append(POINTS * (a[-1].mean(axis=1) - b[-1].mean(axis=1)))
    most = max(len(models) for models in (*own, *base))
    lost = sum(most - len(models) for models in (*own, *base))
    return _Pair(differences, by_seed, a, b, errors, lost)


def _accuracy(models: Sequence[FinalModel]) -> float:
    return float(np.mean([model.final.correct.mean() for model in models]))


def _of_same_seeds(
    own: Sequence[FinalModel], base: Sequence[FinalModel]
) -> tuple[Sequence[FinalModel], Sequence[FinalModel]]:
    """Returns the models of the seeds that both have; where there is none, as many as both have."""
    common = {model.number for model in own} & {model.number for model in base}
    if common:
        return [x for x in own if x.number in common], [x for x in base if x.number in common]
    count = min(len(own), len(base))
    return own[:count], base[:count]


def _over_folds(family: _Family, pairs: Mapping[str, _Pair]) -> list[Comparison]:
    blocks = family.blocks
    found = {
        label: compare_folds(pair.differences, blocks.rho, blocks.margin, pair.disagreements, scale=POINTS)
        for label, pair in pairs.items()
    }
    verdicts = judge_folds(found, blocks.terms.alpha, family.size)
    return [_fold_comparison(family, label, pair, found[label], verdicts[label]) for label, pair in pairs.items()]


def _fold_comparison(family: _Family, label: str, pair: _Pair, found: FoldComparison, verdict: Verdict) -> Comparison:
    blocks, tests, (only_a, only_b) = family.blocks, found.tests, pair.alone()
    components = variance_components(pair.by_seed)
    return Comparison(
        dataset=blocks.dataset,
        a=label,
        b=family.reference,
        family=family.name,
        d=found.difference,
        folds=pair.differences,
        s_d=found.deviation if found.num_folds > 1 else None,
        k=found.num_folds,
        rho=found.rho,
        plain=(tests.plain.low, tests.plain.high) if tests else None,
        corrected=(tests.corrected.low, tests.corrected.high) if tests else None,
        p=tests.p if tests else None,
        p_holm=verdict.p,
        p_tost=tests.p_equivalent if tests else None,
        p_tost_holm=verdict.p_equivalent,
        p_not_worse_holm=verdict.p_not_worse,
        bayes=(tests.posterior.worse, tests.posterior.within, tests.posterior.better)
        if tests and tests.posterior
        else None,
        p_win=found.share_won,
        variance=(components.fold, components.seed) if components else None,
        narrows=_narrows(blocks, pair),
        only_a=only_a,
        only_b=only_b,
        word=family.word(verdict),
        note=_joined(
            verdict.note,
            "" if tests else f"fewer than {MIN_FOLDS} folds: differences alone",
            *_notes(blocks, pair),
        ),
    )


def _narrows(blocks: Blocks, pair: _Pair) -> str:
    """Returns which of one more fold and one more seed narrows the deciding interval more; "" where not known."""
    components, folds = variance_components(pair.by_seed), len(pair.differences)
    if components is None:
        return ""
    seeds = max(len(of_fold) for of_fold in pair.by_seed)
    more = Folding.of(blocks.cells, folds).rho(folds + 1)
    return outlook(components, folds, seeds, blocks.rho, more).narrows_more


def _of_split(family: _Family, pairs: Mapping[str, _Pair]) -> list[Comparison]:
    blocks = family.blocks
    clusters, _ = blocks.clusters
    found = {label: compare_split(list(pair.own[0]), list(pair.others[0]), clusters) for label, pair in pairs.items()}
    held_out = "groups" if blocks.cells[0].by_group else ""
    verdicts = judge_split(found, blocks.terms.alpha, family.size, held_out=held_out)
    return [_split_comparison(family, label, pair, found[label], verdicts[label]) for label, pair in pairs.items()]


def _split_comparison(family: _Family, label: str, pair: _Pair, found: SplitComparison, verdict: Verdict) -> Comparison:
    blocks, (only_a, only_b) = family.blocks, pair.alone()
    clusters, cluster_note = blocks.clusters
    interval = paired_bootstrap(list(pair.own[0]), list(pair.others[0]), clusters)
    same = "" if only_a + only_b else f"differ in 0 of {pair.num_samples}"
    return Comparison(
        dataset=blocks.dataset,
        a=label,
        b=family.reference,
        family=family.name,
        d=POINTS * found.difference,
        folds=[POINTS * found.difference],
        s_d=None,
        k=1,
        rho=blocks.rho,
        plain=(POINTS * interval.low, POINTS * interval.high) if interval else None,
        corrected=None,
        p=found.p,
        p_holm=verdict.p,
        p_tost=None,
        p_tost_holm=None,
        p_not_worse_holm=None,
        bayes=None,
        p_win=None,
        variance=None,
        narrows="",
        only_a=only_a,
        only_b=only_b,
        word=family.word(verdict),
        note=_joined(OF_THESE_DATA, verdict.note, cluster_note, same, *_notes(blocks, pair)),
    )


def _notes(blocks: Blocks, pair: _Pair) -> list[str]:
    cell, (only_a, only_b) = blocks.cells[0], pair.alone()
    few = cell.by_group and not blocks.is_split and (cell.groups or MIN_GROUPS) < MIN_GROUPS
    return [
        "" if blocks.is_whole else f"{len(blocks.folds)} of {len(blocks.planned)} folds so far",
        "within these groups" if few else "",
        ceiling_note(round(pair.reference_errors, 1), pair.num_samples, round(only_a), round(only_b)),
        f"{counted(pair.lost, 'final model')} failed: the means are of the others" if pair.lost else "",
    ]


def _joined(*notes: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, notes)))


def _check_paired(
    dataset: str, labels: tuple[str, str], own: Sequence[Sequence[FinalModel]], base: Sequence[Sequence[FinalModel]]
) -> None:
    """Raises a DataError where models of one fold were tested on different samples."""
    for mine, theirs in zip(own, base, strict=True):
        ids = theirs[0].final.sample_ids
        for model in (*mine, *theirs):
            if model.final.sample_ids is not ids and not np.array_equal(model.final.sample_ids, ids):
                raise DataError(
                    f"{' and '.join(labels)} were tested on different samples of {dataset} ({model.folder}; "
                    f"{theirs[0].folder}): they cannot be compared"
                )
