"""What was spent, and what had been found by then, against figures counted by hand."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from statistics import mean

import pytest
from study_edits import edit_all, environment, set_study, set_trials, trial
from study_files import MadeData, MadeStudy, write_study

from rayjobs.study.document import BudgetEntry, CurvePoint
from rayjobs.study.evidence.budgets import budgets
from rayjobs.study.results import load_study

AUG = [
    [trial(1, None, 3, 1), trial(2, 0.5, 4), trial(3, 0.4, 1, 9, status="stopped"), trial(4, 0.7, 2)],
    [trial(1, 0.6, 1), trial(2, 0.5, 1), trial(3, 0.8, 9), trial(4, 0.7, 1)],
]
IPRM = [[trial(number, 0.1 * number, 2) for number in (1, 2, 3, 4)], [trial(1, 0.3, 1), trial(2, 0.9, 1)]]
"""Fold -> trials."""


def made(folder: Path, **values: object) -> Path:
    settings = {"methods": {"aug": 0.8, "iprm": 0.7, "ensemble-tuned": 0.7}, "data": [MadeData(folds=3)], "seeds": 2}
    study = write_study(folder / "results" / "made", MadeStudy(**(settings | {"folds": [0, 2]} | values)))  # type: ignore[arg-type]
    for label, of_folds in (("aug", AUG), ("iprm", IPRM)):
        for fold, trials in zip((0, 2), of_folds, strict=True):
            set_trials(study / "cells" / f"made-{label}" / f"fold-{fold}", trials)
    return study


def entries(study: Path) -> dict[str, BudgetEntry]:
    return {each.method: each for each in budgets(load_study(study), "made")}


def test_a_curve_has_each_trials_whole_cost_before_its_result(tmp_path: Path) -> None:
    curve = entries(made(tmp_path))["aug"].curves["0"]
    assert curve == [
        CurvePoint(trials=2, epochs=3, device_seconds=7, best=50),
        CurvePoint(trials=3, epochs=12, device_seconds=8, best=50),
        CurvePoint(trials=4, epochs=14, device_seconds=10, best=70),
    ]


def test_a_method_is_taken_where_the_cheapest_search_ended_on_each_fold(tmp_path: Path) -> None:
    found = entries(made(tmp_path))
    # Fold 0: aug 10 s, iprm 8 s, the ensemble's parts 14 s; by 8 s aug has .5 and iprm all.
    # Fold 2: iprm 2 s, at which aug has two trials.
    assert found["aug"].at_common_cost == pytest.approx(mean([50, 60]))
    assert found["iprm"].at_common_cost == pytest.approx(mean([40, 90]))
    assert (found["ensemble-tuned"].at_common_cost, found["ensemble-tuned"].curves) == (None, {})


def test_the_cost_of_parts_counts_among_the_least(tmp_path: Path) -> None:
    study = made(tmp_path)
    for part in ("image", "audio"):
        set_trials(study / f"cells/made-ensemble-tuned/fold-0/part-{part}", [trial(1, 0.5, 2)])
    found = entries(study)
    assert found["iprm"].at_common_cost == pytest.approx(mean([20, 90]))
    assert found["aug"].at_common_cost is None, "no trial of its had a result on fold 0 by then"


def test_what_was_spent_is_of_trials_and_final_models(tmp_path: Path) -> None:
    found = entries(made(tmp_path))["aug"]
    assert (found.dataset, found.trials) == ("made", 4)
    assert found.device_seconds == 10 + 12 + 4 * 10
    assert found.epochs == (1 + 2 + 9 + 2) + 4 * 2 + 4 * 8


def test_seconds_of_unlike_devices_are_not_compared(tmp_path: Path) -> None:
    study = made(tmp_path)
    edit_all(study, "cells/*/*/*/result.json", lambda stored: stored.update(environment=environment("A")))
    assert entries(study)["aug"].at_common_cost is not None
    for unlike in ("final-1", "*"):  # in one cell, then from cell to cell
        edit_all(
            study, f"cells/made-iprm/*/{unlike}/result.json", lambda stored: stored.update(environment=environment("B"))
        )
        found = entries(study)
        assert [each.at_common_cost for each in found.values()] == [None, None, None]
    assert found["aug"].curves


def test_a_fold_that_failed_leaves_no_mean_over_the_others(tmp_path: Path) -> None:
    study = made(tmp_path, failed={("made", "aug", 0): "loss nan"})
    set_trials(study / "cells/made-aug/fold-0", [trial(1, None)])
    found = entries(study)
    assert found["aug"].at_common_cost is None
    assert found["iprm"].at_common_cost == pytest.approx(mean([40, 90])), "what failed there is no measure"


def expected(scores: list[float]) -> list[float]:
    """Means over all ways to draw n of the scores."""
    return [mean(max(drawn) for drawn in combinations(scores, count)) for count in range(1, len(scores) + 1)]


def test_the_expected_best_is_the_mean_over_all_draws_where_trials_are_exchangeable(tmp_path: Path) -> None:
    study = made(tmp_path)
    assert entries(study)["aug"].expected_best is None, "trials of hyperopt learn from each other"
    set_study(study, algorithm="random", scheduler="asha")
    assert entries(study)["aug"].expected_best is None, "and trials that are stopped by others are not alike"
    set_study(study, algorithm="random", scheduler="fifo")
    found = entries(study)
    both = zip(expected([25, 50, 40, 70]), expected([60, 50, 80, 70]), strict=True)  # 25: chance, where one failed
    assert found["aug"].expected_best == pytest.approx([mean(pair) for pair in both])
    assert found["iprm"].expected_best is None, "its folds have unequal numbers of trials"
    assert found["ensemble-tuned"].expected_best is None


def test_points_that_are_tried_first_are_no_draws(tmp_path: Path) -> None:
    study = made(tmp_path)
    set_study(study, algorithm="random", scheduler="fifo")
    for fold in (0, 2):
        plan = {"algorithm": "random", "points": [{"optimizer.lr": 0.1}]}
        (study / f"cells/made-aug/fold-{fold}/plan.json").write_text(json.dumps(plan))
    both = zip(expected([50, 40, 70]), expected([50, 80, 70]), strict=True)
    assert entries(study)["aug"].expected_best == pytest.approx([mean(pair) for pair in both])
    set_study(study, algorithm="grid")
    for path in (study / "cells/made-aug").glob("fold-*/plan.json"):
        path.write_text(path.read_text().replace("random", "grid"))
    assert len(entries(study)["aug"].expected_best or []) == 4, "a grid's points are all it has"
