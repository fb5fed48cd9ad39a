"""Cells that are names: one number is one name, and no way to write nothing becomes a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from raw_files import save_text

from mmcore.data.media import RawFolder
from mmcore.data.raw.cells import name_in
from mmcore.data.raw.description import ManifestConfig, read_description
from mmcore.data.raw.index import Index
from mmcore.data.sources.user_table import Manifest
from mmcore.errors import DataError, UsageError

ROWS = [{"y": n % 2, "a": n, "g": f"s{n // 4}"} for n in range(12)]


def index_of(folder: Path, manifest: str, **content: Any) -> Index:
    facts = {"kind": "tabular", "columns": ["a"]}
    base = {"manifest": manifest, "label": "y", "group": "g", "modalities": {"facts": facts}}
    path = save_text(folder / "my.yaml", yaml.safe_dump({**base, **content}))
    return Manifest(ManifestConfig.model_validate(read_description(path))).index(RawFolder(folder))


@pytest.mark.parametrize(
    ("cell", "name"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (-0.0, "0"), (1.5, "1.5"), (1e20, "1" + 20 * "0"), ("1.0", "1.0"), (" x ", "x"),
     ("none", "none"), ("nano", "nano"), ("Na", "Na")],
)  # fmt: skip
def test_names(cell: Any, name: str) -> None:
    assert name_in({"c": cell}, "c", "group") == name


def test_what_programs_write_for_nothing_is_a_name_by_word_alone() -> None:
    for cell in ("nan", "None", "NA", "N/A", "<NA>", "NaT", "null", "#N/A", " NULL "):
        for use in ("group", "id", "split", "label"):
            with pytest.raises(DataError, match=rf"'c' \({use}\) holds .* as programs write a missing value: empty"):
                name_in({"c": cell}, "c", use)
        assert name_in({"c": cell}, "c", "label", {cell.strip()}) == cell.strip()


def test_whole_numbers_of_any_type_are_one_class_and_one_group(tmp_path: Path) -> None:
    rows = [{**row, "y": (n % 2, float(n % 2), str(n % 2))[n // 2 % 3], "g": (n // 4, float(n // 4))[n % 2]}
            for n, row in enumerate(ROWS)]  # fmt: skip
    save_text(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    floats = pa.table({"y": [float(n % 2) for n in range(12)], "a": range(12), "g": [float(n // 4) for n in range(12)]})
    pq.write_table(floats, tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        entries = index_of(tmp_path, name).entries
        expected = [(n % 2, f"{n // 4}") for n in range(12)]
        assert sorted((entry.label, entry.group) for entry in entries) == sorted(expected)


def test_groups_that_are_one_number_in_two_notations(tmp_path: Path) -> None:
    """As tables make them that were joined: whole numbers became floats where a cell was empty."""
    rows = [f"{row['y']},{row['a']},{n // 4}{'.0' * (n % 2)}" for n, row in enumerate(ROWS)]
    save_text(tmp_path / "t.csv", "\n".join(["y,a,g", *rows]))
    with pytest.raises(UsageError, match=r"column 'g' \(group\) of t.csv holds '0' and '0.0', one number in two"):
        index_of(tmp_path, "t.csv")
    save_text(tmp_path / "t.csv", "\n".join(["y,a,g", *(row.replace(".0", "") for row in rows)]))
    assert {entry.group for entry in index_of(tmp_path, "t.csv").entries} == {"0", "1", "2"}
