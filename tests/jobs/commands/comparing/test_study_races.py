"""Races: who leaves, after which fold, and that nobody else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import MadeData, MadeStudy, write_study

from rayjobs.cluster.resources import TrialShape
from rayjobs.commands.comparing.racing import Racing, differences
from rayjobs.experiment.stages import PlacedStage
from rayjobs.pool.stage import Count, FinishedStage, GatedStage, Place
from rayjobs.study.race import Leaver, Race, read_race, taken_in, write_race
from rayjobs.study.results import load_study

FOLDS = 6


class MadePlan:
    """What a race asks of a plan, of a study whose first folds are finished."""

    def __init__(self, folder: Path):
        self.results = load_study(folder)
        self.folder, self.study = folder, self.results.study
        self.cells = [each.cell for each in self.results.cells]
        self.folds = tuple(range(FOLDS))
        self.prepared = self
        self.directory = self
        self.name = "made"


def made_race(tmp_path: Path, hopeless: float = 0.3, open_from: int = 3) -> tuple[Racing, MadePlan]:
    methods = {"good": 0.85, "hopeless": [hopeless] * FOLDS, "ensemble-tuned": [0.7, 0.72, 0.71, 0.7, 0.73, 0.7]}
    waiting = {("made", label, fold) for label in methods for fold in range(open_from, FOLDS)}
    study = MadeStudy(methods=methods, data=(MadeData(folds=FOLDS),), open=frozenset(waiting))
    plan = MadePlan(write_study(tmp_path / "results" / "made", study))
    return Racing(plan, ["good", "hopeless"]), plan  # type: ignore[arg-type]


def stage(name: str, fold: int) -> FinishedStage:
    return FinishedStage(name, Place(fold, 0, name), TrialShape(), Count(1), after=frozenset({"its own"}))


def test_a_method_without_hope_leaves_and_a_good_one_stays(tmp_path: Path) -> None:
    racing, plan = made_race(tmp_path)
    assert not racing.has_left(plan, "good", 3)  # type: ignore[arg-type]
    assert racing.has_left(plan, "hopeless", 3)  # type: ignore[arg-type]
    (leaver,) = read_race(plan.folder).leavers
    assert (leaver.label, leaver.folds) == ("hopeless", [0, 1, 2])
    assert leaver.difference == pytest.approx(-41.0)  # 30 against 70, 72 and 71 in 100
    assert racing.has_left(plan, "hopeless", 4)  # type: ignore[arg-type]
    assert len(read_race(plan.folder).leavers) == 1


def test_what_was_left_out_is_no_open_cell_and_holds_no_fold_back(tmp_path: Path) -> None:
    racing, plan = made_race(tmp_path)
    assert racing.has_left(plan, "hopeless", 3)  # type: ignore[arg-type]
    results = load_study(plan.folder)
    states = [cell.status for cell in results.of("made", "hopeless")]
    assert states == ["done"] * 3 + ["left out"] * 3
    assert "left after 3 folds" in results.of("made", "hopeless")[3].reason
    assert results.complete_folds("made") == [0, 1, 2]  # the others' are still open


def test_who_is_taken_in_again_stays(tmp_path: Path) -> None:
    racing, plan = made_race(tmp_path)
    assert racing.has_left(plan, "hopeless", 3)  # type: ignore[arg-type]
    write_race(plan.folder, taken_in(read_race(plan.folder), ["hopeless"]))
    assert not racing.has_left(plan, "hopeless", 4)  # type: ignore[arg-type]
    assert load_study(plan.folder).of("made", "hopeless")[3].status == "open"


def test_a_method_whose_difference_is_not_known_stays(tmp_path: Path) -> None:
    racing, plan = made_race(tmp_path, open_from=2)
    assert differences(plan.results, "made", "hopeless", [0, 1, 2]) is None
    assert not racing.has_left(plan, "hopeless", 3)  # type: ignore[arg-type]


def test_the_fourth_fold_waits_for_the_three_before_but_for_references(tmp_path: Path) -> None:
    racing, plan = made_race(tmp_path)
    labels = ("good", "ensemble-tuned")
    placed = [PlacedStage(stage(f"{label}/{fold}", fold), label, fold) for label in labels for fold in range(FOLDS)]
    gated = racing.gate(plan, placed)  # type: ignore[arg-type]
    waits = {each.name: each.after - {"its own"} for each in gated if isinstance(each, GatedStage)}
    assert sorted(waits) == ["good/3", "good/4", "good/5"]
    assert waits["good/3"] == {f"{label}/{fold}" for label in labels for fold in range(3)}
    assert all("its own" in each.after for each in gated)


def test_a_race_is_read_as_it_was_written(tmp_path: Path) -> None:
    race = Race(leavers=[Leaver(dataset="made", label="slow", folds=[0, 1, 2], difference=-3.5)])
    write_race(tmp_path, race)
    assert read_race(tmp_path) == race
    assert race.left("made", "slow") == race.leavers[0]
    assert race.left("other", "slow") is None
    assert taken_in(race, ["slow"]).left("made", "slow") is None
