"""The templates of pages, and what fills them: tables, colours, and how a template becomes text.

Everything on a page that comes from files or from a command line is escaped by the template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jinja2

# Okabe and Ito's colours, told apart by colour-blind readers too; yellow is left out, which white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
WORDS = ("trial", "state", "settings", "reason", "word")
"""Headings of columns that hold words, and stand to the left."""


@dataclass(frozen=True)
class Grid:
    """A table of text; the first cell of a row is its heading.

    Attributes:
        caption: What it shows.
        headings: One a column.
        rows: A cell is escaped, unless it is markup.
        words: Headings of columns that stand to the left.
    """

    kind: ClassVar[str] = "grid"
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = WORDS


def render(template: str, values: Mapping[str, object]) -> str:
    """Returns a page: a template of this folder, filled in; each value it names must be given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rayjobs"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(values)


def file_stem(*parts: str) -> str:
    """Returns a file's name: a data set's or a method's may hold what a path must not."""
    return "-".join(re.sub(r"[^\w.+=]+", "_", part) for part in parts)
