"""Raw files for tests: tiny media of every kind, and small data sets in every layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import yaml
from PIL import Image

from mmcore.data.media import RawFolder
from mmcore.data.media.text import SPECIAL_TOKENS
from mmcore.data.raw.index import Index
from mmcore.data.spec import DATASETS


def save_picture(path: Path, value: int = 128, size: tuple[int, int] = (20, 12)) -> Path:
    """A plain picture; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path)
    return path


def save_wave(path: Path, seconds: float = 0.1, rate_hz: int = 8000) -> Path:
    """A 440 Hz tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    soundfile.write(path, np.round(8000 * np.sin(2 * np.pi * 440 * time_s)).astype(np.int16), rate_hz)
    return path


def save_vocab(folder: Path, *words: str) -> Path:
    path = folder / "vocab.txt"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*SPECIAL_TOKENS, *words]) + "\n")
    return path


def save_text(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def index_of(name: str, root: Path, split_dir: Path | None = None, **options: object) -> Index:
    """The index of a raw folder, missing files left out of it."""
    source = DATASETS.get(name)(DATASETS.get(name).Config(**options))
    return source.index(RawFolder(root, split_dir))  # type: ignore[attr-defined]


def kinds(index: Index) -> dict[str, str]:
    """What was left out: id or place -> kind."""
    return {problem.sample_id: problem.kind for problem in index.problems}


def describe_numbers(tmp_path: Path) -> Path:
    """Sixty rows of two kinds of numbers, three classes of 40, 15 and 5; a third of the series missing."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(60):
        label = 0 if number < 40 else 1 if number < 55 else 2
        series = None if number % 3 == 0 else (generator.normal(size=6) + label).round(3).tolist()
        cells = (generator.normal(size=2) + 2 * label).round(3).tolist()
        rows.append({"y": "abc"[label], "s": series, "a": cells[0], "b": cells[1]})
    save_text(tmp_path / "rows.jsonl", "\n".join(json.dumps(row) for row in rows))
    content = {
        "manifest": "rows.jsonl",
        "label": "y",
        "modalities": {
            "facts": {"kind": "tabular", "columns": ["a", "b"], "encoder": {"name": "mlp", "features": 8}},
            "beat": {"kind": "series", "column": "s", "length": 6, "may_be_missing": True,
                     "encoder": {"name": "series", "features": 8, "width": 4, "depth": 1}},
        },
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "mine.yaml"
