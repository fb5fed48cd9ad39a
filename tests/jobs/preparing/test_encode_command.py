"""`--encode`: the flags, the actors, a search on stored features, and predictions from the raw rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner, Result
from raw_files import describe_numbers
from scenes import CONV, prepare_scenes

from mmcore.assembly.config import parse_dataset
from mmcore.data.sources.avdigits import IMAGE_FILE, IMAGE_MAGIC, LABEL_FILE, LABEL_MAGIC
from mmcore.errors import ConfigError, DataError
from mmcore.features import frozen
from mmcore.features.encoded_set import EncodedPart, EncodedWriter, encode
from rayjobs import predict, prepare, train, tune
from rayjobs.cli.options import encoding_of
from rayjobs.cluster.resources import Node
from rayjobs.commands import tune_flags
from rayjobs.experiment.machine import Machine
from rayjobs.experiment.plan import make_plans
from rayjobs.experiment.request import Request
from rayjobs.preparing import raw_tasks
from rayjobs.preparing.encode_tasks import RayEncoders, actors_of
from rayjobs.search.spaces import space_file

NUMBERS = ["--encode", "facts=mlp,beat=series"]


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(argument) for argument in arguments])  # type: ignore[attr-defined]


class TestFlags:
    def test_what_they_add_to_the_dataset_section(self) -> None:
        assert encoding_of((), None) == {}
        values = {"dataset.encode.image.weights": "w.pt", "dataset.transforms.image.flip": True}
        assert encoding_of(("image=clip, text=bert", "sound=cav_mae"), 3, values) == {
            "encode": {"image": {"name": "clip", "weights": "w.pt"}, "text": {"name": "bert"},
                       "sound": {"name": "cav_mae"}},
            "transforms": {"image": {"flip": True}},
            "views": 3,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("named", "views", "values", "message"),
        [
            (("image",), None, {}, "--encode must be MODALITY=ENCODER,..., got 'image'"),
            (("image=a,image=b",), None, {}, "--encode: image is named twice"),
            ((), 2, {}, "--views and --set are for --encode, which is not given"),
            (("image=a",), None, {"optimizer.lr": 1}, "--set optimizer.lr: here only dataset.encode"),
        ],
    )
    def test_wrong_ones(self, named: tuple[str, ...], views: int | None, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            encoding_of(named, views, values)
        assert message in str(caught.value)

    def test_tunes_request(self) -> None:
        arguments = ["--encode", "image=small_conv", "--views", "2", "--set", "dataset.transforms.image.flip=true",
                     "--set", "dataset.transforms.audio.n_mels=8", "--set", "optimizer.lr=0.1"]  # fmt: skip
        with tune.main.make_context("tune", arguments) as context:
            request = tune_flags.request_of(context.params)
        assert request.dataset == {"encode": {"image": {"name": "small_conv"}}, "views": 2,
                                   "transforms": {"image": {"flip": True}}}  # fmt: skip
        assert request.values == {"dataset.transforms.audio.n_mels": 8, "optimizer.lr": 0.1}
        assert request.name() == "digits-encoded-aug-iprm-ensemble"

    def test_the_space_of_stored_features(self) -> None:
        assert space_file("sarcasm", encoded=True).name == "sarcasm-encoded.yaml"
        assert space_file("digits", encoded=True).name == "default.yaml"
        assert space_file("sarcasm", demo=True, encoded=True).name == "demo.yaml"


def test_what_prepare_prints(tmp_path: Path) -> None:
    path = describe_numbers(tmp_path)
    arguments = ["--dataset", path, *NUMBERS, "--data-dir", tmp_path / "data"]
    result = run(prepare, *arguments)
    assert result.exit_code == 0, result.output
    assert "  facts: features, float16 (8,)" in result.stdout  # the settings of the file's own encoder
    assert "beat by series (weights " in result.stdout
    told = json.loads(run(prepare, *arguments, "--json").stdout)
    assert told["encoded"]["facts"]["encoder"] == {"name": "mlp", "features": 8, "depth": 2}
    assert told["directory"].startswith(str(tmp_path / "data"))
    assert "--check looks at raw files alone" in run(prepare, *arguments, "--check").stderr
    failed = run(prepare, "--dataset", path, "--encode", "facts=series", "--data-dir", tmp_path / "data")
    assert failed.exit_code == 2
    assert "'series' takes features (T, C), 'facts' is (2,)" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["image=bert"], "'bert' encodes tokens, but 'image' is of kind image; choose another encoder"),
        (["video=resnet18"], "unknown modality 'dataset.encode.video'"),
        (
            ["text=bert", "--set", "dataset.encode.text.weights=./gone"],
            "dataset.encode.text.weights: there is no folder",
        ),
        (["text=bert", "--views", "2"], "dataset.views must be 0, got 2: nothing augments text"),
    ],
)
@pytest.mark.parametrize("command", [prepare, train, tune])
def test_wrong_encoders_are_told_before_the_data_is_prepared(
    tmp_path: Path, command: object, arguments: list[str], message: str
) -> None:
    folders = ["--data-dir", tmp_path / "data", *(["--output", tmp_path] if command is not prepare else [])]
    result = run(command, "--dataset", "twitter15", "--option", "demo=true", "--encode", *arguments, *folders)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.yaml and the run of a model trained on its encoded rows."""
    folder = tmp_path_factory.mktemp("trained")
    result = run(train, "--dataset", describe_numbers(folder), *NUMBERS, "--method", "iprm", "--max-epochs", "2",
                 "--data-dir", folder / "data", "--output", folder / "results", "--name", "run",
                 "--set", "trainer.device=cpu", "--set", "model.encoders.facts.depth=1")  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def test_predictions_from_raw_rows_are_those_from_stored_features(trained: Path, tmp_path: Path) -> None:
    run_dir = trained / "results" / "run" / "seed-0"
    result = run(predict, "--checkpoint", run_dir, "--data", trained / "mine.yaml", "--out", tmp_path / "p.parquet")
    assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "p.parquet")
    row_of = {name: row for row, name in enumerate(table["sample_id"].to_pylist())}
    known = np.load(run_dir / "predictions.npz")
    logits = known["logits/fused"].astype(np.float64)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    ours = np.array(table["probabilities_fused"].to_pylist())[[row_of[name] for name in known["sample_ids"]]]
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_what_a_run_says_of_its_frozen_encoders(trained: Path) -> None:
    result = json.loads((trained / "results" / "run" / "seed-0" / "result.json").read_text())
    assert "; frozen encoders (beat series, facts mlp): imbalance that arises while" in result["protocol"]
    dataset = result["config"]["dataset"]
    assert set(dataset["encoder_sha256"]) == {"facts", "beat"}
    assert result["config"]["model"]["encoders"]["facts"] == {"name": "mlp", "features": 64, "depth": 1}


def test_other_weights_are_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = trained / "results" / "run" / "seed-0"
    monkeypatch.setattr(frozen, "derive_seed", lambda *purpose: 1)
    result = run(predict, "--checkpoint", run_dir, "--data", trained / "mine.yaml", "--out", tmp_path / "p.parquet")
    assert result.exit_code == 1
    assert "the model was trained on features of encoders with other weights: beat (sha256 " in result.stderr
    again = run(train, "--config", run_dir / "config.json", "--data-dir", trained / "data", "--output", tmp_path)
    assert again.exit_code == 1
    assert "the encoders' weights changed since the configuration was written: beat" in again.stderr


def test_what_is_encoded_cannot_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("trials: 2\nmax_epochs: 1\nspace: {dataset.transforms.image.flip: {choice: [false, true]}}\n")
    request = Request(datasets=("digits",), methods=("joint",), space=str(path), data_dir=str(tmp_path / "data"),
                      dataset={"encode": {"image": {"name": "small_conv", "width": 4, "depth": 1}}})  # fmt: skip
    with pytest.raises(DataError, match="what is encoded, its transforms and views cannot be searched"):
        make_plans(request, Machine())


@pytest.mark.parametrize(
    ("nodes", "number", "claim"),
    [
        ([Node(2, 0)], 1, {"num_cpus": 2}),
        ([Node(16, 0)], 4, {"num_cpus": 4}),
        ([Node(16, 0), Node(6, 0), Node(0, 0)], 5, {"num_cpus": 4}),
        ([Node(16, 2), Node(8, 1)], 3, {"num_gpus": 1, "num_cpus": 1}),
    ],
)
def test_how_many_actors_a_cluster_holds(nodes: list[Node], number: int, claim: dict[str, float]) -> None:
    assert actors_of(nodes) == (number, claim)


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_actor_is_replaced_and_loses_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dying_writer import DyingWriter

    parent = prepare_scenes(monkeypatch, tmp_path, rows_per_file=2)
    section = parse_dataset({"name": "scenes", "encode": {"picture": CONV}})
    here = encode(parent, section)
    expected = here.read_table()
    here.directory.rename(tmp_path / "here")
    marker = tmp_path / "marker"
    marker.touch()
    monkeypatch.setattr(raw_tasks, "MIN_PARTS", 2)
    run = RayEncoders(cpus=2)

    def with_a_death(writer: EncodedWriter, parts: Sequence[EncodedPart]) -> Iterator[dict[str, Any]]:
        yield from run(DyingWriter.of(writer, marker), parts)

    by_actors = encode(parent, section, with_a_death)
    assert not marker.exists()
    assert len(by_actors.files()) == 10
    assert by_actors.read_table().equals(expected)
    assert here.weights_sha256 == by_actors.weights_sha256
    by_actors.verify()


def write_avdigits(raw: Path) -> None:
    """Six speakers, two takes of each digit, three pictures for each clip."""
    (raw / "recordings").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for digit in range(10):
        for speaker in ("theo", "nicolas", "lucas", "george", "jackson", "yweweler"):
            for take in (0, 10):
                time_s = np.arange(800) / 8000
                wave = 9000 * np.sin(2 * np.pi * (300 + 100 * digit) * time_s + generator.random())
                soundfile.write(raw / "recordings" / f"{digit}_{speaker}_{take}.wav", wave.astype(np.int16), 8000)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 36)
    images = generator.integers(0, 80, (len(labels), 28, 28), dtype=np.uint8) + 10 * labels[:, None, None]
    for name, magic, array in ((IMAGE_FILE, IMAGE_MAGIC, images.astype(np.uint8)), (LABEL_FILE, LABEL_MAGIC, labels)):
        header = b"".join(number.to_bytes(4, "big") for number in (magic, *array.shape))
        (raw / name).write_bytes(gzip.compress(header + array.tobytes()))


@pytest.mark.slow
@pytest.mark.ray
def test_from_raw_files_to_a_ranking_on_stored_features(tmp_path: Path) -> None:
    """One command: prepared, encoded by a resnet18 of random weights, searched, ranked."""
    write_avdigits(tmp_path / "raw")
    folders = ["--raw-dir", tmp_path / "raw", "--data-dir", tmp_path / "data", "--output", tmp_path / "results"]
    tiny = [part for name in ("audio", "image") for part in ("--set", f"dataset.encode.{name}.size=tiny")]
    result = run(tune, "--dataset", "avdigits", "--encode", "audio=resnet18,image=resnet18", *tiny, *folders,
                 "--method", "iprm", "--reference", "none", "--trials", "1", "--max-epochs", "1", "--final-seeds", "1",
                 "--cpus", "2", "--set", "trainer.device=cpu", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (table,) = json.loads(result.stdout)["rankings"]
    assert table["dataset"].startswith("avdigits+encode+audio=resnet18+image=resnet18+")
    assert "; frozen encoders (audio resnet18, image resnet18): " in table["protocol"]
    assert {row["method"] for row in table["rows"]} == {"iprm"}
    assert all(row["accuracy"] is not None for row in table["rows"])
