"""Writes what a study found into its folder: `compare.json`, `report.html`, `figures/`, `tables/`.

All of it is a function of the document: written twice, the bytes are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmcore.config.plain import Plain
from mmcore.errors import UsageError
from rayjobs.results_layout import COMPARE_FILE, PAGE_FILE
from rayjobs.storage.files import write_json, write_text
from rayjobs.study.document import StudyDocument
from rayjobs.study.showing import csv_tables, latex
from rayjobs.study.showing.page import build_page, data_stems
from rayjobs.study.showing.reading import of_datasets

FIGURES, TABLES = "figures", "tables"
TABLE_KINDS = ("latex", "csv")


def write_report(document: StudyDocument, folder: Path, tables: Sequence[str] = TABLE_KINDS) -> list[Path]:
    """Writes a study's results, each file whole or not at all.

    Args:
        document: What was found.
        folder: The study's.
        tables: Which to write: of TABLE_KINDS.

    Returns:
        What was written: `compare.json` first, then the page.

    Raises:
        UsageError: There is no such kind of table.
    """
    unknown = [kind for kind in tables if kind not in TABLE_KINDS]
    if unknown:
        raise UsageError(f"tables must be of {', '.join(TABLE_KINDS)}, got {', '.join(unknown)}")
    page, figures = build_page(document)
    texts = {PAGE_FILE: page} | {f"{FIGURES}/{figure.stem}.svg": figure.file for figure in figures}
    if "latex" in tables:
        texts |= _latex(document)
    if "csv" in tables:
        texts |= _csv(document)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / COMPARE_FILE, document_json(document))
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)
    return [folder / COMPARE_FILE, *(folder / name for name in texts)]


def document_json(document: StudyDocument) -> dict[str, Plain]:
    """Returns a document as `compare.json` and `--json` hold it: what is no number is null."""
    return {key: _finite(value) for key, value in document.to_dict().items()}


def _finite(value: Plain) -> Plain:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return value


def _latex(document: StudyDocument) -> dict[str, str]:
    datasets = of_datasets(document)
    stems = data_stems([data.name for data in datasets])
    texts = {
        f"{TABLES}/{stem}.tex": latex.dataset_table(data, stem) for data, stem in zip(datasets, stems, strict=True)
    }
    if len(datasets) > 1:
        texts[f"{TABLES}/all-data-sets.tex"] = latex.summary_table(document)
    if document.over_datasets and document.over_datasets.ranks:
        labels = [method.label for method in document.methods]
        texts[f"{TABLES}/ranks-over-data-sets.tex"] = latex.ranks_table(document.over_datasets, labels)
    return texts


def _csv(document: StudyDocument) -> dict[str, str]:
    texts = {
        f"{TABLES}/results.csv": csv_tables.results_csv(document),
        f"{TABLES}/trials.csv": csv_tables.trials_csv(document),
        f"{TABLES}/comparisons.csv": csv_tables.comparisons_csv(document),
    }
    if document.over_datasets:
        labels = [method.label for method in document.methods]
        texts[f"{TABLES}/ranks.csv"] = csv_tables.ranks_csv(document.over_datasets, labels)
    return texts
