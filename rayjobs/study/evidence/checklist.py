"""The checklist of a study: 18 items, each computed, with the file or the figure that shows it."""

from __future__ import annotations

from collections.abc import Sequence

from rayjobs.study.document import CellEntry, Check, Comparison, LedgerEntry, PowerEntry
from rayjobs.study.evidence.checks import data, plan, runs, search
from rayjobs.study.evidence.checks.finding import Finding
from rayjobs.study.evidence.ledger import readings_of
from rayjobs.study.results import StudyResults


def checklist(
    results: StudyResults,
    *,
    cells: Sequence[CellEntry],
    comparisons: Sequence[Comparison],
    power: Sequence[PowerEntry],
    ledger: LedgerEntry,
) -> list[Check]:
    """Returns all items of the checklist, in their order.

    Args:
        results: The study.
        cells: Its cells in figures (`cell_entries`).
        comparisons: What was tested.
        power: How small a difference each data set shows.
        ledger: How often test was read (`ledger_entry`).
    """
    readings = readings_of(results)
    items: list[tuple[str, Finding]] = [
        ("Test never chose anything", data.chosen_without_test(results, readings)),
        ("No group or recording on both sides of a split", data.splits_are_apart(results)),
        ("Settings chosen on validation that is not tested", data.searches_kept_to_their_fold(results)),
        ("Every test sample answered, the same for all", data.all_answered_alike(results)),
        ("Equal trials, epochs and grace for all", search.equal_budgets(results)),
        ("Encoders and batch size equal, or searched for all", search.one_architecture(results)),
        ("No best value at an end of its range", search.best_inside_ranges(cells)),
        ("Final models best before their last epoch", search.best_before_the_end(results)),
        ("Each modality alone, ensembles and joint training present", plan.references_present(results)),
        ("Five folds and three seeds", plan.enough_folds_and_seeds(results)),
        ("Margin and families fixed before test was read", plan.fixed_before_test(results, readings)),
        ("Corrected for several comparisons", plan.corrected_for_several(results, comparisons)),
        ("A difference as small as the margin can be shown", plan.margin_can_be_shown(power)),
        ("Best scores fell by no more than noise explains", search.shrinkage_within_noise(cells)),
        ("Nothing failed, died or was imputed", runs.nothing_failed(results, cells)),
        ("One kind of device; versions, commit, seeds and command recorded", runs.recorded(results)),
        ("Methods tested against their equations", runs.methods_are_tested(results)),
        ("Test not read by others, nor for models replaced since", runs.read_by_nobody_else(ledger)),
    ]
    return [
        Check(id=number, title=title, state=found.state, evidence=found.evidence)
        for number, (title, found) in enumerate(items, 1)
    ]
