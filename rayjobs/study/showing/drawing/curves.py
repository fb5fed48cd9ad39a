"""The figures of what was spent: the best on validation so far against trials, epochs or device-seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mmcore.analysis.intervals import MeanSteps, mean_steps
from rayjobs.study.document import BudgetEntry, CurvePoint
from rayjobs.study.showing import wording
from rayjobs.study.showing.drawing.shapes import (
    AXIS_PX,
    Figure,
    Frame,
    Scale,
    apart,
    axis,
    curve,
    dashes_of,
    dot,
    line,
    method_class,
    range_of,
    text,
    tick_text,
    ticks,
)
from rayjobs.study.showing.reading import OfDataset

Cost = Literal["device_seconds", "epochs", "trials"]
COSTS: Mapping[Cost, str] = {"device_seconds": "device-seconds", "epochs": "epochs", "trials": "trials"}
ACROSS, LABELS_AT = (9.0, 63.0), 67.0
TOP, LEAST_PX, LABEL_PX = 8.0, 200.0, 14.0
MOST_RANGES = 2
"""Methods whose folds' range is drawn; of more they would hide each other."""
SETTLED = 8
"""The upright axis begins at the lowest of what curves reach in this part of their cost."""


def found(budget: BudgetEntry, cost: Cost) -> MeanSteps | None:
    """Returns the best on validation so far, mean over folds; None where a fold has none: it would be left out."""
    pairs = [_numbers(points, cost) for points in budget.curves.values()]
    return mean_steps(pairs) if pairs and all(costs for costs, _ in pairs) else None


def budget_figure(stem: str, data: OfDataset, labels: Sequence[str], cost: Cost) -> Figure | None:
    """Draws the best validation accuracy so far against one kind of cost, one line a method.

    Args:
        stem: Name of its file.
        data: The data set.
        labels: The study's methods, in its order, which gives the colours.
        cost: What stands across.

    Returns:
        None where nothing was found yet.
    """
    curves = {each.method: steps for each in data.budgets if (steps := found(each, cost)) is not None}
    if not curves:
        return None
    bounds = _limits(list(curves.values()))
    ranges = len(curves) <= MOST_RANGES
    unit = COSTS[cost]
    caption = (
        f"As above, against {unit}."
        if cost != next(iter(COSTS))
        else (
            f"Validation, never test; trials in the order of their number, the whole cost of one before its result. "
            f"Mean over folds; their range is {'shaded' if ranges else 'in the table'}. "
            "The upright axis begins where the lowest line stands after an eighth of its cost."
        )
    )
    ends = "; ".join(f"{name} {steps.mean[-1]:.1f} after {steps.costs[-1]:,.0f}" for name, steps in curves.items())
    height, shapes = _drawn(_Plot(curves, labels, bounds, f"{unit} of a fold", ranges=ranges))
    return Figure(
        stem=stem,
        title=f"{data.name}: best on validation so far against {unit} of a fold",
        description=f"Best validation accuracy in percent after all {unit}: {ends}.",
        caption=caption,
        height=height,
        shapes=shapes,
    )


def expected_figure(stem: str, data: OfDataset, labels: Sequence[str]) -> Figure | None:
    """Draws the expected best of n trials; None where trials were not exchangeable."""
    curves = {}
    for each in data.budgets:
        values = [value for value in each.expected_best or [] if wording.known(value)]
        if values:
            curves[each.method] = mean_steps([(range(1, len(values) + 1), values)])
    if not curves:
        return None
    ends = "; ".join(f"{name} {steps.mean[-1]:.1f} of {len(steps.mean)}" for name, steps in curves.items())
    height, shapes = _drawn(_Plot(curves, labels, _limits(list(curves.values())), "trials", ranges=False))
    return Figure(
        stem=stem,
        title=f"{data.name}: expected best on validation of n trials",
        description=f"Expected best validation accuracy in percent: {ends}.",
        caption="Mean over folds. It goes no further than the trials that were made.",
        height=height,
        shapes=shapes,
    )


@dataclass(frozen=True)
class _Plot:
    curves: Mapping[str, MeanSteps]
    labels: Sequence[str]
    bounds: tuple[float, float]
    across: str
    ranges: bool


@dataclass(frozen=True)
class _Axes:
    """Where things lie: costs across in percent, accuracies upwards in pixels."""

    scale: Scale
    bounds: tuple[float, float]
    bottom: float

    def up(self, value: float) -> float:
        """Returns the share of the height, within [0, 1]."""
        share = (value - self.bounds[0]) / (self.bounds[1] - self.bounds[0])
        return min(max(share, 0.0), 1.0)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - TOP) * self.up(value)


def _drawn(plot: _Plot) -> tuple[float, list[Markup]]:
    """Returns the height and the shapes of a figure of lines, each named at its end."""
    height = max(LEAST_PX, LABEL_PX * len(plot.curves))
    most = max(float(steps.costs[-1]) for steps in plot.curves.values())
    axes = _Axes(Scale(0.0, most, ACROSS), plot.bounds, TOP + height)
    drawn = [*axis(axes.scale, TOP, axes.bottom, plot.across), *_upright(axes)]
    ends = [axes.y(float(steps.mean[-1])) for steps in plot.curves.values()]
    for (name, steps), y in zip(plot.curves.items(), apart(ends, LABEL_PX, axes.bottom), strict=True):
        drawn += _line(steps, plot.labels.index(name), axes, ranges=plot.ranges)
        x, end = axes.scale.at(float(steps.costs[-1])), axes.y(float(steps.mean[-1]))
        colour = method_class(plot.labels.index(name))
        drawn += [
            dot(x, end, colour, 2.6),
            line((x, end), (ACROSS[1] + 0.5, end), colour, width=0.7, dashes="1 3"),
            line((ACROSS[1] + 0.5, end), (LABELS_AT - 0.7, y), colour, width=0.7),
            text(LABELS_AT, y, wording.shortened(name), whole=name),
        ]
    return axes.bottom + AXIS_PX, drawn


def _line(steps: MeanSteps, place: int, axes: _Axes, *, ranges: bool) -> list[Markup]:
    name, frame = method_class(place), Frame(*ACROSS, TOP, axes.bottom)
    across = [cost / axes.scale.high for cost in steps.costs.tolist()]

    def places(values: NDArray[np.float64]) -> list[tuple[float, float]]:
        return list(zip(across, (axes.up(value) for value in values.tolist()), strict=True))

    drawn = [range_of(places(steps.low), places(steps.high), name, frame)] if ranges else []
    return [*drawn, curve(places(steps.mean), name, frame, dashes_of(place))]


def _upright(axes: _Axes) -> list[Markup]:
    drawn = []
    for value in ticks(*axes.bounds):
        y = axes.y(value)
        drawn += [
            line((ACROSS[0], y), (ACROSS[1], y), "faint", width=0.7),
            text(ACROSS[0] - 0.8, y, tick_text(value), anchor="end"),
        ]
    return [*drawn, line((ACROSS[0], TOP), (ACROSS[0], axes.bottom), "axis")]


def _limits(curves: Sequence[MeanSteps]) -> tuple[float, float]:
    values = [float(value) for steps in curves for value in (steps.mean[_settled(steps)], steps.mean[-1])]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) + 0.2
    return low - margin, high + margin


def _settled(steps: MeanSteps) -> int:
    return min(int((steps.costs < steps.costs[-1] / SETTLED).sum()), len(steps.costs) - 1)


def _numbers(points: Sequence[CurvePoint], cost: Cost) -> tuple[list[float], list[float]]:
    having = [point for point in points if wording.known(point.best)]
    return [float(getattr(point, cost)) for point in having], [point.best for point in having]
