"""Dataclasses in JSON files: the format stays, and what the first release wrote is still read."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from stored_records import outcome, ranking, result, row, table

from mmcore.errors import DataError
from rayjobs.experiment.search_result import SearchResult
from rayjobs.reporting.ranking_table import Ranking
from rayjobs.runs.result import RunResult, read_result, read_results
from rayjobs.storage.json_record import JsonRecord

SEGMENT = {"epoch": 2, "values": {"optimizer.lr": 0.1}, "source": "trial-001"}
READING = {"kind": "dead", "modality": "audio", "since": 3, "text": "audio is dead"}
ENVIRONMENT = {"software": {"torch": "2"}, "commit": "", "device": "A", "threads": 1, "begun": "b", "ended": "e"}
WHOLE = {
    RunResult: result(
        test={"epoch": 2, "fused/accuracy": 0.5},
        conditions={"as stored": {"fused/accuracy": 0.5}},
        shapley={"contributions": {"audio": 0.1}, "none": 0.3, "all": 0.5},
        readings=[READING],
        config={"seed": 1, "method": {"name": "iprm"}},
        schedule=[SEGMENT],
        group_sizes=[2, 1],
        environment=ENVIRONMENT,
    ),
    SearchResult: {"label": "iprm", "trials": [outcome(schedule=[SEGMENT])], "best": outcome(), "config": {"seed": 1}},
    Ranking: ranking(
        rankings=[
            table(
                classes=[{"class": "sad", "train": 3, "test": 1, "accuracy": {"iprm": 0.5}}],
                rows=[
                    row(
                        delta={"mean": 0.1, "low": None, "high": None, "folds": [0.1]},
                        modalities={"audio": {"accuracy": 0.2, "by": "probe"}},
                        best=outcome(),
                        best_of_folds=[outcome(), None],
                        failures=[{"trial": "trial-002", "reason": "loss nan"}],
                    ),
                    row(delta={"mean": 0.1, "low": -0.1, "high": 0.3}),
                ],
            )
        ],
        environment=ENVIRONMENT,
    ),
}


@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: kind.__name__)
def test_a_file_is_written_as_it_was_read_keys_in_their_order(kind: type[JsonRecord]) -> None:
    text = json.dumps(WHOLE[kind])
    assert json.dumps(kind.from_dict(json.loads(text)).to_dict()) == text


@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: kind.__name__)
def test_no_mapping_stands_where_a_dataclass_should(kind: type[JsonRecord]) -> None:
    def check(value: Any, path: str) -> None:
        if is_dataclass(value):
            for field in fields(value):
                check(getattr(value, field.name), f"{path}.{field.name}")
        for number, entry in enumerate(value if isinstance(value, (list, tuple)) else ()):
            assert not isinstance(entry, dict), path
            check(entry, f"{path}[{number}]")

    check(kind.from_dict(WHOLE[kind]), kind.__name__)


def test_keys_that_came_after_the_first_release_may_be_missing() -> None:
    stored = json.loads(json.dumps(WHOLE[Ranking]))
    del stored["next"]
    for lacking in ("failed_because", "config_files"):
        del stored["rankings"][0]["rows"][0][lacking]
    del stored["rankings"][0]["classes"]
    read = Ranking.from_dict(stored)
    first = read.rankings[0].rows[0]
    assert (read.next, first.failed_because, first.config_files, read.rankings[0].classes) == ("", "", [], [])


def test_a_file_that_lacks_a_key_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    stored = result()
    del stored["monitor"], stored["workers"]
    (tmp_path / "result.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match=r"result\.json is no RunResult \(RunResult lacks monitor, workers\)"):
        read_result(tmp_path)


def test_a_result_that_cannot_be_read_is_not_left_out_of_a_mean(tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "result.json").write_text(json.dumps(result()))
    assert len(read_results(tmp_path)) == 2
    (tmp_path / "seed-1" / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"seed-1.result\.json is damaged .*--resume"):
        read_results(tmp_path)


def test_a_value_of_another_type_is_refused_by_its_path() -> None:
    stored = json.loads(json.dumps(WHOLE[SearchResult]))
    stored["trials"][0]["epochs"] = "many"
    with pytest.raises(DataError, match=r"trials\[0\].epochs must be a whole number, got 'many'"):
        SearchResult.from_dict(stored)


def test_null_is_a_number_that_was_none() -> None:
    stored = json.loads(json.dumps(WHOLE[SearchResult]))
    stored["trials"][0]["objective_loss"] = None
    assert math.isnan(SearchResult.from_dict(stored).trials[0].objective_loss)
