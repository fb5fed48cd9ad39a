"""Items 5 to 8, and 14: the searches gave all methods the same, and chose what holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from mmcore.analysis.intervals import mean_interval
from mmcore.config.plain import Plain, Settings
from mmcore.config.sections import get_path
from rayjobs.results_layout import CELL_FILE, PLAN_FILE, RESULT_FILE, SEARCH_FILE
from rayjobs.storage.files import read_json
from rayjobs.study.document import CellEntry
from rayjobs.study.evidence.checks.finding import Finding, by_dataset, done, listed, name_of, together
from rayjobs.study.evidence.validation import part_results
from rayjobs.study.results import CellResult, StudyResults

NO_SEARCH = "no search has ended yet"
MIN_SEARCHES = 3
"""Of fewer the mean fall says nothing."""
ALIKE = ("model", "dataset.encode", "dataset.transforms", "trainer.batch_size", "trainer.precision")
"""Paths of what must be the same for all methods, or searched for all."""


def equal_budgets(results: StudyResults) -> Finding:
    """Item 5: equal trials, epochs and grace; a method without anything to search has one trial."""
    findings = []
    for name, cells in by_dataset(cell for cell in results.cells if cell.status != "open").items():
        given = {name_of(cell): _given(cell) for cell in cells if cell.searches}
        searched = {cell_name: budget for cell_name, budget in given.items() if budget}
        unequal = {what: counts for what, counts in _columns(searched).items() if len(set(counts.values())) > 1}
        for what, counts in unequal.items():
            told = listed(f"{number} {what} of {cell_name}" for number, cell_name in _first_of_each(counts))
            findings.append(Finding("fail", f"{name}: {told} ({CELL_FILE}, {SEARCH_FILE})"))
        if searched and not unequal:
            words = ", ".join(f"{number} {what}" for what, number in next(iter(searched.values())).items())
            findings.append(Finding("pass", f"{name}: {words} for every method and fold ({CELL_FILE}, {SEARCH_FILE})"))
    return together(findings, NO_SEARCH)


def _given(cell: CellResult) -> dict[str, int]:
    """Returns what a cell's search was given; nothing where there is nothing to search."""
    if not cell.cell.space:
        return {}
    given = {"trials": sum(len(search.trials) for search in cell.searches)}
    lengths = {int(get_path(search.config, "trainer.max_epochs")) for search in cell.searches if search.config}
    if lengths:
        given["epochs a trial"] = max(lengths)
    places = [cell.folder / f"part-{part}" for part in cell.cell.parts] or [cell.folder]
    grace = {plan["grace_epochs"] for place in places if "grace_epochs" in (plan := read_json(place / PLAN_FILE) or {})}
    if grace:
        given["epochs of grace"] = max(grace)
    return given


def _columns(given: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, budget in given.items():
        for what, number in budget.items():
            found.setdefault(what, {})[name] = number
    return found


def _first_of_each(counts: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    for number in sorted(set(counts.values())):
        yield number, next(name for name, own in counts.items() if own == number)


def one_architecture(results: StudyResults) -> Finding:
    """Item 6: encoders, batch size and the like are the same for all methods, or searched for all."""
    findings = []
    for name, cells in by_dataset(done(results)).items():
        values: dict[str, dict[str, str]] = {}
        for cell in cells:
            for config in _configs(cell):
                for path, value in _settings(config).items():
                    values.setdefault(path, {}).setdefault(value, cell.cell.label)
        labels = {cell.cell.label for cell in cells}
        searching = {path: {cell.cell.label for cell in cells if path in cell.cell.space} for path in values}
        unlike = [path for path, found in values.items() if len(found) > 1 and searching[path] != labels]
        told = listed(
            f"{path} ({', '.join(f'{value} of {label}' for value, label in list(values[path].items())[:2])})"
            for path in unlike
        )
        if unlike:
            findings.append(Finding("fail", f"{name}: not the same for all methods: {told} ({RESULT_FILE})"))
        else:
            batch = listed(values.get("trainer.batch_size", {}))
            findings.append(Finding("pass", f"{name}: the same encoders and batch size ({batch}) for all methods, or "
                                    f"searched for all ({RESULT_FILE})"))  # fmt: skip
    return together(findings, "no final model has ended yet")


def _configs(cell: CellResult) -> list[Settings]:
    """Returns the configurations of a cell's first final model: one, or one of each part."""
    result = cell.finals[0].result
    return list(result.parts.values()) if result.parts else [result.config]


def _settings(config: Settings) -> dict[str, str]:
    """Returns path -> value of what must be alike, of single settings."""
    found: dict[str, str] = {}
    for path in ALIKE:
        _flatten(path, get_path(config, path), found)
    return found


def _flatten(path: str, value: Plain, into: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value:
        for key, entry in value.items():
            _flatten(f"{path}.{key}", entry, into)
    elif not isinstance(value, Mapping):
        into[path] = json.dumps(value)


def best_inside_ranges(cells: Sequence[CellEntry]) -> Finding:
    """Item 7: no best value lies at an end of the range it was searched in."""
    searched = [cell for cell in cells if cell.best and cell.best.config]
    at_end = [cell for cell in searched if cell.at_edge]
    if not searched:
        return Finding("not applicable", NO_SEARCH if not cells else "nothing was searched")
    if not at_end:
        return Finding("pass", f"no best value of {len(searched)} searches lies at an end of its range ({SEARCH_FILE})")
    paths = [path for cell in at_end for path in cell.at_edge]
    most = sorted(set(paths), key=lambda path: (-paths.count(path), path))
    told = listed(f"{path} in {paths.count(path)}" for path in most)
    return Finding("warn", f"{len(at_end)} of {len(searched)} searches chose a value at an end of its range: {told} "
                   f"({SEARCH_FILE}); a wider range may hold a better one")  # fmt: skip


def best_before_the_end(results: StudyResults) -> Finding:
    """Item 8: final models were at their best before their last epoch, so that longer training would not help."""
    lasting, count = [], 0
    for cell in done(results):
        for model in cell.finals:
            runs = list(part_results(cell.cell, model).values()) if cell.cell.parts else [model.result]
            count += len(runs)
            lasting += [name_of(cell) for run in runs if not run.selects_last and run.best["epoch"] >= run.epochs]
    if not count:
        return Finding("not applicable", "no final model tells of its epochs yet")
    if lasting:
        return Finding("warn", f"{len(lasting)} of {count} final models were best at their last epoch: "
                       f"{listed(lasting)} ({RESULT_FILE}); more epochs may help them")  # fmt: skip
    return Finding("pass", f"all {count} final models were best before their last epoch ({RESULT_FILE})")


def shrinkage_within_noise(cells: Sequence[CellEntry]) -> Finding:
    """Item 14: what searches' best scores fell by is no more than noise explains.

    By noise alone one search in two falls further than is expected, so that it is the mean over them that counts: a
    warning means that its 95 % interval lies above what noise gives.
    """
    known = [cell.shrinkage for cell in cells if cell.shrinkage and cell.shrinkage.by_noise is not None]
    if len(known) < MIN_SEARCHES:
        return Finding("not applicable", f"fewer than {MIN_SEARCHES} searches have two final models or more")
    mean, half_width = mean_interval([each.fall - (each.by_noise or 0.0) for each in known])
    fall = sum(each.fall for each in known) / len(known)
    noise = sum(each.by_noise or 0.0 for each in known) / len(known)
    text = f"{len(known)} searches' best scores fell by {fall:.2f} points when trained again, noise gives {noise:.2f}"
    if mean > (half_width or 0.0):
        return Finding("warn", f"{text}: the searches fit their validation samples")
    return Finding("pass", text)
