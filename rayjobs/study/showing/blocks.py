"""What a section of the page is made of, from its heading to its end; `compare.html` shows each by its kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from rayjobs.study.showing.drawing.shapes import Figure
from rayjobs.templates import Grid


@dataclass(frozen=True)
class Heading:
    """A heading under the section's."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Note:
    """A line of text; `style` is "", "warning" or "failure"."""

    kind: ClassVar[str] = "note"
    text: str
    style: str = ""


@dataclass(frozen=True)
class Commands:
    """Command -> what it does."""

    kind: ClassVar[str] = "commands"
    lines: Mapping[str, str]


@dataclass(frozen=True)
class Item:
    """One item of a list: how it stands, as a sign and a word, what is asked, and what shows it."""

    name: str
    sign: str
    state: str
    title: str
    evidence: Sequence[str]


@dataclass(frozen=True)
class Checks:
    """A checklist, numbered from 1; what shows an item stands beneath it, which a narrow screen has room for."""

    kind: ClassVar[str] = "checks"
    items: Sequence[Item]


@dataclass(frozen=True)
class Details:
    """What may be folded away; it is open at first, so that print has it."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


Block: TypeAlias = "Heading | Note | Commands | Checks | Details | Grid | Figure"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: Its link.
        heading: Its heading.
        blocks: What follows it.
    """

    id: str
    heading: str
    blocks: Sequence[Block]


def figures_in(blocks: Sequence[Block]) -> Iterator[Figure]:
    """Yields the figures among blocks, also of those folded away."""
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Details):
            yield from figures_in(block.blocks)


def split_columns(grid: Grid, most: int) -> list[Grid]:
    """Returns a table as several of about one width, of at most `most` columns beside the first: paper is narrow."""
    width = len(grid.headings) - 1
    if width <= most:
        return [grid]
    wide = math.ceil(width / math.ceil(width / most))
    parts = []
    for start in range(1, width + 1, wide):
        own = slice(start, start + wide)
        headings = [grid.headings[0], *grid.headings[own]]
        rows = [[row[0], *row[own]] for row in grid.rows]
        named = headings[1] if len(headings) == 2 else f"{headings[1]} to {headings[-1]}"
        parts.append(Grid(f"{grid.caption} ({named})", headings, rows, grid.words))
    return parts
