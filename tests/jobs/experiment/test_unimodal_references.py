"""What a modality reaches alone, taken from searches of the same fold."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stored_records import outcome

from rayjobs.experiment.unimodal_references import searched_accuracies
from rayjobs.search.searches import Search


def test_only_searches_on_that_very_fold_are_a_measure(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(method={"name": "ensemble"})
    search = Search("digits", "ensemble", 0, config, {}, [], 1, "grid", "fifo", 1, 3)
    run = tmp_path / search.name / "trial-001"
    run.mkdir(parents=True)
    stored = {"label": "ensemble", "trials": [], "best": outcome(name=run.name), "config": {}}
    (run.parent / "search.json").write_text(json.dumps(stored))
    row = {"epoch": 1, "val/fused/accuracy": 0.9, "val/image/accuracy": 0.8, "val/image/probe_accuracy": 0.7}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    plan: Any = SimpleNamespace(searches=(search,))
    experiment: Any = SimpleNamespace(folder=tmp_path)
    assert searched_accuracies(plan, experiment, fold=0) == {"image": 0.8}
    assert searched_accuracies(plan, experiment, fold=1) == {}
