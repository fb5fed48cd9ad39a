"""The authors' code as released trains from end to end with the command, which tiny encoders without kernels cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mmcore.training.run_log import read_rows
from rayjobs.train import main

EPOCHS = 4


def train(folder: Path, method: str, *arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The run's result and its epochs, of `method` as released, on the embedded data set."""
    command = ["--dataset", "digits", "--method", method, "--variant", "released", "--max-epochs", str(EPOCHS),
               "--data-dir", str(folder / "data"), "--output", str(folder), "--name", "run", "--json"]  # fmt: skip
    done = CliRunner().invoke(main, [*command, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    rows = list(read_rows(folder / "run" / "seed-0"))
    assert len(rows) == EPOCHS
    assert rows[-1]["train/fused/loss"] < 0.8 * rows[0]["train/fused/loss"]
    assert result["test"]["fused/accuracy"] > 0.3  # of ten classes
    return result, rows


@pytest.mark.slow
def test_ogm_as_released_damps_kernels_adds_noise_and_follows_the_step_schedule(tmp_path: Path) -> None:
    result, rows = train(tmp_path, "ogm", "--set", "schedule.step_epochs=2")
    method = result["config"]["method"]
    assert (method["noise"], method["parameters"]) == (True, "convolutions")
    assert [row["train/lr"] for row in rows] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    # The window is the first 50 of 100 epochs, so 2 of 4 and the epoch at its end.
    coefficients = [{name: row[f"method/coefficient/{name}"] for name in ("image", "audio")} for row in rows]
    assert all(min(values.values()) < 1 and max(values.values()) == 1 for values in coefficients[:2])
    assert coefficients[3] == {"image": 1, "audio": 1}


@pytest.mark.slow
def test_mmpareto_as_released_keeps_its_rate(tmp_path: Path) -> None:
    result, rows = train(tmp_path, "mmpareto")
    assert result["variants"] == ["released"]
    assert result["config"]["method"]["gamma"] == 1.5
    assert [row["train/lr"] for row in rows] == [0.01] * EPOCHS
    for name in ("image", "audio"):
        assert all(0 <= row[f"method/joint_weight/{name}"] <= 1 for row in rows)
        assert result["test"][f"{name}/accuracy"] > 0.15
