"""What `train` prints at its end: every metric on test, by seed or by fold, and what the reference had there.

An interval is over the seeds of one split, or over the folds of a cross-validation, a fold being the mean of its seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
from rayjobs.runs.extra_tests import AS_STORED
from rayjobs.runs.result import RunResult, Shapley, read_results
from rayjobs.storage.json_record import JsonRecord

T = TypeVar("T")

Units = Sequence[Sequence[RunResult]]
"""Results by what an interval is over: one list per fold, or lists of one per seed."""


@dataclass(frozen=True, kw_only=True)
class Difference(JsonRecord):
    """By how much the runs of a cross-validation differ from a reference's, in accuracy on test, paired by fold.

    Attributes:
        method: The reference's method.
        folder: Where its runs lie.
        mean: Mean over the folds.
        low: Lower end of its 95 % interval over the folds; None with too few folds.
        high: Upper end.
        folds: Difference on each fold.
    """

    method: str
    folder: str
    mean: float
    low: float | None
    high: float | None
    folds: list[float]


def compare_folds(results: Sequence[RunResult], reference: Path, folds: Folds) -> Difference:
    """Returns by how much the runs of a cross-validation differ from a reference's on the same folds.

    Args:
        results: Results of all folds.
        reference: The folder of a `train` command, with runs on each of the folds.
        folds: Those of the runs.
    """
    others = [read_results(run_folder(reference, fold)) for fold in folds]
    own = [[result.tested[FUSED_ACCURACY] for result in unit] for unit in _units(results)]
    base = [[result.tested[FUSED_ACCURACY] for result in unit] for unit in others]
    delta = fold_difference(own, base)
    return Difference(
        method=others[0][0].method,
        folder=str(reference),
        mean=delta.mean,
        low=delta.low,
        high=delta.high,
        folds=delta.folds or [],
    )


def print_results(
    results: Sequence[RunResult],
    folder: Path,
    prepared: PreparedDataset,
    differences: Sequence[Difference],
    published: str = "",
) -> None:
    """Prints each metric on test, of every seed or fold and their mean, and the 95 % interval from three of them on.

    Args:
        results: Results of every seed and fold.
        folder: Where they lie.
        prepared: Their data.
        differences: To the references.
        published: What the method's paper prints; shown beside what was made as it was, and nowhere else.
    """
    console = Console(highlight=False)
    if results[0].selects_on_test:
        console.print(_on_test(results[0]), style="bold yellow")
    units = _units(results)
    has_folds = len({result.fold for result in results}) > 1
    _print_metrics(units, prepared, console)
    for difference in differences:
        console.print(_difference_line(difference))
    _print_classes(results, prepared, console)
    _print_extra(results, units, console)
    for result in results:
        title = run_title(result.fold, result.seed)
        for text in (*result.notices, *(reading.text for reading in result.readings)):
            console.print(f"{title}: {text}", style="yellow")
    protocol = all_folds(results[0].protocol) if has_folds else results[0].protocol
    console.print(f"protocol {protocol}; {prepared.card}")
    if results[0].selects_on_test and published:
        console.print(published)
    if has_folds:
        console.print(OVER_FOLDS)
    elif len(units) < MIN_SEEDS:
        console.print(f"no interval with fewer than {MIN_SEEDS} seeds (--seeds)")
    console.print(f"results: {folder}\ncurves:  tensorboard --logdir {folder}", soft_wrap=True)


def _on_test(result: RunResult) -> str:
    """Returns the heading of a table that is no fair result: validation was the test split."""
    chosen = "best epoch on test, as published"
    if result.selects_last:
        chosen = "last epoch; the learning rate fell by the loss on test, as published"
    return f"{chosen} (PAPER PROTOCOL: not a fair result, never to be ranked with one that is)"


def _print_metrics(units: Units, prepared: PreparedDataset, console: Console) -> None:
    first = units[0][0]
    variants = f" ({', '.join(first.variants)})" if first.variants else ""
    table = Table(title=f"{first.method}{variants} on {prepared.directory.name}: test, in percent")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("95 %", justify="right")
    table.add_column(_heading(units))
    for name, key in _metrics(first.tested).items():
        values = _percent(units, functools.partial(_tested, key))
        table.add_row(name, *_mean(values), "  ".join(f"{value:.1f}" for value in values))
    epochs = ["/".join(f"{result.tested['epoch']:.0f}" for result in unit) for unit in units]
    table.add_row("tested epoch", "", "", "  ".join(epochs))
    console.print(table)


def _tested(metric: str, result: RunResult) -> float:
    return result.tested[metric]


def _print_classes(results: Sequence[RunResult], prepared: PreparedDataset, console: Console) -> None:
    """Prints each class's accuracy, by the fused prediction and each head, where classes are of unequal size."""
    first = parse_config(results[0].config)
    tests = [result.tested for result in results]
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
    seeds = list(dict.fromkeys(result.seed for unit in units for result in unit))
    of_seeds = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    if units[0][0].fold == units[-1][0].fold:
        return of_seeds
    folds = ", ".join(str(unit[0].fold) for unit in units)
    return f"folds {folds} ({'mean of ' if len(seeds) > 1 else ''}{of_seeds})"


def _difference_line(difference: Difference) -> str:
    folds = "  ".join(f"{100 * value:+.1f}" for value in difference.folds)
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f" [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    return (
        f"difference to {difference.method} ({difference.folder}), points of accuracy, paired by fold: "
        f"{100 * difference.mean:+.2f}{interval}; folds {folds}"
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


def _print_extra(results: Sequence[RunResult], units: Units, console: Console) -> None:
    """Prints what was tested beside the data as they are; at most 80 columns wide."""
    in_all = set.intersection(*(set(result.conditions) for result in results))
    names = [name for name in results[0].conditions if name in in_all - {AS_STORED} and not name.startswith("only ")]
    if names:
        table = _extra_table("fused accuracy on test, in percent", "change")
        clean = _percent(units, lambda result: result.conditions[AS_STORED][FUSED_ACCURACY])
        for name in [AS_STORED, *names]:
            values = _percent(units, functools.partial(_under, name))
            change = mean_interval([a - b for a, b in zip(values, clean, strict=True)])[0]
            table.add_row(name, *_mean(values), "" if name == AS_STORED else f"{change:+.1f}")
        console.print(table)
        console.print(
            "missing: that share of the samples loses one modality; noise: Gaussian, in units of the encoder's input "
            "(deviation about 1); the same samples and noise for every method"
        )
    found = [[result.shapley for result in unit if result.shapley] for unit in units]
    if sum(map(len, found)) == len(results):
        _print_shapley(found, console)


def _under(condition: str, result: RunResult) -> float:
    """Returns the fused accuracy under a condition."""
    return result.conditions[condition][FUSED_ACCURACY]


def _print_shapley(units: Sequence[Sequence[Shapley]], console: Console) -> None:
    table = _extra_table("Shapley: points of test accuracy", "share")
    none = _percent(units, lambda found: found.none)
    whole = _percent(units, lambda found: found.all)
    total = sum(whole) - sum(none)
    for name in units[0][0].contributions:
        values = _percent(units, functools.partial(_contribution, name))
        table.add_row(name, *_mean(values), f"{sum(values) / total:.0%}" if total else "")
    table.add_row("none (most frequent class)", *_mean(none), "")
    table.add_row("all", *_mean(whole), "")
    console.print(table)


def _contribution(name: str, found: Shapley) -> float:
    return found.contributions[name]


def _extra_table(title: str, last: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold", max_width=46)
    for heading in ("mean", "95 %", last):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _units(results: Sequence[RunResult]) -> Units:
    """Returns the results of each fold where there are several, else each for itself."""
    folds = list(dict.fromkeys(result.fold for result in results))
    if len(folds) == 1:
        return [[result] for result in results]
    return [[result for result in results if result.fold == fold] for fold in folds]


def _percent(units: Sequence[Sequence[T]], of: Callable[[T], float]) -> list[float]:
    """Returns each unit's mean of one figure of its results, times 100."""
    return [100 * mean_interval([of(result) for result in unit])[0] for unit in units]


def _mean(values: Sequence[float]) -> tuple[str, str]:
    mean, half_width = mean_interval(values)
    return f"{mean:.1f}", "" if half_width is None else f"± {half_width:.1f}"
