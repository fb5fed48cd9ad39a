"""What a cell reached on the validation samples that its search chose by."""

from __future__ import annotations

from contextlib import suppress

from mmcore.errors import DataError
from mmcore.metric_names import VAL_ACCURACY
from rayjobs.experiment.search_result import SearchResult
from rayjobs.results_layout import RESULT_FILE
from rayjobs.runs.result import RunResult
from rayjobs.study.cell import Cell
from rayjobs.study.results import CellResult, FinalModel


def on_validation(result: RunResult) -> float:
    """Returns a run's accuracy on validation, in points, at the epoch that is tested."""
    row = result.last if result.selects_last else result.best
    return 100 * float(row[VAL_ACCURACY])


def part_results(cell: Cell, model: FinalModel) -> dict[str, RunResult]:
    """Returns modality -> result of the network on it alone, of a final model made of parts.

    Empty where one of them is not at hand: a study may be kept without.
    """
    found = {}
    for part in cell.parts:
        with suppress(DataError):
            result = RunResult.read(model.folder / part / RESULT_FILE)
            if result is not None:
                found[part] = result
    return found if len(found) == len(cell.parts) else {}


def searches_by_part(cell: CellResult) -> list[tuple[str, SearchResult]]:
    """Returns the modality and the search of each part of a cell; "" for a cell's one search.

    Empty while one of the parts' searches has not ended.
    """
    parts = cell.cell.parts or [""]
    return list(zip(parts, cell.searches, strict=True)) if len(cell.searches) == len(parts) else []
