"""Every benchmark runs to its end and prints ratios. How large they are is no matter of a test."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from rayjobs.cluster.resources import TrialShape
from rayjobs.feeding.handle import DataHandle
from rayjobs.pool.stage import GivenStage, Place
from rayjobs.runs.job import Job

RATIOS = {
    "step": [
        "small_conv/joint",
        "small_conv/iprm",
        "small_conv/aug",
        "resnet18/joint",
    ],
    "methods": ["resnet18/mmpareto÷plain", "resnet18/mmpareto÷joint", "resnet18/mmpareto/memory"],
    "communication": ["resnet18/ours÷ddp", "resnet18/ours÷flat", "resnet18/ours÷none"],
    "memory": ["memory/iprm", "memory/aug"],
    "checkpoints": ["epoch/care÷before", "epoch/auto÷none", "epoch/care÷none"],
    "diagnostics": [
        f"{encoder}/{method}{part}"
        for encoder in ("small_conv", "resnet18")
        for method in ("joint_unimodal", "iprm", "aug")
        for part in ("", "/probes")
    ],
    "decoding": ["prepared÷decoded", "transformed÷decoded", "streamed÷decoded"],
    "media": ["speech.wav", "speech.wav/resampled", "music.wav", "music.wav/resampled"],
    "clips": [f"{clip}/{n}" for clip in ("h264_key12", "h264_key250", "mpeg4_key12", "vp8") for n in (3, 16)],
    "preparing": ["prepare/two_workers", "prepare/memory"],
    "larger_than_memory": ["spilled/once", "spilled/twice", "memory/twice÷once"],
    "workers": ["resnet18/workers÷ceiling", "resnet18/workers÷one"],
    "many_trials": ["trial/late÷early", "driver_memory÷bar"],
    "regret": [f"digits-iprm/{searcher}_epochs÷grid" for searcher in ("hyperopt", "hyperopt_2_at_once", "random")],
    "driver": [
        "main_thread÷bar",
        "main_thread÷tune",
        "main_thread/late÷early",
        "memory÷bar",
    ],
    "pool": ["pool÷before", "pool÷own_order", "pool÷work_by_places"],
    "restart": ["own_process/restart÷start", "worker_group/restart÷start"],
    "features": ["features/epoch", "features/encoding", "features/data_time"],
    "against": ["step/small_conv/joint", "search", "start/dry_run"],
    "rooms": ["job/rooms", "job/returns"],
    "comparing": ["seconds÷bar", "memory÷bar"],
    "resampling": ["bootstrap/samples", "flips/samples", "bootstrap/speakers", "flips/speakers"],
    "feeding": ["digits/cached_first", "digits/cached_second", "digits/streamed_first", "digits/streamed_second"],
}

# `against` runs trials.py, once for each side, and reads its figure.
WITH_RAY = (
    "feeding", "decoding", "preparing", "larger_than_memory", "many_trials", "regret", "restart",
    "against", "driver", "pool",
)  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "step",
        "methods",
        "communication",
        "memory",
        "checkpoints",
        "diagnostics",
        "features",
        "media",
        "clips",
        "rooms",
        "comparing",
        "resampling",
        *(pytest.param(name, marks=pytest.mark.ray) for name in WITH_RAY),
        "workers",
    ],
)
def test_a_benchmark_prints_finite_ratios(name: str, data_dir: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", "--json", str(figures)]
    if name not in {
        "communication", "memory", "decoding", "clips", "media", "preparing", "larger_than_memory",
        "features", "workers", "comparing", "resampling",
    }:  # fmt: skip
        command += ["--data-dir", str(data_dir)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    word, *ratios = done.stdout.splitlines()[-1].split()
    printed = {part.rpartition("=")[0]: float(part.rpartition("=")[2]) for part in ratios}
    assert word == "ratio"
    assert list(printed)[: len(RATIOS[name])] == RATIOS[name]  # more where a library to compare with is installed
    assert all(math.isfinite(value) and value >= 0 for value in printed.values())
    assert [name for name, value in printed.items() if value == 0 and not name.startswith("spilled/")] == []
    stored = json.loads(figures.read_text())
    assert [entry["name"] for entry in stored["ratios"]] == list(printed)
    assert "load average" in stored["environment"]


@pytest.mark.slow
def test_null_studies_count_false_words_in_every_world(tmp_path: Path) -> None:
    """Forty studies tell no rate of 5 %; that a rate is many times it, they do. The real ones: docs/statistics.md."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "null_studies.py"),
        "--quick",
        "--json",
        str(tmp_path / "f.json"),
    ]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    rates = {entry["name"]: entry["ratio"] for entry in json.loads((tmp_path / "f.json").read_text())["ratios"]}
    words = ("better", "better_or_worse", "interval_misses", "equivalent", "not_worse")
    for world in ("scores", "ceiling", "stable", "unstable", "neighbour"):
        assert all(rates[f"{world}/corrected/{word}"] <= 0.2 for word in words)
    assert rates["split/permutation/better_or_worse"] <= 0.2
    assert rates["unstable/plain/interval_misses"] > 0.07  # what the correction is for
    assert rates["race/8_folds"] <= 0.8
    assert rates["race/8_folds/lost"] <= 0.05


def test_schedules_that_a_pool_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: two places; a search of three runs of 2 s, then its two final models of 1 s, and a search beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    waiting, trials = importlib.import_module("waiting"), importlib.import_module("idle_trials")
    assert waiting.listed([3.0, 1.0, 1.0, 2.0], 2) == 4
    assert waiting.one_after_another({"a": [3.0, 1.0], "b": [2.0], "a final models": [1.0, 1.0, 1.0]}, 2) == 3 + 2 + 2
    stages = [stage_of("a", 3), stage_of("a final models", 2, "a"), stage_of("b", 1, number=2)]
    seconds = {"a": (1.0, 1.0), "a final models": (1.0,), "b": (0.5, 0.5)}
    whole, took = waiting.ideal(stages, 2, lambda ticket: trials.Task(seconds[ticket.stage], 0.5))
    assert (whole, took["a"], took["b"]) == (5, [2, 2, 2], [1])


def stage_of(name: str, runs: int, *after: str, number: int = 0) -> GivenStage:
    config: dict[str, Any] = {"trainer": {"max_epochs": 2, "select": "best"}}
    jobs = [Job(config, DataHandle(""), f"/nowhere/{name}/run-{run}") for run in range(runs)]
    place = Place(0, number, name)
    return GivenStage(name, lambda: jobs, runs, 2, TrialShape(), place, frozenset(after), lambda job: False)
