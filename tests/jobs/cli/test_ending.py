"""Commands that are asked to end: exit code 130, one message, and the same command does the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driving import wait_for
from places import ROOT

from mmcore.training.run_log import METRICS_FILE

DEMO = ["--dataset", "avdigits", "--demo"]
SMALL = ["--max-epochs", "200", "--set", "trainer.probes=false", "--set", "trainer.diagnostics=false"]


def start(folder: Path, verb: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"rayjobs.{verb}", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen[str], *signals: signal.Signals) -> str:
    """Sends signals and returns what was said; the exit code is that of an interruption."""
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    return stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train_ends_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, "train", "--method", "joint", *SMALL)
    metrics = tmp_path / "results" / "train-digits-joint" / "seed-0" / METRICS_FILE
    wait_for(metrics.exists, process)
    assert "the same command with --resume continues" in ended(process, number)
    rows = metrics.read_text().splitlines()
    again = start(tmp_path, "train", "--method", "joint", *SMALL, "--resume")
    try:
        wait_for(lambda: len(metrics.read_text().splitlines()) > len(rows), again)
    finally:
        ended(again, number)
    assert metrics.read_text().splitlines()[: len(rows) - 1] == rows[:-1], "an epoch was trained again"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_prepare_ends_and_leaves_no_half_data_set(signals: list[signal.Signals], tmp_path: Path) -> None:
    process = start(tmp_path, "prepare", "--dataset", "cremad", "--demo")
    wait_for(lambda: any((tmp_path / "data").glob("*")), process)
    ended(process, *signals)
    assert not list((tmp_path / "data").glob("*/dataset.json"))
    done = start(tmp_path, "prepare", "--dataset", "cremad", "--demo")
    _, stderr = done.communicate(timeout=300)
    assert done.returncode == 0, stderr
