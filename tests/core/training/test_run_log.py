"""Rows in metrics.jsonl and TensorBoard, however often a run was cut off."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from synthetic import make_config, make_spec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mmcore.training.run_log import (
    METRICS_FILE,
    PlainReporter,
    RunLog,
    flatten,
    hyper_parameters,
    read_rows,
    tensorboard_tag,
)

MONITOR = "val/fused/accuracy"


def row(epoch: int, accuracy: float = 0.5) -> dict[str, float]:
    return {"epoch": epoch, MONITOR: accuracy, "train/fused/loss": 1.0 / epoch, "train/lr": 0.01}


def write(run_dir: Path, *rows: dict[str, float], finished: bool = True) -> None:
    log = RunLog(run_dir, make_config("aug", make_spec(2)), MONITOR)
    for entry in rows:
        log.write(entry)
    log.close(finished=finished)


def events(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir))
    accumulator.Reload()
    return accumulator


def hparams(run_dir: Path) -> dict[str, HParamsPluginData]:
    content = events(run_dir).summary_metadata
    return {tag: HParamsPluginData.FromString(data.plugin_data.content) for tag, data in content.items()
            if data.plugin_data.plugin_name == "hparams"}  # fmt: skip


def test_rows_come_back_and_each_epoch_once(tmp_path: Path) -> None:
    assert read_rows(tmp_path) == []
    write(tmp_path, row(1), row(2), row(2, 0.9))
    write(tmp_path, row(2, 0.9), row(3))  # a resumed run reports its last row again
    assert read_rows(tmp_path) == [row(1), row(2), row(3)]
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 3


def test_a_half_written_line_is_left_out_and_costs_no_other_row(tmp_path: Path) -> None:
    write(tmp_path, row(1), row(2))
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write(json.dumps(row(3))[:20])
    assert read_rows(tmp_path) == [row(1), row(2)]
    write(tmp_path, row(3), row(4))  # what the run does when it goes on
    assert read_rows(tmp_path) == [row(1), row(2), row(3), row(4)]


def test_rows_that_are_not_finite_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, row(1, float("inf")))
    assert read_rows(tmp_path) == [row(1, float("inf"))]


def test_tensorboard_holds_the_curves_under_tags_that_compare(tmp_path: Path) -> None:
    write(tmp_path, row(1, 0.25), row(2, 0.75))
    write(tmp_path, row(2, 0.1), row(3, 0.5))
    accumulator = events(tmp_path)
    assert set(accumulator.Tags()["scalars"]) == {"accuracy/val_fused", "loss/train_fused", "train/lr"}
    curve = [(event.step, event.value) for event in accumulator.Scalars("accuracy/val_fused")]
    assert curve == [(1, 0.25), (2, 0.75), (3, 0.5)]


@pytest.mark.parametrize(
    ("name", "tag"),
    [("train/fused/loss", "loss/train_fused"), ("val/quiet/accuracy", "accuracy/val_quiet"),
     ("train/encoder/quiet/gradient_norm", "gradient_norm/train_encoder_quiet"),
     ("train/mixed/loud+quiet/loss", "loss/train_mixed_loud+quiet"),
     ("val/fused/class_0/accuracy", "val/fused/class_0/accuracy"),
     ("val/loud/probe_accuracy", "probe_accuracy/val_loud"), ("method/lambda/loud+quiet", "method/lambda/loud+quiet"),
     ("train/lr", "train/lr"), ("time/epoch_s", "time/epoch_s")],
)  # fmt: skip
def test_tags_put_the_metric_first(name: str, tag: str) -> None:
    assert tensorboard_tag(name) == tag


def test_the_hparams_table_has_the_settings_the_metric_and_the_end(tmp_path: Path) -> None:
    write(tmp_path, row(1))
    found = hparams(tmp_path)
    start = found["_hparams_/session_start_info"].session_start_info.hparams
    assert start["optimizer.lr"].number_value == 0.02
    assert start["method.name"].string_value == "aug"
    assert start["method.tau"].number_value == 0.01
    assert "method.max_classifiers" not in start  # none: not set
    metrics = found["_hparams_/experiment"].experiment.metric_infos
    assert [info.name.tag for info in metrics] == ["accuracy/val_fused"]
    assert metrics[0].name.tag in events(tmp_path).Tags()["scalars"]
    assert "_hparams_/session_end_info" in found


def test_a_run_that_was_cut_off_is_not_marked_as_ended_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    write(tmp_path, row(1), finished=False)
    assert threading.active_count() == before
    assert "_hparams_/session_end_info" not in hparams(tmp_path)
    write(tmp_path, row(2))
    found = hparams(tmp_path)
    assert found.keys() == {f"_hparams_/{part}" for part in ("experiment", "session_start_info", "session_end_info")}


def test_a_plain_reporter_keeps_each_epoch_once() -> None:
    reporter = PlainReporter()
    for entry in (row(1), row(2), row(2), row(3)):
        reporter.report(entry)
    assert reporter.rows == [row(1), row(2), row(3)]


def test_hyper_parameters_tell_runs_apart_and_are_flat() -> None:
    config = make_config("iprm", make_spec(2), seed=3, method__alpha=0.25)
    flat = flatten(hyper_parameters(config))
    assert flat["method.alpha"] == 0.25
    assert flat["seed"] == 3
    assert flat["trainer.max_epochs"] == 4
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None}) == {"a.b.c": 1, "a.d": "[1, 2]", "e": None}
