"""`prepare` on raw files: the doctor's report, demos, what is left out, and the same result from Ray Data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from places import SHARED
from raw_files import save_picture, save_text, save_vocab

from mmcore.data.prepared import writer
from mmcore.data.prepared.prepare import HowToPrepare, prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.errors import DataError, UsageError
from rayjobs import train, tune
from rayjobs.commands import begun, submitting, training, tune_flags
from rayjobs.experiment import plan
from rayjobs.experiment.experiment import Experiment, new_experiment
from rayjobs.experiment.request import Request
from rayjobs.prepare import main
from rayjobs.preparing import raw_tasks
from rayjobs.preparing.datasets import check_demo, demo_files, prepare_one
from rayjobs.preparing.raw_tasks import RayParts, run_by_ray_data

SPLITS = SHARED / "data" / "splits"
needs_lists = pytest.mark.skipif(not SPLITS.is_dir(), reason=f"the real lists are not in {SPLITS}")
NUM_SAMPLES = 40
REQUEST = Request(datasets=("sarcasm",), methods=("joint",))
OPTIONS = {"image_size": 8, "max_tokens": 8}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Forty tweets with a picture each: thirty train, five validate, five test."""
    folder = tmp_path / "raw"
    save_vocab(folder, "word")
    for name, ids in {"train": range(30), "valid2": range(30, 35), "test2": range(35, 40)}.items():
        rows = []
        for i in ids:
            save_picture(folder / "dataset_image" / f"{i}.jpg", 5 * i, (16, 16))
            rows.append(repr([str(i), "word", *([i % 2] if name == "train" else [i % 2, i % 2])]))
        save_text(folder / "text" / f"{name}.txt", "\n".join(rows))
    return folder


@needs_lists
@pytest.mark.parametrize(
    ("name", "cells"), [("cremad", ("6,698", "744", "LEAK: 91 groups")), ("kinetics_sounds", ("14,799", "2,597"))]
)
def test_the_real_lists_through_the_doctor(name: str, cells: tuple[str, ...]) -> None:
    result = run("--dataset", name, "--split-dir", SPLITS / name, "--check")
    assert result.exit_code == 0, result.output
    for cell in (*cells, "the lists are OGM-GE's lists", "media: not looked at"):
        assert cell in result.stdout
    report = json.loads(run("--dataset", name, "--split-dir", SPLITS / name, "--check", "--json").stdout)
    assert report["splits"]["train"]["usable"] == int(cells[0].replace(",", ""))


def test_the_check_of_a_test_list_alone_and_with_a_train_list_beside_it(tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    save_text(lists / "test.csv", "\n".join(f"test{n:07d}_000030.mp4,hail" for n in range(9)))
    arguments = ["--dataset", "vggsound", "--split-dir", lists, "--check"]
    alone = run(*arguments)
    assert alone.exit_code == 0, alone.output
    assert f"split for training: not known, there is no train list beside {lists / 'test.csv'}" in alone.stdout
    save_text(lists / "train.csv", "\n".join(f"trainset{n % 35:03d}_{n:06d}.mp4,hail" for n in range(70)))
    both = run(*arguments)
    assert both.exit_code == 0, both.output
    assert (
        "validation cut from train by group, seed 0): 56 train (28 groups), 14 val (7 groups), 9 test (9 groups)\n"
        "no group lies on both sides of a boundary\n"
    ) in both.stdout
    assert "warning: every sample is of the class 'hail'" in both.stdout


def test_what_conflicts_stays_in_once(raw: Path, tmp_path: Path) -> None:
    """The first row counts, in the check as in what is prepared."""
    lines = (raw / "text" / "test2.txt").read_text().splitlines()
    save_text(raw / "text" / "test2.txt", "\n".join([*lines, lines[0].replace("word", "other")]))
    arguments = ["--dataset", "sarcasm", "--raw-dir", raw, "--option", "max_tokens=8"]
    report = json.loads(run(*arguments, "--check", "--json").stdout)
    assert report["splits"]["test"] == {"listed": 6, "usable": 5, "found": 5}
    prepared = run(*arguments, "--on-missing", "skip", "--data-dir", tmp_path / "data", "--json")
    assert json.loads(prepared.stdout)["split"] == report["split"]
    assert json.loads(prepared.stdout)["left_out"] == report["left_out"] == {"conflict": 1}


def test_check_reads_everything_and_writes_nothing(raw: Path, tmp_path: Path) -> None:
    (raw / "dataset_image" / "3.jpg").unlink()
    save_text(raw / "dataset_image" / "4.jpg", b"no picture")
    result = run("--dataset", "sarcasm", "--raw-dir", raw, "--check", "--data-dir", tmp_path / "data")
    assert result.exit_code == 1
    for part in (
        "sarcasm: publishers' text files",
        "the lists are none of the published ones",
        "train: not sarcastic 15, sarcastic 15",
        "split for training: holdout (published splits): 28 train, 5 val, 5 test\n",
        "text: valid length 3 to 3, median 3",
        "left out: 2 (missing 1, damaged 1)",
        "1 missing:\n  3: image: dataset_image/3.jpg is not there",
        "1 damaged:\n  4: ",
    ):
        assert part in result.stdout
    assert not (tmp_path / "data").exists()
    report = json.loads(run("--dataset", "sarcasm", "--raw-dir", raw, "--check", "--json").stdout)
    assert report["splits"]["train"] == {"listed": 30, "usable": 30, "found": 28}
    assert report["num_faults"] == 2
    assert report["left_out"] == {"missing": 1, "damaged": 1}
    assert report["noted"] == {}
    assert report["split"]["samples"] == {"train": 28, "val": 5, "test": 5}
    assert "both sides" not in result.stdout  # where there are no groups


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cremad", "--check"], "--check needs --raw-dir, or --split-dir for the lists alone."),
        (["--dataset", "cremad", "--check", "--raw-dir", "nowhere"], "cremad: folder nowhere does not exist."),
        (["--dataset", "digits", "--check"], "--check: digits has no lists to check"),
        (["--dataset", "digits", "--demo"], "--demo: digits writes no raw files of its own; cremad, "),
        (["--dataset", "sarcasm"], "sarcasm is made from raw files: pass --raw-dir. The lists are at"),
        (["--dataset", "sarcasm", "--raw-dir", ".", "--on-missing", "ignore"], "'ignore' is not one of"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(*arguments, "--data-dir", tmp_path / "data")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_lists_and_vocabulary_from_elsewhere(raw: Path, tmp_path: Path) -> None:
    (raw / "text").rename(tmp_path / "lists")
    (raw / "vocab.txt").rename(tmp_path / "words.txt")
    arguments = ["--dataset", "sarcasm", "--raw-dir", raw, "--data-dir", tmp_path / "data"]
    assert "there are no lists" in run(*arguments).stderr
    arguments += ["--split-dir", tmp_path / "lists"]
    assert "pass --vocab PATH" in run(*arguments).stderr
    result = run(*arguments, "--vocab", tmp_path / "words.txt")
    assert result.exit_code == 0, result.output
    assert "30 train, 5 val, 5 test" in result.stdout


def test_missing_files_fail_or_are_left_out(raw: Path, tmp_path: Path) -> None:
    (raw / "dataset_image" / "3.jpg").unlink()
    arguments = ["--dataset", "sarcasm", "--raw-dir", raw, "--data-dir", tmp_path / "data"]
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert "1 of 40 samples can not be used (1 missing); pass --on-missing skip to leave them out" in failed.stderr
    assert not (tmp_path / "data" / "sarcasm").exists()
    skipped = run(*arguments, "--on-missing", "skip")
    assert "29 train, 5 val, 5 test" in skipped.stdout
    assert "  left out: 1 (missing 1); first 3: missing: image: dataset_image/3.jpg is not there" in skipped.stdout


def test_left_out_and_cropped_are_two_counts(raw: Path, tmp_path: Path) -> None:
    (raw / "dataset_image" / "3.jpg").unlink()
    save_text(raw / "dataset_image" / "4.jpg", b"no picture")
    lines = (raw / "text" / "test2.txt").read_text().splitlines()
    save_text(raw / "text" / "test2.txt", "\n".join([lines[0], *lines]).replace("'word'", f"'{'word ' * 20}'"))
    arguments = ["--dataset", "sarcasm", "--raw-dir", raw, "--option", "max_tokens=8"]
    report = json.loads(run(*arguments, "--check", "--json").stdout)
    assert report["left_out"] == {"duplicate": 1, "missing": 1, "damaged": 1}
    assert report["noted"] == {"text cropped": 5}
    arguments += ["--on-missing", "skip", "--data-dir", tmp_path / "data"]
    prepared = run(*arguments)
    assert "  left out: 3 (duplicate 1, missing 1, damaged 1); first 35: " in prepared.stdout
    assert "  text cropped: 5 (first " in prepared.stdout
    described = json.loads(run(*arguments, "--json").stdout)
    assert described["left_out"] == report["left_out"]
    assert described["split"] == report["split"]


def test_a_demo_is_prepared_beside_the_real_one(tmp_path: Path) -> None:
    result = run("--dataset", "twitter15", "--demo", "--data-dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "CONSTRUCTED demo" in result.stdout
    prepared = PreparedDataset.open(tmp_path / "twitter15+demo")
    assert prepared.constructed
    files = sorted((tmp_path / "demo-raw" / "twitter15-2").rglob("*"))
    again = prepare_one("twitter15", {"demo": True}, None, tmp_path)
    assert again.fingerprint == prepared.fingerprint
    assert sorted(demo_files("twitter15", tmp_path).rglob("*")) == files
    with pytest.raises(UsageError, match="--demo: avdigits writes no raw files of its own"):
        check_demo("avdigits")


@pytest.mark.slow
@pytest.mark.ray
class TestRayData:
    @pytest.fixture
    def many_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sample_bytes = 3 * 8 * 8 + 4 * 8
        monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 2 * sample_bytes)
        monkeypatch.setattr(writer, "PART_BYTES", 2 * sample_bytes)

    def test_gives_the_same_data_set_and_starts_ray_only_for_many_parts(
        self, raw: Path, tmp_path: Path, many_parts: None
    ) -> None:
        import ray

        here = prepare("sarcasm", OPTIONS, raw, tmp_path / "here")
        seen: list[tuple[int, int | None]] = []
        by_ray = prepare(
            "sarcasm", OPTIONS, raw, tmp_path / "ray", progress=lambda done, total: seen.append((done, total)),
            how=HowToPrepare(run=RayParts(cpus=2)),
        )  # fmt: skip
        assert len(by_ray.files()) == 21
        assert by_ray.read_table().equals(here.read_table())
        assert by_ray.fingerprint == here.fingerprint
        assert seen[-1] == (NUM_SAMPLES, NUM_SAMPLES)
        assert len(seen) == 21
        assert not ray.is_initialized()

    def test_damage_and_errors_come_back_as_messages(self, raw: Path, tmp_path: Path, many_parts: None) -> None:
        import ray

        save_text(raw / "dataset_image" / "7.jpg", b"no picture")
        save_text(raw / "dataset_image" / "38.jpg", b"no picture")
        with pytest.raises(DataError, match=r"2 of 40 samples can not be used \(2 damaged\)"):
            prepare("sarcasm", OPTIONS, raw, tmp_path / "data", how=HowToPrepare(run=RayParts(cpus=2)))
        partial = next((tmp_path / "data").glob(".*.partial"))
        assert len(list(partial.glob("*/part-*"))) >= 19  # kept for the repaired files
        save_picture(raw / "dataset_image" / "7.jpg", 35, (16, 16))
        save_picture(raw / "dataset_image" / "38.jpg", 190, (16, 16))
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        try:
            how = HowToPrepare(run=run_by_ray_data)
            assert prepare("sarcasm", OPTIONS, raw, tmp_path / "data", how=how).num_samples == NUM_SAMPLES
            (tmp_path / "data2").write_text("a file where a folder must be")
            with pytest.raises(OSError, match="data2"):
                prepare("sarcasm", OPTIONS, raw, tmp_path / "data2", how=how)
        finally:
            ray.shutdown()


def words_elsewhere(raw: Path, tmp_path: Path) -> list[object]:
    """The arguments that lead to raw files without a vocabulary."""
    (raw / "vocab.txt").unlink()
    save_vocab(tmp_path / "other", "word", "and", "more")
    folders = ["--data-dir", tmp_path / "data", "--output", tmp_path / "results"]
    options = [part for key, value in OPTIONS.items() for part in ("--option", f"{key}={value}")]
    no_network = ["--set", "model.encoders.text.weights=random"]
    return ["--dataset", "sarcasm", "--raw-dir", raw, *folders, *options, *no_network]


@pytest.mark.parametrize("command", [train, tune])
def test_train_and_tune_take_a_vocabulary_and_the_cluster_for_what_they_prepare(
    command: Any, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are stopped once the data is prepared."""
    arguments = words_elsewhere(raw, tmp_path)
    seen: list[Any] = []

    class Recorder(RayParts):
        def __init__(self, address: str | None = None, cpus: int | None = None, verbose: bool = False):
            seen.append(address)
            super().__init__()

    class Prepared(Exception):
        """What the commands are stopped by."""

    def stop(*_: object, **__: object) -> None:
        raise Prepared

    monkeypatch.setattr(raw_tasks, "RayParts", Recorder)
    monkeypatch.setattr(plan, "RayParts", Recorder)
    monkeypatch.setattr(training, "base_config", stop)
    monkeypatch.setattr(plan, "plan_searches", stop)
    monkeypatch.setattr(begun, "experiment_of", experiment_of)
    monkeypatch.setattr(submitting, "find", lambda address: None)  # nothing listens there

    def start(*more: object) -> Result:
        return CliRunner().invoke(command.main, [str(argument) for argument in [*arguments, *more]])

    assert "pass --vocab PATH" in start().output
    stopped = start("--vocab", tmp_path / "other" / "vocab.txt", "--address", "127.0.0.1:7")
    assert "unexpected Prepared" in stopped.output
    assert seen[-1] == "127.0.0.1:7"
    (folder,) = (tmp_path / "data").glob("sarcasm*")
    assert PreparedDataset.open(folder).spec.modalities[1].num_values == 8


def experiment_of(flags: dict[str, Any], machine: Any) -> Experiment:
    """What `tune` asks for, without a look at its encoders, which would have to be downloaded."""
    request = replace(REQUEST, raw_dir=str(flags["raw_dir"]), vocab=tune_flags._text(flags["vocab"]), options=OPTIONS,
                      data_dir=str(flags["data_dir"]))  # fmt: skip
    return new_experiment(request, flags["output"], None, "")


def test_tunes_request_holds_the_vocabulary(raw: Path, tmp_path: Path) -> None:
    arguments = words_elsewhere(raw, tmp_path)
    vocab = tmp_path / "other" / "vocab.txt"
    with tune.main.make_context("tune", [str(argument) for argument in [*arguments, "--vocab", vocab]]) as context:
        assert tune_flags.request_of(context.params).vocab == str(vocab)


@pytest.mark.parametrize("command", [train, tune])
def test_a_vocabulary_that_nothing_would_use(command: Any, tmp_path: Path) -> None:
    arguments = ["--dataset", "digits", "--vocab", tmp_path / "v.txt", "--data-dir", tmp_path, "--output", tmp_path]
    result = CliRunner().invoke(command.main, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    assert "--vocab is for preparing texts, and digits is not made from raw files here: leave it out" in result.stderr
