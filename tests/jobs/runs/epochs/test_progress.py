"""What a search is told of a run that reports epochs again: what it was told the first time."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import make_config, make_spec

from mmcore.training.run_log import RunLog
from rayjobs.runs.epochs.progress import Progress

ACCURACIES = [0.5, 0.7, 0.6, 0.9]


@pytest.mark.parametrize("select", ["best", "last"])
def test_an_epoch_that_is_reported_again_has_the_objective_it_had(select: str, tmp_path: Path) -> None:
    rows = [{"epoch": epoch, "val/fused/accuracy": value} for epoch, value in enumerate(ACCURACIES, start=1)]
    log = RunLog(tmp_path, make_config("joint", make_spec(2)), "val/fused/accuracy")
    progress = Progress(tmp_path, select, num_devices=1)
    first = []
    for row in rows:
        log.write(row)
        first.append(progress.update(row)["objective"])
    assert first == ([0.5, 0.7, 0.7, 0.9] if select == "best" else ACCURACIES)
    resumed = Progress(tmp_path, select, num_devices=1)  # from a checkpoint of the first epoch
    assert [resumed.update(row)["objective"] for row in rows] == first
    assert resumed.update(rows[1])["epoch"] == 2
