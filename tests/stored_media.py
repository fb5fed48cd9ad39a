"""Media through `prepare`: what is stored of some files, and what was noted."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from raw_files import save_text

from mmcore.data.prepared.columns import columns_to_arrays
from mmcore.data.prepared.prepare import HowToPrepare, prepare
from mmcore.data.raw.description import read_description

NUM_ROWS = 6


class Stored(NamedTuple):
    """One file: what lies in the prepared data set, how much of it is valid, and the rules that were applied."""

    array: np.ndarray
    length: int
    rules: list[str]


def store(folder: Path, *names: str, **column: Any) -> list[Stored]:
    """Prepares a table of the files, each in a row, as one modality `m` of the user's own data."""
    rows = [
        f"{place},{name},{'ab'[place % 2]},{('train', 'val', 'test')[place // 2 % 3]}"
        for place, name in zip(range(max(len(names), NUM_ROWS)), itertools.cycle(names), strict=False)
    ]
    save_text(folder / "rows.csv", "\n".join(["id,file,y,split", *rows]))
    content = {"name": "mine", "manifest": "rows.csv", "label": "y", "split": "split", "id": "id",
               "modalities": {"m": {"column": "file", **column}}}  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    options = read_description(folder / "mine.yaml")
    prepared = prepare("manifest", options, options["root"], folder / "data", how=HowToPrepare())
    arrays = columns_to_arrays(prepared.read_table(), prepared.spec)
    row_of = {sample_id: row for row, sample_id in enumerate(arrays.sample_ids.tolist())}
    return [
        Stored(
            arrays.inputs["m"][row_of[str(place)]],
            int(arrays.lengths["m"][row_of[str(place)]]) if "m" in arrays.lengths else 0,
            [note["rule"] for note in prepared.metadata["noted"] if note["sample_id"] == str(place)],
        )
        for place in range(len(names))
    ]
