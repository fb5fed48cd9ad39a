"""The answer in words, before any table: one sentence a data set, and never more than the words allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmcore.analysis.fold_statistics import MIN_FOLDS_FOR_A_WORD
from mmcore.analysis.sign_flips import MIN_CLUSTERS
from mmcore.analysis.words import Word
from rayjobs.study.document import Comparison, OverDatasets, PowerEntry
from rayjobs.study.judging.blocks import PRIMARY, Blocks, counted, points
from rayjobs.study.judging.power import Folding

MOST_NAMES = 4
"""Methods that are named; of more the others are counted."""
BETTER = (Word.BETTER, Word.BETTER_BY_LESS)
BOUNDED = (Word.EQUIVALENT, Word.WORSE, Word.WORSE_BY_LESS)
"""Where all methods end in one of these, none is better by the margin, and that was shown."""


def sentence_of(blocks: Blocks, comparisons: Sequence[Comparison], power: PowerEntry) -> str:
    """Returns what a study says about a data set.

    Args:
        blocks: The data set.
        comparisons: All of the study.
        power: What could be shown on it.
    """
    own = [each for each in comparisons if (each.dataset, each.family) == (blocks.dataset, PRIMARY)]
    nothing = _why_nothing(blocks, own)
    if nothing:
        return f"On {blocks.dataset} {nothing}."
    undecided = _why_undecided(blocks, own)
    if undecided:
        return f"On {blocks.dataset} nothing is decided{_so_far(blocks)}: {undecided}."
    of_these = ", for these training data," if blocks.is_split else ""
    clauses = [*_found(blocks, own), *_failed(blocks), *_could_show(blocks, own, power)]
    return f"On {blocks.dataset}{of_these}{_so_far(blocks)} {'; '.join(clauses)}."


def sentence_over(over: OverDatasets | None, reference: str, alpha: float) -> list[str]:
    """Returns what a study says over its data sets: a sentence, or nothing where there is one data set.

    Args:
        over: What they say together.
        reference: Label of the primary reference.
        alpha: How often a word may be wrong.
    """
    if over is None or len(over.units) < 2:
        return []
    count = len(over.units)
    if count < over.needed:
        return [f"{count} data sets are too few for a test over them: {over.needed} would do."]
    found = [pair for pair in over.pairs if pair.p_holm is not None and pair.p_holm < alpha]
    clauses = []
    for word, sign in (("better", 1), ("worse", -1)):
        names = [pair.a for pair in found if _direction(pair.differences) == sign]
        if names:
            clauses.append(f"{_named(names)} {_is(names)} {word} than {reference}")
    return [f"Over {count} data sets {'; '.join(clauses) or f'no method is shown to differ from {reference}'}."]


def _direction(differences: Mapping[str, float]) -> int:
    above = sum(value > 0 for value in differences.values())
    below = sum(value < 0 for value in differences.values())
    return (above > below) - (above < below)


def _why_nothing(blocks: Blocks, own: Sequence[Comparison]) -> str:
    """Returns why there is no comparison; "" where there is one."""
    reference = blocks.terms.reference
    if own:
        return ""
    if not blocks.folds:
        return "nothing can be said yet: " + (
            "not every method is finished"
            if blocks.is_split
            else f"none of {len(blocks.planned)} folds is finished by every method"
        )
    if reference not in blocks.labels:
        return f"nothing was compared: it has no row {reference}"
    failure = blocks.reason(reference)
    return f"nothing was compared: {reference} {failure}" if failure else "nothing was compared: no method has a result"


def _why_undecided(blocks: Blocks, own: Sequence[Comparison]) -> str:
    """Returns why no word could be said, whatever the numbers, and what would change it; "" where one could."""
    if blocks.is_split:
        if any(each.word for each in own):
            return ""
        number = len(set(blocks.clusters[0].tolist()))
        few = f"{counted(number, 'test cluster')} are too few for any word"
        return f"{few}; {MIN_CLUSTERS} or more, or folds (--protocol cv), could decide"
    count, planned = len(blocks.folds), len(blocks.planned)
    if count >= MIN_FOLDS_FOR_A_WORD:
        return ""
    under = f"{counted(count, 'fold')}, and under {MIN_FOLDS_FOR_A_WORD} nothing is"
    if planned >= MIN_FOLDS_FOR_A_WORD:
        return f"{under}; {planned} are planned"
    folding, more = Folding.of(blocks.cells, planned), MIN_FOLDS_FOR_A_WORD - planned
    if planned < folding.all_folds >= MIN_FOLDS_FOR_A_WORD:
        return f"{under}; {counted(more, 'more fold')} of the {folding.all_folds} there are would do"
    if (folding.groups or MIN_FOLDS_FOR_A_WORD) < MIN_FOLDS_FOR_A_WORD:
        lacking = MIN_FOLDS_FOR_A_WORD - (folding.groups or 0)
        return f"{under}; it takes {counted(lacking, 'more group')}, which the data does not have"
    return f"{under}; a cross-validation of {MIN_FOLDS_FOR_A_WORD} folds or more would do"


def _so_far(blocks: Blocks) -> str:
    return "" if blocks.is_whole else f" so far ({len(blocks.folds)} of {len(blocks.planned)} folds)"


def _found(blocks: Blocks, own: Sequence[Comparison]) -> Iterator[str]:
    """Yields what was found of each kind, better first."""
    reference, margin = blocks.terms.reference, points(blocks.margin)
    by_word: dict[Word, list[str]] = {word: [] for word in Word}
    stated = {word.stating(margin): word for word in Word}
    for each in sorted(own, key=lambda each: -each.d):
        if each.word is not None:
            by_word[stated[each.word]].append(each.a)
    if not any(by_word[word] for word in BETTER):
        all_bounded = all(each.word is not None and stated[each.word] in BOUNDED for each in own)
        none = "no method that finished" if _failed(blocks) else "no method"
        bounded, unknown = f"better than {reference} by {margin}", f"shown to be better than {reference}"
        yield f"{none} is {bounded if all_bounded else unknown}"
    said = {
        Word.BETTER: f"better than {reference}",
        Word.BETTER_BY_LESS: f"better than {reference}, by less than {margin}",
        Word.EQUIVALENT: f"equivalent within {margin}",
        Word.NOT_WORSE: f"not worse by {margin} or more",
        Word.UNDECIDED: "undecided",
        Word.WORSE_BY_LESS: f"worse, by less than {margin}",
        Word.WORSE: "worse",
    }
    for word, text in said.items():
        if by_word[word]:
            yield f"{_named(by_word[word])} {_is(by_word[word])} {text}"


def _failed(blocks: Blocks) -> list[str]:
    """Returns who has no result, and why."""
    compared = {label for _, labels in blocks.families().values() for label in labels}
    clauses = []
    for status, text in (("failed", "failed"), ("left out", "left the race")):
        names = [label for label in blocks.labels if label in compared and blocks.status(label) == status]
        clauses += [f"{_named(names)} {text}"] if names else []
    return clauses


def _could_show(blocks: Blocks, own: Sequence[Comparison], power: PowerEntry) -> list[str]:
    """Returns what this plan cannot show, and what more folds could, where a method is undecided."""
    if not any(each.word == Word.UNDECIDED for each in own):
        return []
    if blocks.is_split:
        groups = blocks.cells[0].by_group
        return ["no choice of other groups was seen: folds over them (--protocol cv) could decide"] if groups else []
    if power.smallest is None or power.smallest <= power.margin:
        return []
    clauses = [f"{power.folds} folds show differences from {power.smallest:.1f} points on"]
    if power.with_more:
        reaching = power.folds_needed if power.folds_needed and power.folds_needed > power.folds else None
        folds = reaching or max(map(int, power.with_more))
        noun = "more group" if Folding.of(blocks.cells, power.folds).needs_groups else "more fold"
        shown = f"{power.with_more[str(folds)]:.1f} points"
        clauses.append(f"{counted(folds - power.folds, noun)} could show {shown}")
    return clauses


def _named(names: Sequence[str]) -> str:
    """Returns `a`, `a and b`, `a, b, c and 12 more`."""
    shown = (
        list(names) if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    )
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
