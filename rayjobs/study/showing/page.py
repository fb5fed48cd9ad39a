"""The study's page: one HTML file that needs nothing beside it and no script, the answer first.

Everything in it that comes from files or from a command line is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayjobs.study.document import StudyDocument
from rayjobs.study.showing.blocks import Section, figures_in
from rayjobs.study.showing.dataset_section import dataset_section
from rayjobs.study.showing.drawing.shapes import Figure, style_sheet
from rayjobs.study.showing.reading import of_datasets
from rayjobs.study.showing.study_sections import (
    checklist_section,
    edges_section,
    failures_section,
    lock_section,
    over_section,
    power_section,
    repeat_section,
    unfinished,
)
from rayjobs.templates import COLOURS, file_stem, render

DARK = {"text": "#e6e6e6", "axis": "#a0a0a0", "faint": "#3a3f45", "band": "#26303a"}
DARK_COLOURS = ("#5AB4E5", "#FF8A3D", "#2FC79A", "#E69BC4", "#9AD7FA", "#F2B84B", "#F0F0F0")
"""The methods' colours on a dark page, lighter and in the same order; black becomes white."""


def build_page(document: StudyDocument) -> tuple[str, list[Figure]]:
    """Returns the page, with every figure in it, and the figures."""
    sections = _sections(document)
    study = document.study
    values = {
        "title": f"Study {study.name}",
        "sentences": document.sentences,
        "state": unfinished(of_datasets(document)),
        "notes_of_all": document.notes,
        "created": study.created,
        "progress": f"{study.done:,} of {study.cells:,} cells are finished.",
        "sections": sections,
        "figure_style": style_sheet(),
        "dark_figures": _dark_figures(),
    }
    return render("compare.html", values), [found for each in sections for found in figures_in(each.blocks)]


def data_stems(names: Sequence[str]) -> list[str]:
    """Returns what begins the names of each data set's files: no two alike, whatever the names."""
    stems: list[str] = []
    for name in names:
        stem, number = file_stem(name), 2
        while stem.lower() in (known.lower() for known in stems):
            stem, number = f"{file_stem(name)}-{number}", number + 1
        stems.append(stem)
    return stems


def _sections(document: StudyDocument) -> list[Section]:
    labels = [method.label for method in document.methods]
    datasets = of_datasets(document)
    stems = data_stems([data.name for data in datasets])
    sections = [dataset_section(data, stem, labels) for data, stem in zip(datasets, stems, strict=True)]
    others = [
        over_section(document, labels),
        failures_section(document),
        edges_section(document),
        power_section(document),
        checklist_section(document) if document.checklist else None,
        lock_section(document),
        repeat_section(document),
    ]
    return [*sections, *filter(None, others)]


def _dark_figures() -> str:
    classes = {name: colour for name, colour in DARK.items() if name != "text"}
    classes |= {f"m{number}": colour for number, colour in enumerate(DARK_COLOURS[: len(COLOURS)])}
    text = f".drawn text {{ fill: {DARK['text']}; }}"
    return "\n".join([text, *(f".drawn .{name} {{ color: {colour}; }}" for name, colour in classes.items())])
