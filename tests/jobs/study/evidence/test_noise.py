"""What luck adds to the best trial and to the best method, against figures worked out by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
from study_edits import edit, set_trials, trial
from study_files import MadeData, MadeStudy, write_study

from mmcore.analysis import selection_noise
from rayjobs.study.evidence.noise import best_of, shrinkage_of
from rayjobs.study.results import CellResult, load_study

MAXIMUM_OF_3 = 3 / (2 * np.sqrt(np.pi))
"""Expected maximum of three standard normals, in closed form."""


def made(folder: Path, **values: object) -> Path:
    return write_study(folder / "results" / "made", MadeStudy(**({"methods": {"aug": 0.8, "joint": 0.5}} | values)))  # type: ignore[arg-type]


def set_validation(run_dir: Path, best: float, last: float = 0.1) -> None:
    edit(run_dir / "result.json", lambda stored: (
        stored["best"].update({"val/fused/accuracy": best}), stored["last"].update({"val/fused/accuracy": last})
    ))  # fmt: skip


def aug_of(folder: Path) -> CellResult:
    (cell,) = load_study(folder).of("made", "aug")
    return cell


def aug_alone(folder: Path) -> tuple[Path, Path]:
    study = made(folder, data=[MadeData(folds=None)])
    cell = study / "cells" / "made-aug"
    for number, value in enumerate((0.80, 0.81, 0.85), 1):
        set_validation(cell / f"final-{number}", value, last=value - 0.3)
    return study, cell


def test_the_fall_is_the_best_trials_score_less_the_final_models_mean(tmp_path: Path) -> None:
    study, cell = aug_alone(tmp_path)
    set_trials(cell, [trial(1, 0.84), trial(2, 0.83), trial(3, 0.7, status="stopped"), trial(4, None)])
    found = shrinkage_of(aug_of(study))
    assert found
    assert found.fall == pytest.approx(84 - 82)
    assert found.by_noise == pytest.approx(stdev([80, 81, 85]) * MAXIMUM_OF_3), "the trial that failed is no candidate"
    assert found.fits_validation is False
    set_trials(cell, [trial(1, 0.845), trial(2, 0.83), trial(3, 0.7)])
    found = shrinkage_of(aug_of(study))
    assert found
    assert (found.fall, found.fits_validation) == (pytest.approx(2.5), bool(stdev([80, 81, 85]) * MAXIMUM_OF_3 < 2.5))


def test_the_last_epoch_counts_where_it_is_the_one_that_is_tested(tmp_path: Path) -> None:
    study, cell = aug_alone(tmp_path)
    set_trials(cell, [trial(1, 0.84)])
    for path in cell.glob("final-*/result.json"):
        edit(path, lambda stored: stored["config"]["trainer"].update(select="last"))
    found = shrinkage_of(aug_of(study))
    assert found
    assert found.fall == pytest.approx(84 - 52)


def test_one_seed_tells_no_noise_and_no_final_model_no_fall(tmp_path: Path) -> None:
    one = made(tmp_path / "one", data=[MadeData(folds=None)], seeds=1)
    found = shrinkage_of(aug_of(one))
    assert found
    assert (found.by_noise, found.fits_validation) == (None, None)
    failed = made(tmp_path / "failed", data=[MadeData(folds=None)], failed={("made", "aug", 0): "loss nan"})
    assert shrinkage_of(aug_of(failed)) is None


def tuned(folder: Path) -> Path:
    study = made(folder, data=[MadeData(folds=None)], methods={"aug": 0.8, "ensemble-tuned": 0.9}, seeds=2)
    cell = study / "cells" / "made-ensemble-tuned"
    set_trials(cell / "part-image", [trial(1, 0.70), trial(2, 0.60), trial(3, 0.5)])
    set_trials(cell / "part-audio", [trial(1, 0.50)])
    for number, image, audio in ((1, 0.66, 0.49), (2, 0.68, 0.47)):
        whole = (cell / f"final-{number}" / "result.json").read_text()
        for part, value in (("image", image), ("audio", audio)):
            (cell / f"final-{number}" / part).mkdir()
            (cell / f"final-{number}" / part / "result.json").write_text(whole)
            set_validation(cell / f"final-{number}" / part, value)
    return cell


def test_of_parts_the_fall_is_the_mean_of_theirs(tmp_path: Path) -> None:
    cell = tuned(tmp_path)
    found = shrinkage_of(load_study(cell.parents[1]).of("made", "ensemble-tuned")[0])
    assert found
    assert found.fall == pytest.approx(((70 - 67) + (50 - 48)) / 2)
    assert found.by_noise == pytest.approx(np.sqrt(2) * (MAXIMUM_OF_3 + 0) / 2), "one trial owes luck nothing"
    assert found.fits_validation is True


def test_without_the_parts_own_results_nothing_is_said(tmp_path: Path) -> None:
    cell = tuned(tmp_path)
    (cell / "final-2" / "audio" / "result.json").unlink()
    assert shrinkage_of(load_study(cell.parents[1]).of("made", "ensemble-tuned")[0]) is None


def test_the_best_method_over_folds_is_corrected_for_having_been_chosen(tmp_path: Path) -> None:
    a, b = [0.5, 0.9, 0.7, 0.6], [0.6, 0.7, 0.8, 0.7]
    results = load_study(made(tmp_path, methods={"aug": a, "iprm": b}, data=[MadeData(folds=4)]))
    found = best_of(results, "made")
    assert found
    expected = selection_noise.best_of(100 * np.array([a, b]), np.ones(4))
    assert expected
    assert (found.units, found.observed) == ("folds", pytest.approx(70))
    assert found.corrected == pytest.approx(expected.corrected)
    assert found.chosen == {"aug": pytest.approx(expected.chosen[0]), "iprm": pytest.approx(expected.chosen[1])}


def test_a_method_that_failed_on_a_fold_takes_no_part(tmp_path: Path) -> None:
    failed = {("made", "iprm", 1): "loss nan"}
    results = load_study(made(tmp_path, methods={"aug": 0.6, "iprm": 0.9}, data=[MadeData(folds=3)], failed=failed))
    found = best_of(results, "made")
    assert found
    assert (found.observed, found.corrected, found.chosen) == (pytest.approx(60), pytest.approx(60), {"aug": 1.0})


def test_only_folds_that_all_have_finished_count(tmp_path: Path) -> None:
    values = {"methods": {"aug": [0.6, 0.9, 0.9], "joint": 0.5}, "data": [MadeData(folds=3)]}
    one = load_study(made(tmp_path, **values, open=frozenset({("made", "aug", 1), ("made", "aug", 2)})))
    found = best_of(one, "made")
    assert found
    assert (found.observed, found.corrected, found.chosen) == (pytest.approx(60), None, {})
    none = load_study(made(tmp_path / "none", **values, open=frozenset({("made", "aug", at) for at in range(3)})))
    assert best_of(none, "made") is None


@pytest.mark.parametrize(
    ("groups", "units", "column", "folds"),
    [(6, "groups", "groups", None), (3, "recordings", "sources", 3), (0, "samples", "sample_ids", None)],
)
def test_one_split_or_fold_draws_clusters_of_its_test_samples(
    tmp_path: Path, groups: int, units: str, column: str, folds: int | None
) -> None:
    data = MadeData(folds=folds, samples=34, groups=groups)
    one = [1] if folds else None
    methods = {"aug": 0.7, "iprm": 0.6}
    results = load_study(made(tmp_path, methods=methods, data=[data], seed_spread=0.1, folds=one))
    found = best_of(results, "made")
    assert found
    assert found.units == units
    models = {each.cell.label: [model.final for model in each.finals] for each in results.cells}
    names = sorted(set(getattr(models["aug"][0], column).tolist()))
    scores, sizes = np.zeros((2, len(names))), np.zeros(len(names))
    for (row, finals), (at, name) in product(enumerate(models.values()), enumerate(names)):
        rows = [place for place, entry in enumerate(getattr(finals[0], column)) if entry == name]
        sizes[at] = len(rows)
        right = sum(bool(final.correct[place]) for final in finals for place in rows)
        scores[row, at] = 100 * right / (len(rows) * len(finals))
    expected = selection_noise.best_of(scores, sizes)
    assert expected
    assert found.corrected == pytest.approx(expected.corrected)
    assert found.observed == pytest.approx(expected.observed)
    assert list(found.chosen.values()) == pytest.approx(expected.chosen)
