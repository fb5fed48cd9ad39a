"""What `train` prints at its end: every metric on test, by seed or by fold, and what the reference had there.

An interval is over the seeds of one split, or over the folds of a cross-validation, a fold being the mean of its seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmcore.analysis.intervals import MIN_SEEDS, mean_interval
from mmcore.assembly.config import parse_config
from mmcore.data.prepared.store import PreparedDataset
from mmcore.metric_names import (
    ACCURACY,
    CALIBRATION_ERROR,
    FUSED,
    FUSED_ACCURACY,
    MACRO_F1,
    MEAN_AVERAGE_PRECISION,
    PROBE_ACCURACY,
    of_head,
    own_metrics,
)
from rayjobs.experiment.train_folder import Folds, run_folder, run_title
from rayjobs.reporting.by_class import by_class, cells, is_imbalanced, shown
from rayjobs.reporting.comparison import OVER_FOLDS, all_folds, fold_difference
from rayjobs.results_layout import RESULT_FILE
from rayjobs.runs.extra_tests import AS_STORED
from rayjobs.storage.files import read_json

Result = Mapping[str, Any]
Units = Sequence[Sequence[Result]]
"""Results by what an interval is over: one list per fold, or lists of one per seed."""


def compare_folds(results: Sequence[Result], reference: Path, folds: Folds) -> dict[str, Any]:
    """Returns by how much the runs of a cross-validation differ from a reference's on the same folds.

    Args:
        results: Of all folds.
        reference: The folder of a `train` command, with runs on each of the folds.
        folds: Those of the runs.
    """
    others = [
        [read_json(path) for path in sorted(run_folder(reference, fold).glob(f"*/{RESULT_FILE}"))] for fold in folds
    ]
    own = [[result["test"][FUSED_ACCURACY] for result in unit] for unit in _units(results)]
    base = [[result["test"][FUSED_ACCURACY] for result in unit] for unit in others]
    names = {"method": others[0][0]["config"]["method"]["name"], "folder": str(reference)}
    return {**names, **fold_difference(own, base)}


def print_results(
    results: Sequence[Result],
    folder: Path,
    prepared: PreparedDataset,
    differences: Sequence[Mapping[str, Any]],
    published: str = "",
) -> None:
    """Prints each metric on test, of every seed or fold and their mean, and the 95 % interval from three of them on.

    Args:
        results: Of every seed and fold.
        folder: Where they lie.
        prepared: Their data.
        differences: To the references.
        published: What the method's paper prints; shown beside what was made as it was, and nowhere else.
    """
    console = Console(highlight=False)
    if results[0]["selects_on_test"]:
        console.print(_on_test(results[0]), style="bold yellow")
    units = _units(results)
    has_folds = len({_fold(result) for result in results}) > 1
    _print_metrics(units, prepared, console)
    for difference in differences:
        console.print(_difference_line(difference))
    _print_classes(results, prepared, console)
    _print_extra(results, units, console)
    for result in results:
        for reading in result["readings"]:
            title = run_title(_fold(result), result["config"]["seed"])
            console.print(f"{title}: {reading['text']}", style="yellow")
    protocol = all_folds(results[0]["protocol"]) if has_folds else results[0]["protocol"]
    console.print(f"protocol {protocol}; {prepared.card}")
    if results[0]["selects_on_test"] and published:
        console.print(published)
    if has_folds:
        console.print(OVER_FOLDS)
    elif len(units) < MIN_SEEDS:
        console.print(f"no interval with fewer than {MIN_SEEDS} seeds (--seeds)")
    console.print(f"results: {folder}\ncurves:  tensorboard --logdir {folder}", soft_wrap=True)


def _on_test(result: Result) -> str:
    """Returns the heading of a table that is no fair result: validation was the test split."""
    chosen = "best epoch on test, as published" if result["config"]["trainer"]["select"] == "best" else (
        "last epoch; the learning rate fell by the loss on test, as published")  # fmt: skip
    return f"{chosen} (PAPER PROTOCOL: not a fair result, never to be ranked with one that is)"


def _print_metrics(units: Units, prepared: PreparedDataset, console: Console) -> None:
    first = units[0][0]
    variants = f" ({', '.join(first['variants'])})" if first["variants"] else ""
    table = Table(title=f"{first['config']['method']['name']}{variants} on {prepared.directory.name}: test, in percent")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("95 %", justify="right")
    table.add_column(_heading(units))
    for name, key in _metrics(first["test"]).items():
        values = _percent(units, "test", key)
        table.add_row(name, *_mean(values), "  ".join(f"{value:.1f}" for value in values))
    epochs = ["/".join(f"{result['test']['epoch']:.0f}" for result in unit) for unit in units]
    table.add_row("tested epoch", "", "", "  ".join(epochs))
    console.print(table)


def _print_classes(results: Sequence[Result], prepared: PreparedDataset, console: Console) -> None:
    """Prints each class's accuracy, by the fused prediction and each head, where classes are of unequal size."""
    first = parse_config(results[0]["config"])
    tests = [result["test"] for result in results]
    heads = [FUSED, *own_metrics(tests[0], probes=False)]
    rows = by_class(prepared, prepared.assign(first.protocol), {head: (head, tests) for head in heads})
    if first.trainer.class_weights == "none" and not is_imbalanced(rows):
        return
    some, note = shown(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class, right on test in percent", overflow="fold", max_width=30)
    for heading in ("train", "test", *heads):
        table.add_column(heading, justify="right", overflow="fold")
    for row in some:
        table.add_row(*cells(row, heads))
    console.print(table)
    if note:
        console.print(note)


def _heading(units: Units) -> str:
    seeds = list(dict.fromkeys(result["config"]["seed"] for unit in units for result in unit))
    of_seeds = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    if _fold(units[0][0]) == _fold(units[-1][0]):
        return of_seeds
    folds = ", ".join(str(_fold(unit[0])) for unit in units)
    return f"folds {folds} ({'mean of ' if len(seeds) > 1 else ''}{of_seeds})"


def _difference_line(difference: Mapping[str, Any]) -> str:
    mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    folds = "  ".join(f"{100 * value:+.1f}" for value in difference["folds"])
    return (
        f"difference to {difference['method']} ({difference['folder']}), points of accuracy, paired by fold: "
        f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]; folds {folds}"
    )


def _metrics(test: Mapping[str, float]) -> dict[str, str]:
    """Returns heading -> metric: the fused ones, then each modality's accuracy by its own head and by a probe."""
    headings = {
        "accuracy": ACCURACY,
        "macro-F1": MACRO_F1,
        "mAP": MEAN_AVERAGE_PRECISION,
        "calibration error": CALIBRATION_ERROR,
    }
    names = {heading: of_head(FUSED, metric) for heading, metric in headings.items()}
    for by, metric in (("own head", ACCURACY), ("probe", PROBE_ACCURACY)):
        names |= {f"{name} alone, {by}": of_head(name, metric) for name in own_metrics(test)}
    return {name: key for name, key in names.items() if key in test}


def _print_extra(results: Sequence[Result], units: Units, console: Console) -> None:
    """Prints what was tested beside the data as they are; at most 80 columns wide."""
    in_all = set.intersection(*(set(result["conditions"]) for result in results))
    names = [name for name in results[0]["conditions"] if name in in_all - {AS_STORED} and not name.startswith("only ")]
    if names:
        table = _extra_table("fused accuracy on test, in percent", "change")
        clean = _percent(units, "conditions", AS_STORED, FUSED_ACCURACY)
        for name in [AS_STORED, *names]:
            values = _percent(units, "conditions", name, FUSED_ACCURACY)
            change = mean_interval([a - b for a, b in zip(values, clean, strict=True)])[0]
            table.add_row(name, *_mean(values), "" if name == AS_STORED else f"{change:+.1f}")
        console.print(table)
        console.print(
            "missing: that share of the samples loses one modality; noise: Gaussian, in units of the encoder's input "
            "(deviation about 1); the same samples and noise for every method"
        )
    if all(result["shapley"] for result in results):
        _print_shapley(units, console)


def _print_shapley(units: Units, console: Console) -> None:
    table = _extra_table("Shapley: points of test accuracy", "share")
    bounds = {key: _percent(units, "shapley", key) for key in ("none", "all")}
    total = sum(bounds["all"]) - sum(bounds["none"])
    for name in units[0][0]["shapley"]["contributions"]:
        values = _percent(units, "shapley", "contributions", name)
        table.add_row(name, *_mean(values), f"{sum(values) / total:.0%}" if total else "")
    table.add_row("none (most frequent class)", *_mean(bounds["none"]), "")
    table.add_row("all", *_mean(bounds["all"]), "")
    console.print(table)


def _extra_table(title: str, last: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold", max_width=46)
    for heading in ("mean", "95 %", last):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _fold(result: Result) -> int | None:
    protocol = result["config"]["protocol"]
    return protocol["fold"] if protocol["name"] == "cv" else None


def _units(results: Sequence[Result]) -> Units:
    """Returns the results of each fold where there are several, else each for itself."""
    folds = list(dict.fromkeys(_fold(result) for result in results))
    if len(folds) == 1:
        return [[result] for result in results]
    return [[result for result in results if _fold(result) == fold] for fold in folds]


def _percent(units: Units, *path: str) -> list[float]:
    """Returns each unit's mean of what stands at a path in its results, times 100."""
    return [100 * mean_interval([_at(result, path) for result in unit])[0] for unit in units]


def _at(result: Any, path: Sequence[str]) -> float:
    for key in path:
        result = result[key]
    return float(result)


def _mean(values: Sequence[float]) -> tuple[str, str]:
    mean, half_width = mean_interval(values)
    return f"{mean:.1f}", "" if half_width is None else f"± {half_width:.1f}"
