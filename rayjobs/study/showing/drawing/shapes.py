"""Shapes of a figure. Across, places are shares of its width in percent; downwards, they are pixels.

So a figure takes whatever width there is, and its text keeps its size: on a phone, on paper, in a window of any width.
Colours come from the classes `m0`, `m1`, ... (a method's) and `axis`, `faint`, `band`, so that a page can darken them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup, escape

from rayjobs.templates import COLOURS, Grid

DASHES = ("", "6 3", "1.5 2.5", "8 3 2 3")
"""Of lines whose colours repeat."""
LABELS_END, PLOT, WORDS_AT = 30.0, (32.0, 76.0), 78.5
"""Columns of a figure of rows, in percent: labels, what is drawn, words."""
FONT_PX = 11
ROW_PX = 22
LIGHT = {"text": "#1a1a1a", "axis": "#666666", "faint": "#dddddd", "band": "#e8eef4", "page": "#ffffff"}
WIDTH_PX = 720
"""Of a figure's own file."""


@dataclass(frozen=True)
class Figure:
    """A figure, as it stands in the page and in a file of its own.

    Attributes:
        stem: Name of its file, without the ending.
        title: What it is of.
        description: Its content in words, for whoever does not see it.
        caption: How to read it.
        height: In pixels.
        shapes: What is drawn.
        tables: Its numbers, where no other table has them.
    """

    kind: ClassVar[str] = "figure"
    stem: str
    title: str
    description: str
    caption: str
    height: float
    shapes: Sequence[Markup]
    tables: Sequence[Grid] = ()

    @property
    def inline(self) -> Markup:
        """It as a part of a page."""
        names = Markup('aria-labelledby="{0}-title {0}-desc"').format(self.stem)
        opening = Markup('<svg class="drawn" role="img" {} width="100%" height="{:g}">').format(names, self.height)
        title = Markup('<title id="{0}-title">{1}</title>').format(self.stem, self.title)
        told = Markup('<desc id="{0}-desc">{1}</desc>').format(self.stem, self.description)
        return _joined([opening, title, told, *self.shapes, Markup("</svg>")])

    @property
    def file(self) -> str:
        """It as a file of its own, on white."""
        opening = Markup('<svg xmlns="http://www.w3.org/2000/svg" class="drawn" width="{}" height="{:g}">').format(
            WIDTH_PX, self.height
        )
        style = Markup("<style>{}</style>").format(Markup(style_sheet()))
        told = Markup("<title>{}</title><desc>{}</desc>").format(self.title, self.description)
        ground = Markup('<rect width="100%" height="100%" fill="{}"/>').format(LIGHT["page"])
        return str(_joined([opening, told, style, ground, *self.shapes, Markup("</svg>")])) + "\n"


def style_sheet() -> str:
    """Returns the style of all figures, in light colours."""
    classes = {name: colour for name, colour in LIGHT.items() if name not in ("text", "page")}
    classes |= {f"m{number}": colour for number, colour in enumerate(COLOURS)}
    lines = [f".drawn text {{ font: {FONT_PX}px system-ui, sans-serif; fill: {LIGHT['text']}; }}"]
    return "\n".join([*lines, *(f".drawn .{name} {{ color: {colour}; }}" for name, colour in classes.items())])


def method_class(place: int) -> str:
    """Returns the class of a method's colour by its place in the study; colours repeat after seven."""
    return f"m{place % len(COLOURS)}"


def dashes_of(place: int) -> str:
    """Returns the dashes of a method's line, which change where colours repeat."""
    return DASHES[place // len(COLOURS) % len(DASHES)]


@dataclass(frozen=True)
class Scale:
    """Numbers from left to right: `low` at the first end of the plot, `high` at the second, in percent of the width."""

    low: float
    high: float
    ends: tuple[float, float] = PLOT

    def at(self, value: float) -> float:
        """Returns where a number lies; one beyond an end lies on it."""
        share = (value - self.low) / (self.high - self.low)
        return self.ends[0] + (self.ends[1] - self.ends[0]) * min(max(share, 0.0), 1.0)


def scale_over(values: Iterable[float], ends: tuple[float, float] = PLOT, least: float = 1.0) -> Scale:
    """Returns a scale over all of some numbers and a little more, at least `least` from end to end."""
    found = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(found), max(found)
    more = max(0.04 * (high - low), (least - (high - low)) / 2)
    return Scale(low - more, high + more, ends)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from low to high, at most `most`: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power, 20 * power) if step * most >= high - low)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]


def tick_text(value: float, *, sign: bool = False) -> str:
    """Returns a tick's number, with `+` where signs matter: `+2`, `0`, `1,500`."""
    text = f"{value:,.6g}"
    return f"+{text}" if sign and value > 0 else text


def line(
    start: tuple[float, float],
    end: tuple[float, float],
    name: str,
    *,
    width: float = 1.0,
    dashes: str = "",
    round_ends: bool = False,
) -> Markup:
    """Draws a line between two places (percent, pixels) in the colour of a class."""
    more = Markup(' stroke-dasharray="{}"').format(dashes) if dashes else Markup("")
    more += Markup(' stroke-linecap="round"') if round_ends else Markup("")
    return Markup(
        '<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}" '
        'stroke="currentColor" stroke-width="{:g}"{}/>'
    ).format(name, start[0], start[1], end[0], end[1], width, more)


def dot(x: float, y: float, name: str, radius: float, *, hollow: bool = False, opacity: float = 1.0) -> Markup:
    """Draws a dot at (percent, pixels)."""
    fill = Markup('fill="none" stroke="currentColor"') if hollow else Markup('fill="currentColor"')
    more = Markup(' opacity="{:g}"').format(opacity) if opacity < 1 else Markup("")
    return Markup('<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="{:g}" {}{}/>').format(name, x, y, radius, fill, more)


def box(x: tuple[float, float], y: tuple[float, float], name: str) -> Markup:
    """Fills a box from x to x (percent) and y to y (pixels)."""
    return Markup(
        '<rect class="{}" x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}" fill="currentColor"/>'
    ).format(name, x[0], y[0], x[1] - x[0], y[1] - y[0])


def text(x: float, y: float, words: str, *, anchor: str = "start", whole: str = "") -> Markup:
    """Writes words whose middle is y; `whole` is what stands for them where they were shortened."""
    more = Markup("<title>{}</title>").format(whole) if whole and whole != words else Markup("")
    return Markup('<text x="{:.2f}%" y="{:.1f}" text-anchor="{}">{}{}</text>').format(
        x, y + 0.35 * FONT_PX, anchor, more, escape(words)
    )


@dataclass(frozen=True)
class Frame:
    """The box of a plot of curves: from left to right in percent, from top to bottom in pixels."""

    left: float
    right: float
    top: float
    bottom: float


def curve(places: Sequence[tuple[float, float]], name: str, frame: Frame, dashes: str = "") -> Markup:
    """Draws steps through places in [0, 1], (0, 0) below to the left of a box, in the colour of a class."""
    more = Markup(' stroke-dasharray="{}"').format(dashes) if dashes else Markup("")
    path = Markup(
        '<path class="{}" d="M{}" fill="none" stroke="currentColor" stroke-width="1.6" '
        'vector-effect="non-scaling-stroke"{}/>'
    ).format(name, _steps(places), more)
    return _stretched(path, frame)


def range_of(
    low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], name: str, frame: Frame
) -> Markup:
    """Fills what lies between two curves of the same places across, faintly."""
    back = [(next_across, up) for (next_across, _), (_, up) in zip(low[1:], low[:-1], strict=True)]
    # Backwards a step rises first: the places are those where each level ends.
    outline = f"M{_steps(high)}L{_steps([low[-1], *reversed(back)])}H{1000 * low[0][0]:.1f}Z"
    path = Markup('<path class="{}" d="{}" fill="currentColor" opacity="0.13"/>').format(name, outline)
    return _stretched(path, frame)


def _steps(places: Sequence[tuple[float, float]]) -> str:
    first = f"{1000 * places[0][0]:.1f} {1000 * (1 - places[0][1]):.1f}"
    return first + "".join(f"H{1000 * across:.1f}V{1000 * (1 - up):.1f}" for across, up in places[1:])


def _stretched(path: Markup, frame: Frame) -> Markup:
    """Returns a path of 1000 x 1000 as wide and as high as its box."""
    return Markup(
        '<svg x="{:.2f}%" y="{:.1f}" width="{:.2f}%" height="{:.1f}" viewBox="0 0 1000 1000" '
        'preserveAspectRatio="none">{}</svg>'
    ).format(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top, path)


def axis(scale: Scale, top: float, bottom: float, title: str, *, sign: bool = False) -> list[Markup]:
    """Draws an axis beneath a plot, with a faint line upwards at each tick; it takes 34 pixels."""
    drawn = []
    for value in ticks(scale.low, scale.high):
        x = scale.at(value)
        drawn += [
            line((x, top), (x, bottom), "faint", width=0.7),
            text(x, bottom + 10, tick_text(value, sign=sign), anchor="middle"),
        ]
    middle = sum(scale.ends) / 2
    return [
        *drawn,
        line((scale.ends[0], bottom), (scale.ends[1], bottom), "axis"),
        text(middle, bottom + 26, title, anchor="middle"),
    ]


AXIS_PX = 36


def apart(places: Sequence[float], least: float, bottom: float) -> list[float]:
    """Moves places down as little as needed for each to be `least` from the next one, all above `bottom`.

    Args:
        places: Where each would like to be.
        least: Distance between neighbours.
        bottom: The last may be no lower, unless there is no room.
    """
    order = sorted(range(len(places)), key=lambda at: (places[at], at))
    moved = list(places)
    lowest = -math.inf
    for at in order:
        lowest = moved[at] = max(moved[at], lowest + least)
    highest = max(bottom, least * (len(places) - 1))
    for at in reversed(order):
        moved[at] = min(moved[at], highest)
        highest = moved[at] - least
    return moved


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
