"""What a search says to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayjobs.experiment.experiment import Experiment

MORE_SEEDS = 5
DATA_DIR, OUTPUT = "data", "results"
"""What the commands take where nothing is said."""


def more_seeds(experiment: Experiment, tables: Sequence[Mapping[str, Any]]) -> str:
    """Returns the command that trains the first row's best configuration with more seeds; "" where there is none.

    With none that the search or its final models had: those models' test results are known. Of a cross-validation
    each fold with its own best configuration, whose seed and split the file holds.
    """
    files = [row["config_files"] for table in tables for row in table["rows"] if row["config_files"]]
    if not files:
        return ""
    request = experiment.request
    options = [f"--seeds {MORE_SEEDS}", f"--seed {request.seed + request.final_seeds + 1}"]
    if request.search_once:
        options.append("--protocol cv")
    if Path(request.data_dir).resolve() != Path(DATA_DIR).resolve():
        options.append(f"--data-dir {shlex.quote(request.data_dir)}")
    output = experiment.mirror.address or str(experiment.folder.parent)
    if output != OUTPUT:
        options.append(f"--output {shlex.quote(output)}")
    commands = [f"python -m rayjobs.train --config {shlex.quote(file)} {' '.join(options)}" for file in files[0]]
    return " && \\\n  ".join(commands)
