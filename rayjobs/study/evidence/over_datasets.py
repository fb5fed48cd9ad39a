"""What several data sets say together: differences, ranks, and who is to be told apart from whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcore.analysis.profiles import common_scale, profile
from mmcore.analysis.rank_statistics import (
    MIN_SETS_FOR_PROBABILITIES,
    Friedman,
    alike_runs,
    datasets_needed,
    friedman,
    signed_rank_probabilities,
    wilcoxon,
)
from mmcore.analysis.words import holm
from rayjobs.study.document import Comparison, OverDatasets, PairOverSets, ScoreEntry
from rayjobs.study.judging.blocks import terms_now
from rayjobs.study.lock import Terms
from rayjobs.study.results import StudyResults

Table = Mapping[tuple[str, str], ScoreEntry]
"""Data set and label -> what it reaches."""


def over_datasets(
    results: StudyResults, scores: Sequence[ScoreEntry], comparisons: Sequence[Comparison]
) -> OverDatasets | None:
    """Returns what a study's data sets say together, each source counting once; None for one data set.

    A method that failed on a data set takes the rank of always answering the most frequent class there, and has no
    difference there. Where margins differ, probabilities are of differences in units of each set's own.

    Args:
        results: The study.
        scores: What each method reaches on each data set.
        comparisons: Each method's difference to the primary reference, on each data set.
    """
    if len(results.datasets) < 2:
        return None
    left_out = _left_out(results)
    units: dict[str, list[str]] = {}
    for each in results.cells:
        if each.cell.dataset not in left_out:
            units.setdefault(each.cell.unit, []).append(each.cell.dataset)
    sets = _Sets(
        units={unit: list(dict.fromkeys(names)) for unit, names in units.items()},
        chance={name: _chance(results, name) for name in results.datasets},
        scores={(score.dataset, score.method): score for score in scores},
        terms=terms_now(results),
        margins={name: results.study.margin_of(name) for name in results.datasets} | dict(terms_now(results).margins),
    )
    return _entry(sets, left_out, results.labels, comparisons)


@dataclass(frozen=True)
class _Sets:
    """The data sets that count.

    Attributes:
        units: Source -> the data sets that are variants of it.
        chance: Data set -> accuracy of always answering training's most frequent class, in points.
        scores: What each method reaches on each of them.
        terms: What the study fixed.
        margins: Data set -> δ, in points.
    """

    units: Mapping[str, Sequence[str]]
    chance: Mapping[str, float]
    scores: Table
    terms: Terms
    margins: Mapping[str, float]

    @property
    def names(self) -> list[str]:
        """All data sets, by unit."""
        return [name for names in self.units.values() for name in names]

    def everywhere(self, labels: Sequence[str]) -> list[str]:
        """Returns the methods that were tried on every data set to the end: they alone can be ranked."""
        return [label for label in labels if all(self._was_tried(name, label) for name in self.names)]

    def _was_tried(self, name: str, label: str) -> bool:
        """Tells whether a method was tried; who left a race has no mean, which is no failure."""
        return (name, label) in self.scores and self.scores[name, label].status != "left out"

    def succeeded(self, label: str) -> bool:
        """Tells whether a method has a result on every data set."""
        return all(self.scores[name, label].mean is not None for name in self.names)

    def score(self, unit: str, label: str) -> float:
        """Returns a method's accuracy on a source, the mean over its variants; of a failed one chance."""
        found = {name: self.scores[name, label].mean for name in self.units[unit]}
        return sum(self.chance[name] if mean is None else mean for name, mean in found.items()) / len(found)

    def margin(self, unit: str) -> float:
        """Returns δ of a source, the mean over its variants."""
        return sum(self.margins[name] for name in self.units[unit]) / len(self.units[unit])


def _chance(results: StudyResults, dataset: str) -> float:
    chances = [each.cell.chance for each in results.cells if each.cell.dataset == dataset]
    return 100 * sum(chances) / len(chances)


def _left_out(results: StudyResults) -> dict[str, str]:
    """Returns data set -> why it does not count among the others."""
    found = {}
    protocols = {name: _kinds(results, name) for name in results.datasets}
    for name in results.datasets:
        cells = [each.cell for each in results.cells if each.cell.dataset == name]
        if any(cell.constructed for cell in cells):
            found[name] = "it was constructed to show an effect"
        elif len({cell.fingerprint for cell in cells}) > 1:
            found[name] = "its cells are of data with different fingerprints"
        elif len(protocols[name]) > 1:
            found[name] = f"its cells are of different protocols: {', '.join(protocols[name])}"
        elif not results.complete_folds(name):
            found[name] = "no fold of it is finished by every method yet"
    counted = Counter(protocols[name][0] for name in results.datasets if name not in found)
    for name in results.datasets if len(counted) > 1 else ():
        usual = counted.most_common(1)[0][0]
        if name not in found and protocols[name][0] != usual:
            found[name] = f"its protocol is {protocols[name][0]}, that of most others {usual}"
    return found


def _kinds(results: StudyResults, dataset: str) -> list[str]:
    """Returns the protocols of a data set's cells by their first word, `cv`; seeds and folds aside."""
    lines = [each.cell.protocol for each in results.cells if each.cell.dataset == dataset]
    return list(dict.fromkeys(line.partition(" ")[0] for line in lines))


def _entry(
    sets: _Sets, left_out: Mapping[str, str], labels: Sequence[str], comparisons: Sequence[Comparison]
) -> OverDatasets:
    terms, units = sets.terms, list(sets.units)
    family = terms.families[terms.reference]
    needed = datasets_needed(max(1, len(family)), terms.alpha)
    ranked = sets.everywhere(labels) if len(units) > 1 else []
    table = np.array([[sets.score(unit, label) for label in ranked] for unit in units]).reshape(len(units), len(ranked))
    found = friedman(table) if len(ranked) > 1 else None
    bars = alike_runs(table, terms.alpha) if len(ranked) > 1 else None
    notes = [_size_note(len(units), needed)]
    others = [label for label in labels if label not in ranked]
    if len(units) > 1 and others:
        notes.append(f"not ranked, since not tried on all of every data set: {', '.join(others)}")
    profiles, unscaled = _profiles(sets, ranked)
    if unscaled:
        notes.append(f"{terms.reference} is no better than chance on {', '.join(unscaled)}: not on the common scale")
    return OverDatasets(
        units=units,
        left_out=dict(left_out),
        friedman=_figures(found) if found else None,
        ranks=dict(zip(ranked, found.mean_ranks, strict=True)) if found else {},
        cd_bars=None if bars is None else [[ranked[at] for at in bar] for bar in bars],
        pairs=_pairs(sets, family, comparisons, needed) if len(units) > 1 else [],
        profiles=profiles,
        needed=needed,
        note="; ".join(filter(None, notes)),
    )


def _size_note(count: int, needed: int) -> str:
    if count < 2:
        return "fewer than 2 data sets count: nothing is said over data sets"
    if count < MIN_SETS_FOR_PROBABILITIES:
        return f"{count} data sets: signs and differences alone, no test"
    return f"{count} data sets are too few for any p: {needed} are needed" if count < needed else ""


def _figures(found: Friedman) -> dict[str, float]:
    """Returns Friedman's figures; without F where all data sets agree, since it has no bound then."""
    figures = {"chi2": found.chi2, "p_chi2": found.p_chi2, "f": found.f, "p": found.p}
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _pairs(sets: _Sets, family: Sequence[str], comparisons: Sequence[Comparison], needed: int) -> list[PairOverSets]:
    """Returns each method of the primary family against the reference; the family keeps its size whoever failed."""
    reference = sets.terms.reference
    of_set = {(each.dataset, each.a): each.d for each in comparisons if each.b == reference}
    differences = {
        label: {
            unit: sum(of_set[name, label] for name in names) / len(names)
            for unit, names in sets.units.items()
            if all((name, label) in of_set for name in names)
        }
        for label in family
    }
    p = {label: wilcoxon(list(found.values())) for label, found in differences.items() if len(found) >= needed}
    corrected = dict(zip(p, holm(list(p.values()), len(family)).tolist(), strict=True)) if p else {}
    pairs = []
    for label, found in differences.items():
        in_margins = [value / sets.margin(unit) for unit, value in found.items()]
        bayes = signed_rank_probabilities(in_margins, 1.0) if in_margins else None
        missing = [unit for unit in sets.units if unit not in found]
        notes = [f"no difference on {', '.join(missing)}" if missing else ""]
        notes += [_size_note(len(found), needed) if missing else ""]
        pairs.append(
            PairOverSets(
                a=label,
                b=reference,
                differences=found,
                bayes=(bayes.worse, bayes.within, bayes.better) if bayes else None,
                p=p.get(label),
                p_holm=corrected.get(label),
                note="; ".join(filter(None, notes)),
            )
        )
    return pairs


def _profiles(sets: _Sets, ranked: Sequence[str]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Returns each method's interquartile mean on the common scale, and the data sets that have no such scale.

    A method that failed somewhere has none: it would be the mean of where it worked.
    """
    reference = sets.terms.reference
    if reference not in ranked or not sets.succeeded(reference):
        return {}, []
    levels = {name: sets.scores[name, reference].mean or 0.0 for name in sets.names}
    unscaled = [name for name in sets.names if levels[name] <= sets.chance[name]]
    found = {}
    for label in ranked:
        runs: list[list[NDArray[np.float64]]] = []
        for names in sets.units.values():
            scaled = [
                common_scale(seeds, sets.chance[name], levels[name])
                for name in names if name not in unscaled
                for seeds in sets.scores[name, label].seeds
            ]  # fmt: skip
            runs += [scaled] if scaled else []
        if runs and sets.succeeded(label):
            middle = profile(runs, [0.5]).middle
            found[label] = {"middle": middle.mean, "low": middle.low, "high": middle.high}
    return found, unscaled
