"""`python -m rayjobs.train`: what it runs, what it refuses, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from mmcore.assembly.config import parse_config
from mmcore.data.prepared.store import PreparedDataset
from mmcore.training.run_log import read_rows
from rayjobs.commands.training import new_readings
from rayjobs.experiment.unimodal_references import alone_accuracies
from rayjobs.runs.test_ledger import read_ledger
from rayjobs.train import main


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def train(data_dir: Path, output: Path, *arguments: str) -> Result:
    folders = ["--data-dir", str(data_dir), "--output", str(output)]
    return CliRunner().invoke(main, [*arguments, *folders], catch_exceptions=False)


def test_seeds_are_trained_tested_once_and_read_again_on_resume(data_dir: Path, tmp_path: Path) -> None:
    arguments = ["--method", "joint", "--max-epochs", "1", "--seeds", "2", "--seed", "5", "--json"]
    first = train(data_dir, tmp_path, *arguments)
    assert first.exit_code == 0, first.output
    results = json.loads(first.stdout)["results"]
    assert [result["config"]["seed"] for result in results] == [5, 6]
    assert results[0]["test"] != results[1]["test"]
    assert 0 < results[0]["test"]["fused/map"] <= 1
    assert len(read_ledger(tmp_path / "ledger.jsonl")) == 2
    again = train(data_dir, tmp_path, *arguments, "--resume")
    assert json.loads(again.stdout)["results"] == results
    assert len(read_ledger(tmp_path / "ledger.jsonl")) == 2  # nothing was tested again
    fresh = train(data_dir, tmp_path, *arguments[:4], "--json")
    assert json.loads(fresh.stdout)["folder"].endswith("train-digits-joint-2")


def test_a_configuration_of_tune_is_taken_and_a_file_can_be_overridden(data_dir: Path, tmp_path: Path) -> None:
    config = {"dataset": {"name": "digits"}, "method": {"name": "iprm", "alpha": 0.3}, "trainer": {"max_epochs": 3}}
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(config))
    done = train(data_dir, tmp_path, "--config", str(path), "--max-epochs", "1", "--set", "optimizer.lr=1e-3", "--json")
    found = json.loads(done.stdout)["results"][0]["config"]
    assert found["method"]["alpha"] == 0.3
    assert found["trainer"]["max_epochs"] == 1
    assert found["optimizer"]["lr"] == 0.001


def test_another_configuration_is_not_resumed(data_dir: Path, tmp_path: Path) -> None:
    base = ["--method", "joint", "--max-epochs", "1"]
    train(data_dir, tmp_path, *base)
    refused = train(data_dir, tmp_path, *base, "--set", "optimizer.lr=0.5", "--resume")
    assert refused.exit_code == 1
    assert "holds runs of another configuration" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digts"], "unknown data set 'digts': did you mean 'digits'?"),
        (["--method", "iprn"], "unknown method 'iprn': did you mean 'iprm'?"),
        (["--set", "method.alpha=1.7"], "method.alpha must be in [0, 1], got 1.7"),
        (["--set", "optimizer.lrr=1"], "unknown key 'optimizer.lrr': did you mean 'lr'?"),
        (["--method", "unimodal", "--set", "method.modality=imag"], "did you mean 'image'?"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: there is no such file"),
        (["--resume"], "to resume; leave out --resume"),
        (["--gpus-per-worker", "2", "--workers", "3"], "asks for 3 workers"),
        (["--folds", "4"], "--folds is for --protocol cv, got protocol default"),
        (
            ["--protocol", "cv,holdout", "--set", "protocol.name=cv"],
            "--protocol holdout and --set protocol.name=cv name",
        ),
        (["--missing", "0,half"], "--missing must be shares in [0, 1], as in 0,0.2,0.5, got 'half'"),
        (["--missing", "0.2,1.2"], "a share of missing modalities must be in [0, 1], got 1.2"),
        (["--noise", "image"], "--noise must be MODALITY=DEVIATION, as in image=0.2,audio=0.5, got 'image'"),
        (["--noise", "imag=0.5"], "unknown modality 'imag': did you mean 'image'?"),
        (["--reference", "nowhere"], "--reference nowhere: there is no finished run in it"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(
    data_dir: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = train(data_dir, tmp_path, *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_missing_weights_are_told_before_any_data_is_read(tmp_path: Path) -> None:
    done = train(tmp_path / "data", tmp_path, "--dataset", "nvgesture", "--raw-dir", str(tmp_path))
    assert done.exit_code == 2
    assert done.output.count("there is no 'rgb_imagenet.pt' here") == 2  # colour and depth
    assert list(tmp_path.iterdir()) == []


def test_all_problems_are_listed_at_once(data_dir: Path, tmp_path: Path) -> None:
    values = ["method.alpha=2", "trainer.max_epochs=0", "optimizer.lrr=1"]
    done = train(data_dir, tmp_path, *[part for value in values for part in ("--set", value)])
    assert done.exit_code == 2
    assert "3 problems" in done.output


def test_a_loss_that_is_not_finite_ends_the_run_with_step_and_terms(data_dir: Path, tmp_path: Path) -> None:
    values = ["optimizer.lr=10", "optimizer.momentum=0.99", "optimizer.weight_decay=1", "trainer.log_every_steps=1"]
    arguments = [part for value in values for part in ("--set", value)]
    done = train(data_dir, tmp_path, "--method", "aug", "--max-epochs", "40", *arguments)
    assert done.exit_code == 1
    assert "not finite" in done.output
    assert "step" in done.output
    run_dir = tmp_path / "train-digits-aug" / "seed-0"
    assert all(row["train/total/loss"] == row["train/total/loss"] for row in read_rows(run_dir))
    assert not (run_dir / "result.json").exists()


def test_conditions_and_contributions_are_tested_printed_and_each_reading_entered(
    data_dir: Path, tmp_path: Path
) -> None:
    base = ["--method", "ensemble", "--max-epochs", "2", "--seeds", "2"]
    asked = ["--missing", "0,0.5", "--noise", "image=1,audio=0.5", "--shapley"]
    done = train(data_dir, tmp_path, *base, *asked)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.split("protocol")[0].splitlines())) <= 80
    for text in ("as stored", "missing 50 %", "noise image 1, audio 0.5", "none (most frequent class)"):
        assert text in done.stdout
    result = json.loads((tmp_path / "train-digits-ensemble" / "seed-0" / "result.json").read_text())
    found = {name: metrics["fused/accuracy"] for name, metrics in result["conditions"].items()}
    assert list(found) == ["as stored", "missing 50 %", "noise image 1, audio 0.5", "only image", "only audio"]
    assert found["as stored"] == result["test"]["fused/accuracy"]
    assert found["missing 50 %"] < found["as stored"]
    shapley = result["shapley"]
    assert shapley["all"] == found["as stored"]
    assert 0.05 < shapley["none"] < 0.15  # one of ten classes
    assert sum(shapley["contributions"].values()) == pytest.approx(shapley["all"] - shapley["none"], abs=1e-12)
    expected = (found["only image"] - shapley["none"] + shapley["all"] - found["only audio"]) / 2
    assert shapley["contributions"]["image"] == pytest.approx(expected)
    read = [entry["condition"] for entry in read_ledger(tmp_path / "ledger.jsonl")]
    assert read == 2 * list(found)
    more = train(data_dir, tmp_path, *base, "--missing", "0.2,0.5", "--resume", "--json")
    again = json.loads(more.stdout)["results"][0]
    assert again["conditions"] == result["conditions"] | {"missing 20 %": again["conditions"]["missing 20 %"]}
    read = [entry["condition"] for entry in read_ledger(tmp_path / "ledger.jsonl")]
    assert read[10:] == ["missing 20 %"] * 2  # what was read before is not read again


def test_a_reference_tells_what_a_modality_reaches_alone(data_dir: Path, tmp_path: Path) -> None:
    train(data_dir, tmp_path, "--method", "ensemble", "--max-epochs", "1", "--seeds", "2")
    prepared = PreparedDataset.open(data_dir / "digits")
    folder = tmp_path / "train-digits-ensemble"
    results = [json.loads((folder / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 1)]
    config = parse_config(results[0]["config"])
    alone = alone_accuracies([folder], config, prepared)
    for name in ("image", "audio"):
        assert alone[name] == pytest.approx(sum(result["best"][f"val/{name}/accuracy"] for result in results) / 2)
    assert alone.keys() == {"image", "audio"}
    done = train(data_dir, tmp_path, "--method", "joint", "--max-epochs", "1", "--reference", str(folder), "--json")
    assert done.exit_code == 0, done.output
    refused = train(data_dir, tmp_path, "--max-epochs", "1", "--reference", str(tmp_path / "train-digits-joint"))
    assert refused.exit_code == 2
    assert "holds runs of joint; what a modality reaches alone is known from unimodal or ensemble" in refused.output
    other = train(data_dir, tmp_path, "--max-epochs", "1", "--reference", str(folder), "--split-seed", "1")
    assert "holds runs on other data or by another protocol" in other.output


def test_what_is_read_in_the_numbers_is_said_once_and_kept(tmp_path: Path) -> None:
    readings = [
        {"kind": "dead", "modality": "audio", "since": 2, "text": "audio's encoder is dead"},
        {"kind": "fallen", "modality": "image", "since": 3, "text": "image, 6 points"},
        {"kind": "fallen", "modality": "image", "since": 3, "text": "image, 7 points"},
    ]
    lines = [{"epoch": 1}, {"epoch": 2, "readings": readings[:1]}, {"epoch": 3, "readings": readings[:2]}]
    lines.append({"epoch": 4, "readings": [readings[0], readings[2]]})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told: set = set()
    found = [(epoch, reading["text"]) for epoch, reading in new_readings(tmp_path, told)]
    assert found == [(2, "audio's encoder is dead"), (3, "image, 6 points")]
    assert new_readings(tmp_path, told) == []
    assert read_rows(tmp_path) == [{"epoch": number} for number in (1, 2, 3, 4)]


@pytest.mark.slow
@pytest.mark.ray
def test_a_worker_group_of_two_trains_and_tests(data_dir: Path, tmp_path: Path) -> None:
    values = ["--set", "model.batch_norm=synchronised", "--set", "trainer.precision=float64"]
    base = ["--method", "iprm", "--max-epochs", "2", "--json", *values]
    alone = json.loads(train(data_dir, tmp_path, *base).stdout)["results"][0]
    group = json.loads(train(data_dir, tmp_path, *base, "--workers", "2").stdout)["results"][0]
    assert group["workers"] == 2
    assert group["test"] == pytest.approx(alone["test"], abs=1e-6)
    assert group["last"]["train/total/loss"] == pytest.approx(alone["last"]["train/total/loss"], abs=1e-6)


def test_a_cross_validation_trains_every_fold_and_is_compared_with_a_reference_by_fold(
    data_dir: Path, tmp_path: Path
) -> None:
    folds = ["--protocol", "cv", "--folds", "3", "--max-epochs", "1"]
    train(data_dir, tmp_path, "--method", "ensemble", *folds)
    reference = str(tmp_path / "train-digits-ensemble")
    own = ["--method", "joint", "--seeds", "2", *folds, "--reference", reference]
    done = json.loads(train(data_dir, tmp_path, *own, "--json").stdout)
    configs = [result["config"] for result in done["results"]]
    assert [(config["protocol"]["fold"], config["seed"]) for config in configs] == [
        (fold, seed) for fold in range(3) for seed in range(2)
    ]
    accuracies = np.reshape([result["test"]["fused/accuracy"] for result in done["results"]], (3, 2)).mean(axis=1)
    stored = [json.loads((Path(reference) / f"fold-{fold}/seed-0/result.json").read_text()) for fold in range(3)]
    differences = accuracies - [result["test"]["fused/accuracy"] for result in stored]
    half_width = 4.302653 * differences.std(ddof=1) / 3**0.5  # Student's t of 2 degrees of freedom
    found = done["differences"][0]
    assert found["method"] == "ensemble"
    assert found["folds"] == pytest.approx(differences)
    assert [found["low"], found["high"]] == pytest.approx([differences.mean() + s * half_width for s in (-1, 1)])
    printed = train(data_dir, tmp_path, *own, "--resume").output
    assert "folds 0, 1, 2 (mean of seeds 0, 1)" in printed
    assert "  ".join(f"{100 * value:.1f}" for value in accuracies) in printed
    assert "all 3 folds" in printed
    assert f"{100 * differences.mean():+.2f} [" in printed

    lacking = Path(reference) / "fold-1" / "seed-0" / "result.json"
    (Path(reference) / "fold-0" / "seed-1").mkdir()
    (Path(reference) / "fold-0" / "seed-1" / "result.json").write_text(lacking.read_text())
    refused = train(data_dir, tmp_path, *own, "--resume")
    assert refused.exit_code == 2  # a mean of two seeds on one fold and of one on another
    assert "fold 1 lacks seed-1, fold 2 lacks seed-1; finish its runs" in " ".join(refused.output.split())


def test_a_model_that_was_tested_before_is_told_before_it_is_trained_again(data_dir: Path, tmp_path: Path) -> None:
    base = ["--method", "joint", "--max-epochs", "1", "--seeds", "2"]
    assert "tested before" not in train(data_dir, tmp_path, *base).output
    assert "tested before" not in train(data_dir, tmp_path, *base, "--resume").output
    again = train(data_dir, tmp_path, *base, "--seed", "1").stderr
    assert again.count("tested before") == 1  # seed 1; 2 is new
    run_dir = tmp_path / "train-digits-joint" / "seed-1"
    assert f"note: seed 1 of this configuration was tested before ({run_dir.resolve()})" in again
    other = train(data_dir, tmp_path, *base, "--set", "optimizer.lr=0.02").output
    assert "tested before" not in other


def test_one_fold_alone_is_trained_where_it_is_named(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump({"protocol": {"name": "cv", "folds": 3, "fold": 2}, "trainer": {"max_epochs": 1}}))
    one = json.loads(train(data_dir, tmp_path, "--config", str(path), "--json").stdout)["results"]
    assert [result["config"]["protocol"]["fold"] for result in one] == [2]
    chosen = ["--config", str(path), "--protocol", "cv", "--method", "joint", "--json"]
    every = json.loads(train(data_dir, tmp_path, *chosen).stdout)["results"]
    assert [result["config"]["protocol"]["fold"] for result in every] == [0, 1, 2]
    refused = train(data_dir, tmp_path, *chosen[:-1], "--set", "protocol.fold=1", "--resume")
    assert "holds runs of another configuration" in refused.output
