"""Items 1 to 4: test chose nothing, splits are apart, and all methods answered the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mmcore.config.sections import get_path
from rayjobs.results_layout import LEDGER_FILE, PREDICTIONS_FILE, RESULT_FILE, SEARCH_FILE
from rayjobs.study.evidence.checks.finding import Finding, by_dataset, done, listed, name_of, together
from rayjobs.study.evidence.ledger import Reading
from rayjobs.study.results import CellResult, StudyResults

NOTHING_YET = "no cell has ended yet"


def chosen_without_test(results: StudyResults, readings: Sequence[Reading]) -> Finding:
    """Item 1: no model was chosen on test, no trial read it, and each final model's reading is in the ledger."""
    cells = done(results)
    models = [model for cell in cells for model in cell.finals]
    own = [reading for reading in readings if reading.run]
    findings = []
    choosing = [name_of(cell) for cell in cells for model in cell.finals if model.result.selects_on_test]
    if choosing:
        findings.append(Finding("fail", f"{RESULT_FILE} of {listed(choosing)} says that its epoch was chosen on test"))
    trials = [reading.run for reading in own if "/trial-" in f"/{reading.run}"]
    if trials:
        findings.append(Finding("fail", f"{LEDGER_FILE} has readings of test by trials: {listed(trials)}"))
    lock = results.lock
    if lock and own and own[0].when and own[0].when < lock.when:
        findings.append(Finding("fail", f"{LEDGER_FILE}: test was read at {own[0].when}, before {lock.when}, when the "
                                "terms were fixed"))  # fmt: skip
    known = {(reading.config, reading.data) for reading in readings}
    unknown = [
        f"{name_of(cell)} final-{model.number}" for cell in cells for model in cell.finals
        if (model.result.config_fingerprint, model.result.data_fingerprint) not in known
    ]  # fmt: skip
    if unknown:
        findings.append(Finding("warn", f"{LEDGER_FILE} beside the study has no reading of {listed(unknown)}"))
    if models and not findings:
        text = f"none of {len(models)} final models was chosen on test ({RESULT_FILE}); {LEDGER_FILE} has each one's "
        findings.append(Finding("pass", f"{text}reading, and none by a trial"))
    return together(findings, NOTHING_YET)


def splits_are_apart(results: StudyResults) -> Finding:
    """Item 2: no group and no recording lies on both sides of a split.

    Where folds test all samples in turn, what no two of them share is never trained on and tested at once.
    """
    findings = (
        _folds_apart(name, cells) if cells[0].cell.fold is not None else _split_apart(cells[0])
        for name, cells in by_dataset(done(results)).items()
    )
    return together(findings, NOTHING_YET)


def _folds_apart(name: str, cells: Sequence[CellResult]) -> Finding:
    by_fold = {cell.cell.fold: cell for cell in cells}
    kinds = {"sample": "sample_ids", "recording": "sources"} | ({"group": "groups"} if cells[0].cell.by_group else {})
    for kind, column in kinds.items():
        seen: dict[str, int | None] = {}
        for fold, cell in by_fold.items():
            for entry in np.unique(getattr(cell.finals[0].final, column)).tolist():
                if seen.setdefault(entry, fold) != fold:
                    return Finding("fail", f"{name}: folds {seen[entry]} and {fold} both test the {kind} {entry} "
                                   f"({PREDICTIONS_FILE})")  # fmt: skip
    unit = "groups" if cells[0].cell.by_group else "samples"
    return Finding("pass", f"{name}: the {len(by_fold)} folds so far share no {' and no '.join(kinds)} in what they "
                   f"test ({PREDICTIONS_FILE}); {cells[0].cell.protocol.partition(' (')[0]} puts whole {unit} on one "
                   "side")  # fmt: skip


def _split_apart(cell: CellResult) -> Finding:
    name, line = cell.cell.dataset, cell.cell.protocol
    if "whatever the groups" in line:
        return Finding("fail", f"{name}: {line} puts samples of one group on both sides")
    if not cell.cell.by_group or line.startswith("group"):
        return Finding("pass", f"{name}: {line} puts whole {'groups' if cell.cell.by_group else 'samples'} on one side")
    return Finding("warn", f"{name}: {line}; `python -m rayjobs.prepare --check` tells which groups are on both sides")


def searches_kept_to_their_fold(results: StudyResults) -> Finding:
    """Item 3: no fold's test samples were among those that its settings were chosen by."""
    findings = []
    cells = done(results)
    for cell in cells:
        where = {get_path(search.config, "protocol.fold") for search in cell.searches if search.config}
        tested = {get_path(model.result.config, "protocol.fold") for model in cell.finals}
        if where != tested:
            findings.append(Finding("fail", f"{name_of(cell)}: searched on fold {listed(map(str, sorted(where)))}, "
                                    f"tested on {listed(map(str, sorted(tested)))}"))  # fmt: skip
    if cells and not findings:
        text = f"each of {len(cells)} cells was searched on its own fold, whose validation samples it does not test"
        findings.append(Finding("pass", f"{text} ({SEARCH_FILE}, {RESULT_FILE})"))
    return together(findings, NOTHING_YET)


def all_answered_alike(results: StudyResults) -> Finding:
    """Item 4: every final model answered every test sample of its fold, the same as all others."""
    findings = list(_unlike(results))
    count = sum(len(cell.finals) for cell in done(results))
    if count and not findings:
        findings.append(Finding("pass", f"the {count} {PREDICTIONS_FILE} hold every test sample of their fold, the "
                                "same ids and labels for all methods"))  # fmt: skip
    return together(findings, NOTHING_YET)


def _unlike(results: StudyResults) -> Iterator[Finding]:
    first: dict[tuple[str, int | None], CellResult] = {}
    for cell in done(results):
        other = first.setdefault((cell.cell.dataset, cell.cell.fold), cell)
        theirs = other.finals[0].final
        for model in cell.finals:
            if len(model.final.sample_ids) != cell.cell.num_test:
                yield Finding("fail", f"{name_of(cell)} final-{model.number} answered {len(model.final.sample_ids)} of "
                              f"{cell.cell.num_test} test samples")  # fmt: skip
            elif not (
                np.array_equal(model.final.sample_ids, theirs.sample_ids)
                and np.array_equal(model.final.labels, theirs.labels)
            ):
                yield Finding("fail", f"{name_of(cell)} final-{model.number} and {name_of(other)} final-1 answered "
                              "different test samples")  # fmt: skip
