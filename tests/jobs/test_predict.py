"""`predict`: the numbers of the trained model itself, for rows without labels, with missing and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from raw_files import describe_numbers, save_text

from mmcore.config.schema import ProtocolConfig
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import CheckpointError
from mmcore.predictor import read_state
from rayjobs import predict, train


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.yaml, rows.jsonl and the run of a model trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    path = describe_numbers(folder)
    result = run(train, "--dataset", path, "--method", "iprm", "--data-dir", folder / "data", "--output",
                 folder / "results", "--name", "run", "--max-epochs", "3", "--set", "trainer.device=cpu")  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def test_probabilities_are_those_of_the_trained_model(trained: Path, tmp_path: Path) -> None:
    run_dir = trained / "results" / "run" / "seed-0"
    out = tmp_path / "p.parquet"
    result = run(predict, "--checkpoint", run_dir, "--data", trained / "mine.yaml", "--out", out)
    assert result.exit_code == 0, result.output
    assert "60 predictions, 0 samples left out" in result.stdout
    table = pq.read_table(out)
    assert json.loads(table.schema.metadata[b"classes"]) == ["a", "b", "c"]
    assert table["sample_id"].to_pylist() == [f"rows.jsonl:{n}" for n in range(1, 61)]
    row_of = {name: row for row, name in enumerate(table["sample_id"].to_pylist())}
    known = np.load(run_dir / "predictions.npz")
    for head in ("fused", "facts", "beat"):
        logits = known[f"logits/{head}"].astype(np.float64)
        expected = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected /= expected.sum(axis=1, keepdims=True)
        ours = np.array(table[f"probabilities_{head}"].to_pylist())
        np.testing.assert_allclose(ours[[row_of[name] for name in known["sample_ids"]]], expected, atol=1e-5)
        np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-5)
    fused = np.array(table["probabilities_fused"].to_pylist())
    assert table["prediction"].to_pylist() == ["abc"[k] for k in fused.argmax(axis=1)]
    np.testing.assert_allclose(table["probability"].to_numpy(), fused.max(axis=1))


def test_rows_without_labels(trained: Path, tmp_path: Path) -> None:
    save_text(
        tmp_path / "new.jsonl", '{"a": 1.0, "b": 2, "s": [0, 1]}\n{"a": 1, "b": 2, "s": null}\nno json\n{"a": 1}\n'
    )
    arguments = ["--checkpoint", trained / "results" / "run" / "seed-0", "--data", tmp_path / "new.jsonl",
                 "--out", tmp_path / "p.parquet"]  # fmt: skip
    failed = run(predict, *arguments)
    assert failed.exit_code == 1
    assert "2 of 4 samples can not be used (2 bad rows)" in failed.stderr
    assert not (tmp_path / "p.parquet").exists()
    result = run(predict, *arguments, "--on-missing", "skip", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["num_rows"] == 2
    assert {p["sample_id"]: p["kind"] for p in report["problems"]} == {
        "new.jsonl:3": "bad row",
        "new.jsonl:4": "bad row",
    }
    assert pq.read_table(tmp_path / "p.parquet")["sample_id"].to_pylist() == ["new.jsonl:1", "new.jsonl:2"]


def test_wrong_use(trained: Path, tmp_path: Path) -> None:
    run_dir = trained / "results" / "run" / "seed-0"
    out = ["--out", tmp_path / "p.parquet"]
    save_text(tmp_path / "other.csv", "a,s\n1,x\n")
    for arguments, code, message in (
        (
            ["--checkpoint", tmp_path, "--data", trained / "rows.jsonl"],
            1,
            "is neither a checkpoint nor the folder of a run",
        ),
        (["--checkpoint", run_dir, "--data", tmp_path / "none.csv"], 2, "none.csv does not exist"),
        (["--checkpoint", run_dir, "--data", tmp_path / "other.csv"], 2, "other.csv has no column 'b'"),
        (["--checkpoint", run_dir, "--data", tmp_path], 2, "is a folder; name a .csv, .tsv"),
    ):
        result = run(predict, *arguments, *out)
        assert result.exit_code == code, result.output
        assert message in result.stderr
    for column, message in (("y", "the model was trained on"), ("c", "rows.jsonl has no column 'c' (facts)")):
        text = (trained / "mine.yaml").read_text().replace("- b\n", f"- {column}\n")
        save_text(tmp_path / "other.yaml", text.replace("rows.jsonl", str(trained / "rows.jsonl")))
        result = run(predict, "--checkpoint", run_dir, "--data", tmp_path / "other.yaml", *out)
        assert message in result.stderr
    with pytest.raises(CheckpointError):
        read_state(trained)


@pytest.mark.slow
@pytest.mark.ray
def test_ray_data_gives_the_same(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--checkpoint", trained / "results" / "run" / "seed-0", "--data", trained / "rows.jsonl"]
    monkeypatch.setattr(predict, "BATCH_SIZE", 7)
    assert run(predict, *arguments, "--out", tmp_path / "here.parquet").exit_code == 0
    monkeypatch.setattr(predict, "MIN_BATCHES", 1)
    result = run(predict, *arguments, "--out", tmp_path / "ray.parquet", "--cpus", "2")
    assert result.exit_code == 0, result.output
    here, ray = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("here", "ray"))
    assert here["sample_id"].equals(ray["sample_id"])
    np.testing.assert_allclose(
        np.array(here["probabilities_fused"].to_pylist()), np.array(ray["probabilities_fused"].to_pylist()), atol=1e-6
    )


def test_an_empty_cell_is_filled_as_in_training(tmp_path: Path) -> None:
    description = describe_numbers(tmp_path)
    content = yaml.safe_load(description.read_text())
    content["modalities"]["facts"]["fill"] = "median"
    description.write_text(yaml.safe_dump(content))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for number in range(0, 60, 5):
        rows[number]["a"] = None
    save_text(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    data, results = tmp_path / "data", tmp_path / "results"
    trained = run(train, "--dataset", description, "--method", "joint", "--data-dir", data, "--output", results,
                  "--max-epochs", "1", "--name", "run", "--set", "trainer.device=cpu")  # fmt: skip
    assert trained.exit_code == 0, trained.output
    prepared = PreparedDataset.open(data / "mine")
    train_rows = prepared.assign(ProtocolConfig()).train
    median = float(np.nanmedian(prepared.read_modality("facts")[0][train_rows, 0]))
    new = [{"a": None, "b": 1, "s": None}, {"a": median, "b": 1, "s": None}, {"a": 9, "b": 1, "s": None}]
    save_text(tmp_path / "new.jsonl", "\n".join(map(json.dumps, new)))
    predicted = run(predict, "--checkpoint", results / "run" / "seed-0", "--data", tmp_path / "new.jsonl",
                    "--out", tmp_path / "p.parquet")  # fmt: skip
    assert predicted.exit_code == 0, predicted.output
    empty, same, other = pq.read_table(tmp_path / "p.parquet")["probabilities_fused"].to_pylist()
    assert empty == pytest.approx(same, abs=1e-6)
    assert empty != pytest.approx(other, abs=1e-6)
