"""The figures of a report: one PNG each, narrow enough to be read on a phone, with its content in words beside it."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from mmcore.analysis.importance import Importance
from mmcore.metric_names import PROBE_ACCURACY, VAL_ACCURACY, own_metrics
from rayjobs.reporting.ranking_table import Delta, RankingTable
from rayjobs.reporting.records import TrialRecord
from rayjobs.runs.epochs.progress import EPOCH
from rayjobs.templates import COLOURS

WIDTH_IN = 4.6
DPI = 200
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.parse_math": False,  # names come from outside: a "$" in one is no formula
}


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the report.

    Attributes:
        stem: Name of its file, without the ending.
        png: Its bytes.
        alt: What it shows, in words, for whoever does not see it.
        caption: How to read it.
    """

    stem: str
    png: bytes
    alt: str
    caption: str


def intervals_picture(stem: str, table: RankingTable, reference: str) -> Picture | None:
    """Draws what each method adds to the reference on test, with its 95 % interval where there is one."""
    rows = [(row.method, row.delta) for row in table.rows if row.delta]
    if not rows:
        return None
    styles = line_styles([row.method for row in table.rows])
    with _axes(1.1 + 0.24 * len(rows)) as (figure, axes):
        axes.axvline(0, color="#666666", linewidth=1)
        for place, (method, delta) in enumerate(reversed(rows)):
            colour = styles[method][1]
            if delta.low is not None and delta.high is not None:
                axes.plot([100 * delta.low, 100 * delta.high], [place, place], color=colour, linewidth=2)
            inside = "white" if delta.low is None else colour
            axes.plot([100 * delta.mean], [place], "o", color=colour, markerfacecolor=inside)
        axes.set_yticks(range(len(rows)), [method for method, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"test accuracy, points more than {reference}")
        png = _png(figure)
    told = "; ".join(f"{method} {_points(delta)}" for method, delta in rows)
    caption = f"Right of 0: better than {reference} on test. "
    has_interval = any(delta.low is not None for _, delta in rows)
    caption += "Lines: 95 % intervals; a hollow dot has none." if has_interval else "No intervals: see the note."
    return Picture(stem, png, f"Points of test accuracy more than {reference}: {told}.", caption)


def budget_picture(stem: str, curves: Mapping[str, NDArray[np.float64]], num_folds: int) -> Picture | None:
    """Draws the best validation accuracy so far against the epochs spent, one line per method.

    Args:
        stem: Name of its file.
        curves: Method -> (E,) best so far after each epoch; in the order of the table, whose colours it has.
        num_folds: Folds the curves are means of; 1 without folds.
    """
    shown = {label: curve for label, curve in curves.items() if np.isfinite(curve).any()}
    if not shown:
        return None
    columns = 1 if max(map(len, shown)) > 24 else 2
    legend_rows = math.ceil(len(shown) / columns)
    with _axes(2.7 + 0.19 * legend_rows) as (figure, axes):
        styles = line_styles(list(curves))
        for label, curve in shown.items():
            dashes, colour = styles[label]
            epochs = np.arange(1, len(curve) + 1)
            axes.plot(epochs, curve, drawstyle="steps-post", color=colour, linestyle=dashes, linewidth=1.4, label=label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(*_accuracy_limits(shown.values()))
        _as_accuracy(axes, "epochs spent" + (" on a fold" if num_folds > 1 else ""), "best validation so far")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.22), ncols=columns)
        png = _png(figure)
    told = "; ".join(f"{label} {curve[-1]:.1%} after {len(curve)} epochs" for label, curve in shown.items())
    caption = (
        "Validation, never test. Epochs are counted trial by trial in the order the trials were started, as if they "
        "had run one after another; those of trials stopped early and failed count. The upright axis begins where the "
        "lowest line stands after a 32nd of its epochs."
    )
    if num_folds > 1:
        caption += f" Mean over {num_folds} folds; the search of a fold that ended keeps its best."
    return Picture(stem, png, f"Best validation accuracy found: {told}.", caption)


def learning_picture(stem: str, label: str, trials: Sequence[TrialRecord], best: TrialRecord) -> Picture | None:
    """Draws the validation accuracy of a method's trials by epoch; of the best one each modality's own too."""
    trained = [trial for trial in trials if trial.rows]
    if not best.rows:
        return None
    with _axes(2.6) as (figure, axes):
        for trial in trained:
            axes.plot(*_curve(trial, VAL_ACCURACY), color="#bbbbbb", linewidth=0.7, zorder=1)
        own = _own_curves(best)
        axes.plot(*_curve(best, VAL_ACCURACY), color="#000000", linewidth=1.8, label=f"best trial ({best.name}), fused")
        for colour, (name, key) in zip(COLOURS, own.items(), strict=False):
            by = " by a probe" if key.endswith(PROBE_ACCURACY) else ""
            axes.plot(*_curve(best, key), color=colour, linewidth=1.4, linestyle=DASHES[1], label=f"its {name}{by}")
        axes.plot([], [], color="#bbbbbb", linewidth=0.7, label="other trials, fused")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _as_accuracy(axes, "epoch", "validation accuracy")
        axes.legend(loc="lower right")
        png = _png(figure)
    last = best.rows[-1]
    told = ", ".join(f"{name} alone {last[key]:.1%}" for name, key in own.items() if key in last)
    alt = (
        f"Validation accuracy by epoch of {len(trained)} trials of {label}. The best, {best.name}, ends at "
        f"{last[VAL_ACCURACY]:.1%} after {len(best.rows)} epochs" + (f"; {told}." if told else ".")
    )
    return Picture(stem, png, alt, f"{label}: {len(trained)} trials; lines that end early were stopped or failed.")


def importance_picture(stem: str, label: str, importance: Importance) -> Picture:
    """Draws what each searched setting decided of a method's results."""
    shares = dict(reversed(importance.shares.items()))
    with _axes(1.0 + 0.26 * len(shares)) as (figure, axes):
        axes.barh(list(shares), [max(share, 0.0) for share in shares.values()], color=COLOURS[0], height=0.6)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlim(left=0)
        axes.set_xlabel("variance of the result lost when shuffled")
        png = _png(figure)
    told = "; ".join(f"{name} {share:.0%}" for name, share in importance.shares.items())
    caption = (
        f"{label}, {importance.num_trials} trials: how much worse a random forest foretells the validation accuracy of "
        f"trials it has not seen when one setting is shuffled. It explains {importance.explained:.0%} of the variance; "
        "the rest is seed, early stopping and noise. What is searched in a narrow range looks unimportant."
    )
    return Picture(stem, png, f"Share of the variance of {label}'s validation accuracy by setting: {told}.", caption)


@contextmanager
def _axes(height_in: float) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    # No version and no date: the same results give the same file.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def _as_accuracy(axes: Axes, across: str, upwards: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(upwards)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def line_styles(methods: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Returns each method's dashes and colour, by its place in the table; they repeat after 28."""
    pairs = list(product(DASHES, COLOURS))
    return {method: pairs[number % len(pairs)] for number, method in enumerate(methods)}


def _accuracy_limits(curves: Iterable[NDArray[np.float64]]) -> tuple[float, float]:
    """Returns the ends of the axis; it begins at the lowest of what the curves reach in a 32nd of their epochs."""
    values = [value for curve in curves for value in (curve[len(curve) // 32], curve[-1])]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.05 * (high - low) + 0.002
    return low - margin, high + margin


def _curve(trial: TrialRecord, key: str) -> tuple[list[float], list[float]]:
    rows = [row for row in trial.rows if key in row]
    return [row[EPOCH] for row in rows], [row[key] for row in rows]


def _own_curves(trial: TrialRecord) -> dict[str, str]:
    """Returns modality -> the key of its own accuracy: by its head where it has one, else by a probe."""
    return own_metrics(trial.rows[-1])


def _points(delta: Delta) -> str:
    text = f"{100 * delta.mean:+.1f}"
    if delta.low is None or delta.high is None:
        return text
    return f"{text}, interval {100 * delta.low:+.1f} to {100 * delta.high:+.1f}"
