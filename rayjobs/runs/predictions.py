"""A model's predictions on test and validation, sample by sample: kept, so that any later comparison is paired."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmcore.errors import DataError
from mmcore.storage import storage_fault, write_whole
from rayjobs.results_layout import PREDICTIONS_FILE

COLUMNS = ("sample_ids", "labels", "groups", "sources")
FUSED_LOGITS = "logits/fused"
FITTED = "fused+fit"
"""Head: the sum of the modalities' own, by weights fitted on validation; of models that have a head for each."""
FITTED_LOGITS = f"logits/{FITTED}"
VALIDATION = "validation/"
"""Begins the names of what is of validation."""
DAMAGE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and zipfile raise of a file that was cut, or is another one."""


def write_predictions(run_dir: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes COLUMNS (N,) and `logits/<head>` (N, K) of all test samples, and some of validation's under `validation/`.

    Raises:
        OSError: Storage was full or away for minutes.
    """
    content = io.BytesIO()
    named: dict[str, Any] = dict(arrays)  # else NumPy takes them for its own options
    np.savez_compressed(content, **named)
    write_whole(run_dir / PREDICTIONS_FILE, content.getvalue())


def read_predictions(run_dir: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Returns what `write_predictions` wrote.

    Args:
        run_dir: The run's folder.
        names: Those of the arrays that are read, where they are there; None: all.

    Raises:
        DataError: It is missing or damaged.
        OSError: Storage is away.
    """
    path = run_dir / PREDICTIONS_FILE
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files if names is None or name in names}
        shapes = {len(arrays[name]) for name in (*COLUMNS, FUSED_LOGITS)}
        if len(shapes) != 1 or arrays[FUSED_LOGITS].ndim != 2:
            raise ValueError("its columns are of unequal length")
    except DAMAGE as error:
        if storage_fault(error) is not None:
            raise
        raise DataError(f"{path} is missing or damaged ({error})") from None
    return arrays
