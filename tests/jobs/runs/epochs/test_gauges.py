"""A trial's gauges, as a node serves them."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from rayjobs.cluster import session
from rayjobs.runs.epochs import gauges
from rayjobs.runs.epochs.progress import Progress

EPOCHS = [
    {"epoch": 1, "val/fused/accuracy": 0.6, "time/samples_per_s": 120.0},
    {"epoch": 2, "val/fused/accuracy": 0.5, "time/samples_per_s": 150.0},
]


def test_a_runs_folders_are_its_tags() -> None:
    assert gauges.tags_of(Path("/r/mine/digits-iprm/trial-001")) == {
        "experiment": "mine",
        "search": "digits-iprm",
        "trial": "trial-001",
    }
    assert gauges.tags_of(Path("/r/mine/digits-iprm/fold-2/trial-001"))["search"] == "digits-iprm/fold-2"
    assert gauges.tags_of(Path("/r/mine/digits-iprm/fold-2/trial-001"))["experiment"] == "mine"


@ray.remote(num_cpus=1)
class Trial:
    def report(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True)
        progress = Progress(run_dir, "best", num_devices=2)
        for row in EPOCHS:
            progress.update(row)


@pytest.mark.slow
@pytest.mark.ray
def test_a_nodes_endpoint_serves_the_gauges_of_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    run_dir = tmp_path / "mine" / "digits-iprm" / "trial-001"
    with session.start(num_cpus=1):
        trial = Trial.remote()
        ray.get(trial.report.remote(run_dir))
        served = wait_for_gauges(ray.nodes()[0]["MetricsExportPort"])
    assert served["epoch"] == 2
    assert served["objective"] == 0.6, "the best epoch is the one that counts"
    assert served["samples_per_s"] == 150
    assert served["device_seconds"] > 0


def wait_for_gauges(port: int) -> dict[str, float]:
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            text = ""
        found = {}
        for name, labels, value in re.findall(r"^ray_equipoise_trial_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            assert 'experiment="mine"' in labels
            assert 'search="digits-iprm"' in labels
            assert 'trial="trial-001"' in labels
            found[name] = float(value)
        if set(found) == set(gauges.DESCRIPTIONS):
            return found
        assert time.monotonic() < deadline, text
        time.sleep(0.5)
