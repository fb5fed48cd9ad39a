"""What a study has so far, read from its files: no data and no Ray is needed for it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mmcore.config.sections import get_path
from mmcore.errors import DataError
from mmcore.metric_names import FUSED_ACCURACY, VAL_ACCURACY
from rayjobs.experiment.search_result import SearchResult
from rayjobs.reporting.finals import Final, load_final
from rayjobs.results_layout import CELL_FILE, CELLS, FINALS_FILE, PREDICTIONS_FILE, RESULT_FILE, SEARCH_FILE
from rayjobs.runs.result import RunResult
from rayjobs.storage.files import read_json, write_json
from rayjobs.study.cell import Cell
from rayjobs.study.document import CellStatus
from rayjobs.study.lock import Lock, read_lock
from rayjobs.study.race import Race, read_race
from rayjobs.study.study import Study, read_study

FEWEST_FINALS = 2
"""With fewer of several final models a cell has failed: one seed is no mean."""


@dataclass(frozen=True)
class FinalModel:
    """A finished final model.

    Attributes:
        number: From 1; its seed is the cell's `seeds_from` plus this.
        folder: Its own.
        result: What it reached.
        final: Its answers on test, sample by sample.
    """

    number: int
    folder: Path
    result: RunResult
    final: Final

    @cached_property
    def sha256(self) -> str:
        """Of its predictions."""
        return hashlib.sha256((self.folder / PREDICTIONS_FILE).read_bytes()).hexdigest()


@dataclass(frozen=True)
class CellResult:
    """A cell as it stands.

    Attributes:
        cell: What it is of.
        folder: Where it lies.
        searches: Those that have ended: one, or one for each part.
        finals: The finished final models, by number.
        status: "done" with enough final models; "failed" for good; "left out" by a race; "open" else.
        reason: Why it failed or was left out; "" else.
        failures: Number of a final model that failed for good -> why.
        damage: What of its files could not be read, in words; what is damaged is to be run again.
    """

    cell: Cell
    folder: Path
    searches: Sequence[SearchResult]
    finals: Sequence[FinalModel]
    status: CellStatus
    reason: str = ""
    failures: Mapping[int, str] = field(default_factory=dict)
    damage: Sequence[str] = ()


@dataclass(frozen=True)
class StudyResults:
    """A study as it stands.

    Attributes:
        folder: The study's.
        study: What is wanted.
        lock: What was fixed; None before test was read.
        cells: All that were planned, in the order data set, method, fold.
        race: Which methods were left out of later folds.
        damage: What of its cells' own files could not be read, in words; such a cell counts as none.
    """

    folder: Path
    study: Study
    lock: Lock | None
    cells: Sequence[CellResult]
    race: Race = field(default_factory=Race)
    damage: Sequence[str] = ()

    @cached_property
    def datasets(self) -> list[str]:
        """Names of its prepared data sets, in the study's order."""
        return list(dict.fromkeys(each.cell.dataset for each in self.cells))

    @cached_property
    def labels(self) -> list[str]:
        """Labels of its methods: those compared first."""
        return list(dict.fromkeys(each.cell.label for each in self.cells))

    def of(self, dataset: str, label: str) -> list[CellResult]:
        """Returns the cells of a method on a data set, by fold."""
        own = [each for each in self.cells if (each.cell.dataset, each.cell.label) == (dataset, label)]
        return sorted(own, key=lambda each: each.cell.fold or 0)

    def complete_folds(self, dataset: str) -> list[int]:
        """Returns the folds that every method of the data set has finished; what failed or was left out is."""
        cells = [each for each in self.cells if each.cell.dataset == dataset]
        waiting = {each.cell.fold or 0 for each in cells if each.status == "open"}
        return sorted({each.cell.fold or 0 for each in cells} - waiting - set(self.gaps(dataset)))

    def gaps(self, dataset: str) -> dict[int, list[str]]:
        """Returns fold -> methods that have a cell on other folds of the data set, but none on this one."""
        there: dict[int, set[str]] = {}
        for each in self.cells:
            if each.cell.dataset == dataset:
                there.setdefault(each.cell.fold or 0, set()).add(each.cell.label)
        labels = set().union(*there.values())
        return {fold: sorted(labels - own) for fold, own in sorted(there.items()) if labels - own}


_Columns = dict[tuple[str, int | None, str], np.ndarray]


def load_study(folder: Path) -> StudyResults:
    """Reads a study's folder.

    Raises:
        UsageError: It holds no study.
        ConfigError: Its `study.yaml` breaks a rule.
        DataError: Its lock, or the file of its race, is damaged.
    """
    study = read_study(folder)
    damage: list[str] = []
    paths = sorted((folder / CELLS).glob(f"*/{CELL_FILE}")) + sorted((folder / CELLS).glob(f"*/fold-*/{CELL_FILE}"))
    found = [
        (path, cell) for path in paths if (cell := _cell(path, folder, damage)) is not None and _is_wanted(cell, study)
    ]
    race = read_race(folder)
    known: _Columns = {}
    cells = [_raced(_shared(load_cell(path.parent, cell, study.seeds), known), race) for path, cell in found]
    names = [data.name for data in study.datasets]

    def place(each: CellResult) -> tuple[int, str, int, str, int]:
        cell = each.cell
        unit = names.index(cell.unit) if cell.unit in names else len(names)
        return unit, cell.dataset, _position(cell.label, study.labels), cell.label, cell.fold or 0

    return StudyResults(folder, study, read_lock(folder), sorted(cells, key=place), race, damage)


def _cell(path: Path, study: Path, damage: list[str]) -> Cell | None:
    try:
        cell = Cell.read(path)
        if cell is not None:
            _check_cell(path, study, cell)
        return cell
    except DataError as error:
        damage.append(str(error))
        return None


def _check_cell(path: Path, study: Path, cell: Cell) -> None:
    """Raises a DataError where a cell is not of its folder's data set or fold, or what it counts is no count."""
    row = path.parent if cell.fold is None else path.parent.parent
    is_own_fold = cell.fold is None or path.parent.name == f"fold-{cell.fold}"
    if not (is_own_fold and row.parent == study / CELLS and row.name.startswith(f"{cell.dataset}-")):
        raise DataError(f"{path} is of {cell.row_name}: it is damaged, or was changed")
    sizes = {key: getattr(cell, key) for key in ("num_train", "num_test", "train_groups", "test_groups")}
    for key, size in sizes.items():
        if size < 1:
            raise DataError(f"{path}: {key} must be 1 or more, got {size}")
    if not 0 <= cell.chance <= 1:
        raise DataError(f"{path}: chance must be from 0 to 1, got {cell.chance}")


def _shared(found: CellResult, known: _Columns) -> CellResult:
    """Returns a cell whose models hold their test samples' columns in common with those of other cells.

    All models of a fold were tested on the same samples: held by each, their ids would take gigabytes.

    Args:
        found: The cell.
        known: Data set, fold and column -> what was held first; entered here.
    """

    def column(model: FinalModel, name: str) -> np.ndarray:
        own: np.ndarray = getattr(model.final, name)
        first = known.setdefault((found.cell.dataset, found.cell.fold, name), own)
        return first if np.array_equal(first, own) else own

    def lighter(model: FinalModel) -> FinalModel:
        final = replace(
            model.final,
            sample_ids=column(model, "sample_ids"),
            labels=column(model, "labels"),
            groups=column(model, "groups"),
            sources=column(model, "sources"),
        )
        return replace(model, final=final)

    return replace(found, finals=[lighter(model) for model in found.finals])


def _raced(found: CellResult, race: Race) -> CellResult:
    """Returns a cell that is not open where its method was left out of its fold."""
    leaver = race.left(found.cell.dataset, found.cell.label)
    if found.status == "open" and leaver and (found.cell.fold or 0) not in leaver.folds:
        return replace(found, status="left out", reason=f"left after {len(leaver.folds)} folds: it could win no more")
    return found


def _is_wanted(cell: Cell, study: Study) -> bool:
    """Tells whether a cell is of the study as it is wanted now; what was taken out of it stays on the disk."""
    return (
        cell.unit in {data.name for data in study.datasets}
        and _position(cell.label, study.labels) < len(study.labels)
        and (study.folds is None or cell.fold in study.folds)
    )


def _position(label: str, names: Sequence[str]) -> int:
    """Returns where a row's name stands in the study; a row of `unimodal` stands where that does."""
    if label in names:
        return names.index(label)
    return next((at for at, name in enumerate(names) if label.startswith(f"{name}-")), len(names))


def load_cell(folder: Path, cell: Cell, seeds: int) -> CellResult:
    """Reads a cell.

    Args:
        folder: Where it lies.
        cell: What it is of.
        seeds: How many final models it is to have.
    """
    damage: list[str] = []
    places = [folder / f"part-{part}" for part in cell.parts] or [folder]
    searches = [found for place in places if (found := _search(place / SEARCH_FILE, damage)) is not None]
    finals, failures, waiting = [], {}, 0
    known: dict[str, str] = read_json(folder / FINALS_FILE) or {}
    for number in range(1, seeds + 1):
        run_dir = folder / f"final-{number}"
        model = _final(number, run_dir, damage)
        if model is not None:
            finals.append(model)
        elif run_dir.name in known:
            failures[number] = known[run_dir.name]
        else:
            waiting += 1
    reason = _why_no_search(searches) or _why_no_models(finals, failures, seeds, waiting=waiting > 0)
    is_open = len(searches) < len(places) or (waiting > 0 and not reason)
    status: CellStatus = "open" if is_open else "failed" if reason else "done"
    return CellResult(cell, folder, searches, finals, status, "" if is_open else reason, failures, damage)


def note_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """Enters which final models of a cell failed for good, in place of what an earlier command entered."""
    path = folder / FINALS_FILE
    if failures:
        write_json(path, dict(failures))
    else:
        path.unlink(missing_ok=True)


def _why_no_search(searches: Sequence[SearchResult]) -> str:
    for search in searches:
        if search.best is None:
            failed = next((trial for trial in search.trials if trial.status == "failed"), None)
            why = f"; {Path(failed.name).name}: {failed.reason}" if failed else ""
            return f"no trial of the search succeeded{why}"
    return ""


def _why_no_models(finals: Sequence[FinalModel], failures: Mapping[int, str], seeds: int, *, waiting: bool) -> str:
    if waiting or len(finals) >= min(FEWEST_FINALS, seeds):
        return ""
    number, why = next(iter(failures.items()))
    return f"{len(failures)} of {seeds} final models failed; final-{number}: {why}"


def _search(path: Path, damage: list[str]) -> SearchResult | None:
    try:
        found = SearchResult.read(path)
        if found is not None:
            _check_search(path, found)
        return found
    except DataError as error:
        damage.append(str(error))
        return None


def _final(number: int, run_dir: Path, damage: list[str]) -> FinalModel | None:
    try:
        result = RunResult.read(run_dir / RESULT_FILE)
        if result is not None and result.test is not None:
            _check_result(run_dir / RESULT_FILE, result)
        final = load_final(run_dir)
    except DataError as error:
        damage.append(str(error))
        return None
    return FinalModel(number, run_dir, result, final) if result is not None and final is not None else None


def _check_search(path: Path, found: SearchResult) -> None:
    """Raises a DataError where a figure is missing that a report needs of every search."""
    for trial in (*found.trials, *([found.best] if found.best else ())):
        if not _is_number(trial.device_seconds):
            raise DataError(f"{path}: device_seconds of {trial.name} must be a number, got {trial.device_seconds}")
    if found.best is None:
        return
    if not _is_number(found.best.objective):
        raise DataError(f"{path}: best has no objective, got {found.best.objective}")
    if not isinstance(get_path(found.config or {}, "trainer.max_epochs"), int):
        raise DataError(f"{path}: config has no trainer.max_epochs")


def _check_result(path: Path, result: RunResult) -> None:
    """Raises a DataError where a figure is missing that a report needs of every tested model."""
    if not isinstance(get_path(result.config, "seed"), int):
        raise DataError(f"{path}: config has no seed")
    validated = result.last if result.selects_last else result.best
    for name, row, key in (
        ("test", result.tested, FUSED_ACCURACY),
        ("test", result.tested, "epoch"),
        ("last" if result.selects_last else "best", validated, VAL_ACCURACY),
    ):
        if not _is_number(row.get(key)):
            raise DataError(f"{path}: {name} has no {key}, got {row.get(key)}")
    if not _is_number(result.device_seconds):
        raise DataError(f"{path}: device_seconds must be a number, got {result.device_seconds}")


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
