"""The page's sections on the whole study: several data sets, failures, power, the checklist, how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayjobs.reporting.wording import values_text
from rayjobs.study.document import CellEntry, CheckState, OverDatasets, PowerEntry, StudyDocument
from rayjobs.study.showing import wording
from rayjobs.study.showing.blocks import Block, Checks, Commands, Details, Heading, Item, Note, Section
from rayjobs.study.showing.drawing.rows import critical_differences, differences_by_set
from rayjobs.study.showing.reading import OfDataset, of_datasets
from rayjobs.templates import Grid

SIGNS: Mapping[CheckState, str] = {"pass": "✓", "warn": "!", "fail": "✗", "not applicable": "–"}
"""Beside the state's word and its colour."""


def over_section(document: StudyDocument, labels: Sequence[str]) -> Section | None:
    """Returns what the data sets say together; None for one."""
    over = document.over_datasets
    if over is None:
        return None
    blocks: list[Block] = [Note(_units(over))]
    blocks += [Note(over.note, "warning")] if over.note else []
    figure = critical_differences("ranks", over, labels)
    if figure is None:
        of_sets = {data.name: data.primary for data in of_datasets(document) if data.name not in over.left_out}
        rows = [label for label in labels if label != document.lock.reference]
        figure = differences_by_set("differences", of_sets, rows, labels)
    blocks += [figure] if figure else []
    blocks += [grid for grid in (_pairs(document, over), _ranks(over, labels)) if grid]
    return Section("over-data-sets", "Over all data sets", blocks)


def _units(over: OverDatasets) -> str:
    left = "".join(f" {name} is left out: {why}." for name, why in over.left_out.items())
    counted = f"{len(over.units)} count: {', '.join(over.units)}." if over.units else "None counts."
    return f"Variants of one source count once. {counted}{left} Any p under α needs {over.needed} data sets here."


def _pairs(document: StudyDocument, over: OverDatasets) -> Grid | None:
    if not over.pairs:
        return None
    names = list(dict.fromkeys(name for pair in over.pairs for name in pair.differences))
    rows = [
        (pair.a, *(wording.signed(pair.differences.get(name)) for name in names), wording.three(pair.bayes),
         wording.p_value(pair.p_holm), pair.note or wording.MISSING)
        for pair in over.pairs
    ]  # fmt: skip
    return Grid(
        f"Against {document.lock.reference} over data sets: differences in points; probabilities of worse, within δ, "
        "better on sets like these; p of the signed ranks (Holm)",
        ("method", *names, "worse / within / better", "p (Holm)", "note"),
        rows,
        ("note",),
    )


def _ranks(over: OverDatasets, labels: Sequence[str]) -> Grid | None:
    if not over.ranks:
        return None
    rows = []
    for label in (each for each in labels if each in over.ranks):
        scale = over.profiles.get(label, {})
        ends = f"[{wording.number(scale.get('low'), 2)}, {wording.number(scale.get('high'), 2)}]" if scale else ""
        rows.append((label, wording.number(over.ranks.get(label), 2), wording.number(scale.get("middle"), 2), ends))
    return Grid(
        f"Mean ranks, 1 is best{_friedman(over.friedman or {})}; mean of the middle half of the runs where chance is 0 "
        "and the reference 1",
        ("method", "mean rank", "middle half", "95 %"),
        rows,
    )


def _friedman(found: Mapping[str, float]) -> str:
    """Returns the test of all ranks together: by F where there is one, else by χ²; "" without any."""
    for name, p in (("f", "p"), ("chi2", "p_chi2")):
        if wording.known(found.get(name)):
            sign = {"f": "F", "chi2": "χ²"}[name]
            value = wording.p_value(found.get(p))
            return f" (Friedman: {sign} = {found[name]:.2f}, p {value if value.startswith('<') else f'= {value}'})"
    return ""


def failures_section(document: StudyDocument) -> Section | None:
    """Returns the cells that failed, and those a race left out; None where there are none."""
    marks = {"failed": wording.FAILED, "left out": wording.LEFT_OUT}
    rows = [(_named(cell), marks[cell.status], cell.reason) for cell in document.cells if cell.status in marks]
    if not rows:
        return None
    grid = Grid("Cells without a result, and why", ("cell", "result", "reason"), rows)
    note = (
        "A method that failed on a fold has no mean: it is not averaged over the folds that worked, nor tested. One "
        "that a race left out could no longer be better or equivalent; compare add takes it in again."
    )
    return Section("failures", "What has no result", [Note(note), grid])


def _named(cell: CellEntry) -> str:
    return f"{cell.dataset}, {cell.method}, fold {cell.fold}"


def edges_section(document: StudyDocument) -> Section | None:
    """Returns the settings chosen at an end of their range; None where there are none."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for cell in document.cells:
        for path in cell.at_edge:
            found.setdefault((cell.dataset, cell.method, path), []).append(cell.fold)
    if not found:
        return None
    spaces = {method.label: method.space for method in document.methods}
    rows = [
        (f"{dataset}, {method}", path, spaces.get(method, {}).get(path, ""), wording.folds_text(sorted(folds)))
        for (dataset, method, path), folds in found.items()
    ]
    note = "A better value may lie beyond: widen the range and search again before such a method is called worse."
    grid = Grid("Best values at an end of their range", ("method", "settings", "searched", "folds"), rows,
                ("settings", "searched"))  # fmt: skip
    return Section("edges", "Settings at the edge of their range", [Note(note), grid])


def power_section(document: StudyDocument) -> Section | None:
    """Returns what the plan can show."""
    if not document.power:
        return None
    rows = [
        (each.dataset, wording.points(each.margin), _deviation(each), str(each.folds), str(each.family),
         wording.number(each.smallest), _more(each), str(each.folds_needed or "none there is"))
        for each in document.power
    ]  # fmt: skip
    grid = Grid(
        "The smallest difference to the reference that is shown in 4 of 5 studies, in points",
        ("data set", "δ", "σ of a difference", "folds", "family", "shown", "with more folds", "folds for δ"),
        rows,
        ("with more folds",),
    )
    notes = [Note(f"{each.dataset}: {each.note}") for each in document.power if each.note]
    return Section("power", "What this study could have shown", [grid, *notes])


def _deviation(entry: PowerEntry) -> str:
    return f"{wording.number(entry.deviation, 2)} ({entry.source})" if wording.known(entry.deviation) else entry.source


def _more(entry: PowerEntry) -> str:
    return ", ".join(f"{folds}: {wording.number(value)}" for folds, value in entry.with_more.items()) or wording.MISSING


def checklist_section(document: StudyDocument) -> Section:
    """Returns the checklist, each item with its evidence."""
    counts = {state: sum(check.state == state for check in document.checklist) for state in SIGNS}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    items = [
        Item(check.state.replace(" ", "-"), SIGNS[check.state], check.state, check.title, check.evidence.split("; "))
        for check in sorted(document.checklist, key=lambda check: check.id)
    ]
    return Section("checklist", "Checklist", [Note(f"What a reviewer would ask: {told}."), Checks(items)])


def lock_section(document: StudyDocument) -> Section:
    """Returns what was fixed before test was read, later changes, and how often test was read."""
    lock = document.lock
    if not lock.when:
        fixed = "Test has not been read: what stands here may still be changed."
    elif lock.changes:
        fixed = f"Fixed at the first reading of test, {lock.when}, and changed afterwards: see below."
    else:
        fixed = f"Fixed at the first reading of test, {lock.when}. Nothing was changed afterwards."
    margins = ", ".join(f"{name}: {wording.points(margin)}" for name, margin in lock.margins.items())
    rows = [
        ("primary metric", lock.metric),
        ("reference", lock.reference),
        ("δ", margins),
        ("α", f"{lock.alpha:g} over each family, by Holm"),
        *((f"family {name}", ", ".join(labels)) for name, labels in lock.families.items()),
        *((f"folds of {name}", wording.folds_text(folds)) for name, folds in lock.folds.items()),
        ("final models of a cell", str(lock.seeds)),
        ("trials of a cell", wording.count(lock.trials)),
    ]
    blocks: list[Block] = [
        Note(fixed, "warning" if lock.changes else ""),
        Grid("What decides the words", ("what", "value"), rows, ("value",)),
    ]
    if lock.changes:
        changes = [
            (each.key, each.before, each.after, str(each.readings), each.when)
            for each in lock.changes
        ]  # fmt: skip
        headings = ("what", "before", "after", "readings of test by then", "when")
        blocks.append(Grid("Changed after test had been read", headings, changes, ("before", "after")))
    blocks += [Heading("Readings of test"), Note(_ledger_text(document)), _ledger(document)]
    return Section("lock", "What was fixed before test was read", blocks)


def _ledger_text(document: StudyDocument) -> str:
    ledger = document.ledger
    return (
        f"Whoever chooses among many readings of one test set finds luck: {ledger.configurations:,} configurations "
        "were ever read on this data in this results folder."
    )


def _ledger(document: StudyDocument) -> Grid:
    ledger = document.ledger
    rows = [
        ("by this study", wording.count(ledger.readings)),
        ("of these, of models replaced later", wording.count(ledger.superseded)),
        ("by others in the same results folder", wording.count(ledger.elsewhere)),
    ]
    return Grid("Readings of the same test samples", ("readings", "number"), rows)


def repeat_section(document: StudyDocument) -> Section:
    """Returns the commands, what it ran with, and every cell's best settings."""
    blocks: list[Block] = [Commands({document.study.command: "began it", **document.commands})]
    software = [(name, version) for name, version in document.software.items()]
    hardware = [(name, f"{seconds:,.0f}") for name, seconds in document.hardware.items()]
    if software:
        blocks.append(Grid("Software", ("package", "version"), software, ("version",)))
    if hardware:
        blocks.append(Grid("Devices", ("device", "device-seconds"), hardware))
    rows = [(method.label, str(method.version), _space(method.space)) for method in document.methods]
    blocks.append(Details("What was searched", [
        Grid("Methods, the version of their code, and their search spaces", ("method", "version", "settings"), rows)
    ]))  # fmt: skip
    best = [
        (_named(cell), wording.number(cell.best.val), values_text(cell.best.config))
        for cell in document.cells if cell.best
    ]  # fmt: skip
    if best:
        headings = ("cell", "validation, %", "settings")
        blocks.append(Details("The best settings of every cell", [Grid("Chosen on validation", headings, best)]))
    return Section("repeat", "To repeat it", blocks)


def _space(space: Mapping[str, str]) -> str:
    return "; ".join(f"{path}: {values}" for path, values in space.items())


def unfinished(datasets: Sequence[OfDataset]) -> list[str]:
    """Returns a line for each data set of which cells are open."""
    lines = []
    for data in datasets:
        waiting = sum(cell.status == "open" for cell in data.cells)
        if waiting:
            lines.append(
                f"{data.name} is not finished: {waiting} of {len(data.cells)} cells are open. "
                f"What follows is of the {len(data.blocks)} of {len(data.entry.folds)} folds that every method has."
            )
    return lines
