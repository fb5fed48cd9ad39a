"""CSV tables of a study, with every digit: a program's other way to read what `compare.json` holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from rayjobs.study.document import CellEntry, Comparison, FinalEntry, OverDatasets, StudyDocument
from rayjobs.study.showing import wording

Value = str | int | float | None


def results_csv(document: StudyDocument) -> str:
    """Returns a row for each final model, and one without a seed for each cell that has none: why stands in it."""
    names = list(dict.fromkeys(name for cell in document.cells for final in cell.finals for name in final.metrics))
    fixed = ("dataset", "method", "fold", "seed", "status", "reason", "val", "epochs", "best_epoch", "device_seconds",
             "predictions", "sha256")  # fmt: skip
    rows: list[Mapping[str, Value]] = []
    for cell in document.cells:
        rows += [_cell(cell) | _final(final) | _metrics(final) for final in cell.finals] or [_cell(cell)]
    return _text([*fixed, *(f"test_{name}" for name in names)], rows)


def trials_csv(document: StudyDocument) -> str:
    """Returns a row for each trial: what its search had spent by then, and the best on validation so far."""
    rows: list[Mapping[str, Value]] = [
        {"dataset": budget.dataset, "method": budget.method, "fold": fold, "trials": point.trials,
         "epochs": point.epochs, "device_seconds": point.device_seconds, "best_val": point.best}
        for budget in document.budgets for fold, points in budget.curves.items() for point in points
    ]  # fmt: skip
    return _text(("dataset", "method", "fold", "trials", "epochs", "device_seconds", "best_val"), rows)


def comparisons_csv(document: StudyDocument) -> str:
    """Returns a row for each comparison."""
    names = ("dataset", "a", "b", "family", "d", "s_d", "k", "rho", "plain_low", "plain_high", "corrected_low",
             "corrected_high", "p", "p_holm", "p_tost", "p_tost_holm", "p_not_worse_holm", "p_worse", "p_within",
             "p_better", "p_win", "variance_folds", "variance_seeds", "narrows", "only_a", "only_b", "word",
             "note")  # fmt: skip
    return _text(names, [_comparison(each) for each in document.comparisons])


def ranks_csv(over: OverDatasets, labels: Sequence[str]) -> str:
    """Returns a row for each method: what the data sets say together."""
    pairs = {pair.a: pair for pair in over.pairs}
    sets = list(dict.fromkeys(name for pair in over.pairs for name in pair.differences))
    rows = []
    for label in labels:
        pair, scale = pairs.get(label), over.profiles.get(label, {})
        row: dict[str, Value] = {"method": label, "rank": over.ranks.get(label), "middle": scale.get("middle"),
                                 "middle_low": scale.get("low"), "middle_high": scale.get("high")}  # fmt: skip
        row |= _three(pair.bayes if pair else None) | {"p": pair.p if pair else None}
        row |= {"p_holm": pair.p_holm if pair else None, "note": pair.note if pair else ""}
        rows.append(row | {f"d_{name}": pair.differences.get(name) if pair else None for name in sets})
    names = ("method", "rank", "middle", "middle_low", "middle_high", "p_worse", "p_within", "p_better", "p", "p_holm",
             "note")  # fmt: skip
    return _text([*names, *(f"d_{name}" for name in sets)], rows)


def _cell(cell: CellEntry) -> dict[str, Value]:
    return {"dataset": cell.dataset, "method": cell.method, "fold": cell.fold, "status": cell.status,
            "reason": cell.reason}  # fmt: skip


def _metrics(final: FinalEntry) -> dict[str, Value]:
    return {f"test_{name}": value for name, value in final.metrics.items()}


def _final(final: FinalEntry) -> dict[str, Value]:
    return {
        "seed": final.seed,
        "val": final.val,
        "epochs": final.epochs,
        "best_epoch": final.best_epoch,
        "device_seconds": final.device_seconds,
        "predictions": final.predictions,
        "sha256": final.sha256,
    }


def _comparison(each: Comparison) -> dict[str, Value]:
    plain, corrected = each.plain or (None, None), each.corrected or (None, None)
    variance = each.variance or (None, None)
    return {
        "dataset": each.dataset, "a": each.a, "b": each.b, "family": each.family, "d": each.d, "s_d": each.s_d,
        "k": each.k, "rho": each.rho, "plain_low": plain[0], "plain_high": plain[1], "corrected_low": corrected[0],
        "corrected_high": corrected[1], "p": each.p, "p_holm": each.p_holm, "p_tost": each.p_tost,
        "p_tost_holm": each.p_tost_holm, "p_not_worse_holm": each.p_not_worse_holm, **_three(each.bayes),
        "p_win": each.p_win, "variance_folds": variance[0], "variance_seeds": variance[1], "narrows": each.narrows,
        "only_a": each.only_a, "only_b": each.only_b, "word": each.word, "note": each.note,
    }  # fmt: skip


def _three(shares: tuple[float, float, float] | None) -> dict[str, Value]:
    return dict(zip(("p_worse", "p_within", "p_better"), shares or (None, None, None), strict=True))


def _text(names: Sequence[str], rows: Iterable[Mapping[str, Value]]) -> str:
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_shown(row.get(name)) for name in names] for row in rows)
    return target.getvalue()


def _shown(value: Value) -> Value:
    """Returns a value as the file has it: nothing where there is no number."""
    return "" if value is None or (isinstance(value, float) and not wording.known(value)) else value
