"""Items 9 to 13: references, size, what was fixed beforehand, correction for several comparisons, power."""

from __future__ import annotations

from collections.abc import Sequence

from mmcore.analysis.fold_statistics import MIN_FOLDS, MIN_FOLDS_FOR_A_WORD
from mmcore.analysis.intervals import MIN_SEEDS
from rayjobs.results_layout import COMPARE_FILE, LEDGER_FILE, LOCK_FILE
from rayjobs.study.document import Comparison, PowerEntry
from rayjobs.study.evidence.checks.finding import Finding, by_dataset, listed, together
from rayjobs.study.evidence.ledger import Reading
from rayjobs.study.lock import rows_named
from rayjobs.study.results import StudyResults
from rayjobs.study.study import OTHER_REFERENCES, REFERENCE

DECIDING = {"metric", "reference", "margins", "alpha"}
"""Terms which, changed after test was read, change what the same numbers are called."""
ROUNDING = 1e-12


def references_present(results: StudyResults) -> Finding:
    """Item 9: each modality alone, the ensemble, the tuned ensemble and joint training are compared with."""
    lacking = [name for name in (REFERENCE, *OTHER_REFERENCES) if not rows_named(name, results.labels)]
    if lacking:
        return Finding("warn", f"not in the study: {listed(lacking)} (`compare add --method`)")
    return Finding("pass", f"{listed((REFERENCE, *OTHER_REFERENCES))} are all in it")


def enough_folds_and_seeds(results: StudyResults) -> Finding:
    """Item 10: five folds and three seeds."""
    findings, seeds = [], results.study.seeds
    for name, cells in by_dataset(results.cells).items():
        folds = len(results.complete_folds(name))
        text = f"{name}: {folds} folds" if cells[0].cell.fold is not None else f"{name}: one split"
        text += f" and {seeds} seeds"
        if cells[0].cell.fold is None:
            findings.append(Finding("warn", f"{text}: it holds for these training data"))
        elif folds < MIN_FOLDS_FOR_A_WORD:
            findings.append(
                Finding(
                    "fail" if folds < MIN_FOLDS else "warn",
                    f"{text}: under {MIN_FOLDS_FOR_A_WORD} folds no word is given",
                )
            )
        else:
            findings.append(Finding("pass" if seeds >= MIN_SEEDS else "warn", text))
    return together(findings, "there is no cell yet")


def fixed_before_test(results: StudyResults, readings: Sequence[Reading]) -> Finding:
    """Item 11: margin, families and the like were fixed before test was read, and not changed later."""
    lock, own = results.lock, [reading for reading in readings if reading.run]
    if lock is None:
        if own or any(cell.finals for cell in results.cells):
            return Finding("fail", f"test was read, and there is no {LOCK_FILE}")
        return Finding("not applicable", "test was not read yet")
    if own and own[0].when and own[0].when < lock.when:
        return Finding("fail", f"{LOCK_FILE} is of {lock.when}, the first reading in {LEDGER_FILE} of {own[0].when}")
    changed = [
        f"{change.key} from {change.before} to {change.after} after {change.readings} readings of test"
        for change in lock.changes
        if change.readings
    ]
    if changed:
        deciding = any(change.readings and change.key in DECIDING for change in lock.changes)
        return Finding("fail" if deciding else "warn", f"{LOCK_FILE}: changed were {'; '.join(changed)}")
    return Finding("pass", f"{LOCK_FILE} of {lock.when}, before the first reading; nothing was changed since")


def corrected_for_several(results: StudyResults, comparisons: Sequence[Comparison]) -> Finding:
    """Item 12: each p that decides a word is corrected over its whole family."""
    tested = [each for each in comparisons if each.p is not None]
    if not tested:
        return Finding("not applicable", "there is no test yet")
    bare = [f"{each.a} on {each.dataset}" for each in tested if _is_bare(each)]
    if bare:
        return Finding("fail", f"{COMPARE_FILE}: p of {listed(bare)} is not corrected")
    families = dict.fromkeys((each.dataset, each.b) for each in tested)
    sizes = {} if results.lock is None else {name: len(own) for name, own in results.lock.current.families.items()}
    words = listed(f"{sizes.get(b, '?')} against {b} on {dataset}" for dataset, b in families)
    return Finding("pass", f"{COMPARE_FILE}: Holm over each family: {words}; families but the first are exploratory")


def _is_bare(each: Comparison) -> bool:
    return each.p_holm is None or (each.p is not None and each.p_holm < each.p - ROUNDING)


def margin_can_be_shown(power: Sequence[PowerEntry]) -> Finding:
    """Item 13: the smallest difference that the study shows is at most the margin."""
    findings = []
    for each in power:
        if each.smallest is None:
            findings.append(Finding("warn", f"{each.dataset}: how small a difference it shows is not known"))
            continue
        text = f"{each.dataset}: {each.smallest:.2f} points are shown in 4 of 5 studies, the margin is {each.margin:g}"
        findings.append(Finding("pass" if each.smallest <= each.margin else "warn", text))
    return together(findings, "there is no power to tell of")
