"""Each item of the checklist passes where all is well, and says what is wrong where that is so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import TESTS
from study_edits import edit, edit_all, environment, set_study, set_trials, trial
from study_files import BEGUN, MadeData, MadeStudy, write_study

from mmcore.methods import METHODS
from rayjobs.runs.predictions import read_predictions, write_predictions
from rayjobs.study.document import Check, Comparison, PowerEntry, ShrinkageEntry
from rayjobs.study.evidence.cells import cell_entries
from rayjobs.study.evidence.checklist import checklist
from rayjobs.study.evidence.checks.search import shrinkage_within_noise
from rayjobs.study.evidence.ledger import ledger_entry
from rayjobs.study.results import StudyResults, load_study

METHODS_OF = ("aug", "joint", "ensemble", "unimodal-image", "unimodal-audio", "ensemble-tuned")
FEW = ("aug", "joint", "ensemble-tuned")
LATER = "2027-01-01T00:00:00+00:00"
EARLIER = "2026-01-01T00:00:00+00:00"


def a_test(p: float = 0.01, p_holm: float | None = 0.01) -> Comparison:
    numbers = dict.fromkeys(
        ("s_d", "plain", "corrected", "p_tost", "p_tost_holm", "p_not_worse_holm", "bayes", "p_win", "variance",
         "only_a", "only_b", "word")
    )  # fmt: skip
    return Comparison(
        dataset="made", a="aug", b="ensemble-tuned", family="primary", d=1.0, folds=[], k=5, rho=0.25, narrows="",
        note="", p=p, p_holm=p_holm, **numbers,
    )  # type: ignore[arg-type]  # fmt: skip


def power(smallest: float | None = 0.9, margin: float = 1.0) -> PowerEntry:
    return PowerEntry(
        dataset="made", margin=margin, deviation=1.0, source="", folds=5, family=1, smallest=smallest, with_more={},
        folds_needed=None, note="",
    )  # fmt: skip


def made(folder: Path, **values: object) -> Path:
    """A study of five folds in which all is well."""
    settings = {
        "methods": {label: 0.7 + 0.01 * at for at, label in enumerate(METHODS_OF)},
        "data": [MadeData(folds=5, samples=24, groups=2)], "seeds": 3, "seed_spread": 0.05,
    }  # fmt: skip
    study = write_study(folder / "results" / "made", MadeStudy(**(settings | values)))  # type: ignore[arg-type]
    edit_all(study, "cells/*/*/*/result.json", lambda stored: stored.update(environment=environment()))
    for path in study.glob("cells/made-ensemble-tuned/fold-*/final-*"):
        for part in ("image", "audio"):
            (path / part).mkdir()
            (path / part / "result.json").write_text((path / "result.json").read_text())
    return study


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("well"))


def checks_of(results: StudyResults, **own: object) -> dict[int, Check]:
    settings = {"cells": cell_entries(results), "comparisons": [a_test()], "power": [power()],
                "ledger": ledger_entry(results)}  # fmt: skip
    return {check.id: check for check in checklist(results, **(settings | own))}  # type: ignore[arg-type]


def test_all_items_pass_where_all_is_well(well: Path) -> None:
    found = checks_of(load_study(well))
    assert list(found) == list(range(1, 19))
    assert {number: check for number, check in found.items() if check.state != "pass"} == {}
    assert "90 predictions.npz" in found[4].evidence
    assert "4 trials, 8 epochs a trial" in found[5].evidence
    assert "5 folds and 3 seeds" in found[10].evidence
    assert "1 against ensemble-tuned on made" in found[12].evidence
    assert "A; versions, commit c" in found[16].evidence


def test_the_same_files_give_the_same_words(well: Path) -> None:
    assert checks_of(load_study(well)) == checks_of(load_study(well))


def first(study: Path, name: str = "result.json", label: str = "aug") -> Path:
    return study / f"cells/made-{label}/fold-0/final-1" / name


def chosen_on_test(study: Path) -> None:
    edit(first(study), lambda stored: stored.update(selects_on_test=True))


def a_line(study: Path, run: str, when: str) -> None:
    line = {"when": when, "config": "c", "data": load_study(study).cells[0].cell.fingerprint, "run_dir": run}
    with (study.parent / "ledger.jsonl").open("a") as file:
        file.write(f"{json.dumps(line)}\n")


def a_trial_read_test(study: Path) -> None:
    a_line(study, str(study / "cells/made-aug/fold-0/trial-001"), LATER)


def read_before_the_lock(study: Path) -> None:
    a_line(study, str(study / "cells/made-aug/fold-0/final-1"), EARLIER)


def no_reading(study: Path) -> None:
    edit(first(study), lambda stored: stored.update(config_fingerprint="unknown"))


def answers(study: Path, change: Callable[[dict[str, np.ndarray]], None], label: str = "aug") -> None:
    run_dir = first(study, label=label).parent
    arrays = read_predictions(run_dir)
    change(arrays)
    write_predictions(run_dir, arrays)


def a_group_in_two_folds(study: Path) -> None:
    for label in FEW:
        answers(study, lambda arrays: arrays["groups"].__setitem__(0, "speaker9"), label)


def searched_elsewhere(study: Path) -> None:
    path = study / "cells/made-aug/fold-1/search.json"
    edit(path, lambda stored: stored["config"]["protocol"].update(fold=0))


def one_sample_less(study: Path) -> None:
    def cut(arrays: dict[str, np.ndarray]) -> None:
        arrays.update({name: values[1:] for name, values in arrays.items()})

    answers(study, cut)


def another_sample(study: Path) -> None:
    answers(study, lambda arrays: arrays["sample_ids"].__setitem__(3, "other"))


def a_trial_more(study: Path) -> None:
    set_trials(
        study / "cells/made-aug/fold-0", [trial(number, 0.7, values={"optimizer.lr": 0.01}) for number in range(5)]
    )


def longer_trials(study: Path) -> None:
    edit(study / "cells/made-aug/fold-0/search.json", lambda stored: stored["config"]["trainer"].update(max_epochs=9))


def other_grace(study: Path) -> None:
    for label, grace in (("aug", 2), ("joint", 3)):
        (study / f"cells/made-{label}/fold-0/plan.json").write_text(json.dumps({"grace_epochs": grace}))


def other_batches(study: Path) -> None:
    edit(first(study), lambda stored: stored["config"]["trainer"].update(batch_size=32))


def another_encoder(study: Path) -> None:
    for label, name in (("aug", "resnet18"), ("joint", "small_conv")):
        encoder = {"image": {"name": name}}
        edit(first(study, label=label), lambda stored, own=encoder: stored["config"]["model"].update(encoders=own))


def at_an_end(study: Path) -> None:
    space = {"optimizer.lr": "loguniform 0.008 ... 0.1"}
    edit(study / "cells/made-aug/fold-0/cell.json", lambda stored: stored.update(space=space))


def best_at_last(study: Path) -> None:
    edit(first(study), lambda stored: stored["best"].update(epoch=8))


def a_part_best_at_last(study: Path) -> None:
    edit(first(study, "audio/result.json", "ensemble-tuned"), lambda stored: stored["best"].update(epoch=8))


def no_lock(study: Path) -> None:
    (study / "lock.json").unlink()


def margin_changed(study: Path, key: str = "margins", read: int = 14) -> None:
    change = {"when": LATER, "key": key, "before": "1.0", "after": "2.0", "readings": read}
    edit(study / "lock.json", lambda stored: stored.update(changes=[change]))


def trials_changed(study: Path) -> None:
    margin_changed(study, "trials")


def a_failed_trial(study: Path) -> None:
    trials = [trial(number, 0.7, values={"optimizer.lr": 0.01}) for number in (1, 2, 3)]
    set_trials(study / "cells/made-aug/fold-0", [*trials, trial(4, None)])


def a_dead_encoder(study: Path) -> None:
    reading = {"kind": "dead", "modality": "audio", "text": "dead", "since": 2}
    edit(first(study), lambda stored: stored.update(readings=[reading]))


def damaged(study: Path) -> None:
    first(study, "predictions.npz").write_bytes(b"cut")


def another_device(study: Path) -> None:
    edit(first(study), lambda stored: stored.update(environment=environment("B")))


def another_version(study: Path) -> None:
    edit(first(study), lambda stored: stored.update(environment=environment(torch="2.8")))


def changes_without_a_commit(study: Path) -> None:
    edit_all(
        study, "cells/*/*/final-*/result.json", lambda stored: stored.update(environment=environment(commit="c-dirty"))
    )


def an_earlier_release(study: Path) -> None:
    edit(first(study), lambda stored: stored.pop("environment"))


def another_seed(study: Path) -> None:
    edit(first(study), lambda stored: stored["config"].update(seed=77))


def somebody_elses_method(study: Path) -> None:
    for path in study.glob("cells/made-aug/*/cell.json"):
        edit(path, lambda stored: stored.update(label="mine"))
    set_study(study, methods=["mine"])


def read_elsewhere(study: Path) -> None:
    a_line(study, "/elsewhere/results/other/final-1", LATER)


WRONG = [
    (1, "fail", chosen_on_test, "result.json of made aug fold 0 says that its epoch was chosen on test"),
    (1, "fail", a_trial_read_test, "readings of test by trials: cells/made-aug/fold-0/trial-001"),
    (1, "fail", read_before_the_lock, f"test was read at {EARLIER}, before {BEGUN}"),
    (1, "warn", no_reading, "has no reading of made aug fold 0 final-1"),
    (2, "fail", a_group_in_two_folds, "folds 0 and 4 both test the group speaker9"),
    (3, "fail", searched_elsewhere, "made aug fold 1: searched on fold 0, tested on 1"),
    (4, "fail", one_sample_less, "made aug fold 0 final-1 answered 23 of 24 test samples"),
    (4, "fail", another_sample, "answered different test samples"),
    (5, "fail", a_trial_more, "made: 4 trials of made aug fold 1, 5 trials of made aug fold 0"),
    (5, "fail", longer_trials, "8 epochs a trial of made aug fold 1, 9 epochs a trial of made aug fold 0"),
    (5, "fail", other_grace, "2 epochs of grace of made aug fold 0, 3 epochs of grace of made joint fold 0"),
    (6, "fail", other_batches, "trainer.batch_size (32 of aug, 64 of aug)"),
    (6, "fail", another_encoder, 'model.encoders.image.name ("resnet18" of aug, "small_conv" of joint)'),
    (7, "warn", at_an_end, "1 of 15 searches chose a value at an end of its range: optimizer.lr in 1"),
    (8, "warn", best_at_last, "1 of 60 final models were best at their last epoch: made aug fold 0"),
    (8, "warn", a_part_best_at_last, "1 of 60 final models were best at their last epoch: made ensemble-tuned fold 0"),
    (11, "fail", no_lock, "test was read, and there is no lock.json"),
    (11, "fail", margin_changed, "margins from 1.0 to 2.0 after 14 readings of test"),
    (11, "warn", trials_changed, "trials from 1.0 to 2.0 after 14 readings of test"),
    (15, "warn", a_failed_trial, "1 trials failed (search.json)"),
    (15, "warn", a_dead_encoder, "1 final models have a dead encoder: made aug fold 0"),
    (15, "warn", damaged, "damaged, to be run again: "),
    (16, "fail", another_device, "A, B (48 s)"),
    (16, "fail", another_seed, "seeds of made aug fold 0 are not those of the study"),
    (16, "warn", another_version, "trained by several versions: torch 2.8, 2.9"),
    (16, "warn", changes_without_a_commit, "the code had changes that no commit has (c-dirty)"),
    (16, "warn", an_earlier_release, "result.json of made aug fold 0 says neither device nor versions"),
    (17, "warn", somebody_elses_method, "not of this package, so nothing is known of their tests: mine"),
    (18, "warn", read_elsewhere, "1 readings of the same data by others, 0 of 45 own ones"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, bytes]]:
    """A smaller study in which all is well, and what is in its files."""
    study = made(tmp_path_factory.mktemp("small"), methods=dict.fromkeys(FEW, 0.7))
    return study, {path: path.read_bytes() for path in study.parent.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("number", "state", "spoil", "words"), WRONG, ids=[spoil.__name__ for _, _, spoil, _ in WRONG])
def test_what_is_wrong_is_found_and_told(
    small: tuple[Path, dict[Path, bytes]], number: int, state: str, spoil: Callable[[Path], None], words: str
) -> None:
    study, files = small
    try:
        spoil(study)
        found = checks_of(load_study(study))[number]
    finally:
        for path in [path for path in study.parent.rglob("*") if path.is_file() and path not in files]:
            path.unlink()
        for path, content in files.items():
            path.write_bytes(content)
    assert words in found.evidence
    assert found.state == state


def test_a_method_with_nothing_to_search_has_one_trial(tmp_path: Path) -> None:
    study = made(tmp_path, methods={"aug": 0.8, "joint": 0.7})
    for path in study.glob("cells/made-joint/*"):
        set_trials(path, [trial(1, 0.7)])
    assert checks_of(load_study(study))[5].state == "fail"
    edit_all(study, "cells/made-joint/*/cell.json", lambda stored: stored.update(space={}))
    assert checks_of(load_study(study))[5].state == "pass"


def test_what_is_searched_for_all_may_differ(tmp_path: Path) -> None:
    study = made(tmp_path, methods={"aug": 0.8, "joint": 0.7})
    other_batches(study)
    assert checks_of(load_study(study))[6].state == "fail"
    own = {"trainer.batch_size": "one"}
    edit_all(study, "cells/made-aug/*/cell.json", lambda stored: stored["space"].update(own))
    assert checks_of(load_study(study))[6].state == "fail"
    edit_all(
        study, "cells/made-joint/*/cell.json", lambda stored: stored["space"].update({"trainer.batch_size": "one"})
    )
    assert checks_of(load_study(study))[6].state == "pass"


def test_the_parts_of_a_sum_are_looked_at_one_by_one(tmp_path: Path) -> None:
    study = made(tmp_path, methods={"aug": 0.8, "ensemble-tuned": 0.7})

    def parts(stored: dict[str, object]) -> None:
        other = json.loads(json.dumps(stored["config"]))
        other["trainer"]["batch_size"] = 16
        stored["parts"] = {"image": stored["config"], "audio": other}

    edit(first(study, label="ensemble-tuned"), parts)
    found = checks_of(load_study(study))[6]
    assert (found.state, "(64 of aug, 16 of ensemble-tuned)" in found.evidence) == ("fail", True)


def test_a_failed_cell_a_failed_model_and_missing_references_are_told(tmp_path: Path) -> None:
    study = made(
        tmp_path, methods={"aug": 0.8, "joint": 0.7, "unimodal-image": 0.5},
        failed={("made", "aug", 1): "loss nan"}, failed_seeds={("made", "joint", 2, 1): "out of memory"},
    )  # fmt: skip
    found = checks_of(load_study(study))
    assert found[15].state == "fail"
    assert "made aug fold 1 (no trial of the search succeeded; trial-001: loss nan)" in found[15].evidence
    assert found[9].evidence.startswith("not in the study: ensemble-tuned, ensemble (")
    set_trials(study / "cells/made-aug/fold-1", [trial(number, 0.5) for number in range(4)])
    assert "final models failed: made joint fold 2 final-1 (finals.json)" in checks_of(load_study(study))[15].evidence


@pytest.mark.parametrize(
    ("folds", "seeds", "state", "words"),
    [
        (4, 3, "warn", "4 folds and 3 seeds: under 5 folds no word is given"),
        (2, 3, "fail", "2 folds"),
        (5, 2, "warn", "5 folds and 2 seeds"),
        (None, 3, "warn", "one split and 3 seeds: it holds for these training data"),
    ],
)
def test_too_few_folds_or_seeds_are_told(tmp_path: Path, folds: int | None, seeds: int, state: str, words: str) -> None:
    data = [MadeData(folds=folds and 5, samples=8)]
    some = list(range(folds)) if folds else None
    made_study = MadeStudy(methods={"aug": 0.8, "joint": 0.7}, data=data, seeds=seeds, folds=some)
    found = checks_of(load_study(write_study(tmp_path / "results" / "made", made_study)))[10]
    assert (found.state, words in found.evidence) == (state, True), found


@pytest.mark.parametrize(
    ("line", "groups", "state"),
    [
        ("group (seed 0)", 2, "pass"),
        ("holdout (seed 0)", 0, "pass"),
        ("holdout (by sample, whatever the groups, seed 0)", 2, "fail"),
        ("holdout (published splits)", 2, "warn"),
    ],
)
def test_one_split_is_judged_by_how_it_was_made(tmp_path: Path, line: str, groups: int, state: str) -> None:
    made_study = MadeStudy(methods={"aug": 0.8, "joint": 0.7}, data=[MadeData(folds=None, samples=8, groups=groups)])
    study = write_study(tmp_path / "results" / "made", made_study)
    edit_all(study, "cells/*/cell.json", lambda stored: stored.update(protocol=line))
    assert checks_of(load_study(study))[2].state == state


def test_before_anything_has_ended_nothing_is_claimed(tmp_path: Path) -> None:
    names = ("aug", "joint")
    data = [MadeData(folds=3, samples=8)]
    places = frozenset({("made", label, fold) for label in names for fold in range(3)})
    study = MadeStudy(methods=dict.fromkeys(names, 0.5), data=data, open=places, locked=False)
    found = checks_of(load_study(write_study(tmp_path / "results" / "made", study)), comparisons=[], power=[])
    assert {number for number, check in found.items() if check.state == "pass"} == {17}
    assert {number for number, check in found.items() if check.state == "not applicable"} == (
        set(range(1, 19)) - {9, 10, 17}
    )


def test_a_p_that_is_not_corrected_is_told(well: Path) -> None:
    results = load_study(well)
    for bare in (a_test(0.01, None), a_test(0.02, 0.01)):
        found = checks_of(results, comparisons=[a_test(), bare])[12]
        assert (found.state, found.evidence) == ("fail", "compare.json: p of aug on made is not corrected")


def test_power_beside_the_margin(well: Path) -> None:
    results = load_study(well)
    found = checks_of(results, power=[power(), power(2.0)])[13]
    assert (found.state, found.evidence) == ("warn", "made: 2.00 points are shown in 4 of 5 studies, the margin is 1")
    assert checks_of(results, power=[power(None)])[13].state == "warn"


@pytest.mark.parametrize(
    ("falls", "state"),
    [
        ([3.0, 3.1, 2.9, 3.0], "warn"),  # 2 above noise, ± 0.1
        ([4.0, -1.0, 1.5, 1.5], "pass"),  # .5 above noise, ± 3
        ([0.5, 0.6, 0.5, 0.4], "pass"),
        ([3.0, 3.0], "not applicable"),
    ],
)
def test_falls_are_judged_by_their_mean_over_searches(well: Path, falls: list[float], state: str) -> None:
    entry = cell_entries(load_study(well))[0]
    cells = [
        replace(entry, shrinkage=ShrinkageEntry(fall=fall, by_noise=1.0, fits_validation=fall > 1)) for fall in falls
    ]
    unknown = ShrinkageEntry(fall=9.0, by_noise=None, fits_validation=None)
    cells += [replace(entry, shrinkage=unknown), replace(entry, shrinkage=None)]
    assert shrinkage_within_noise(cells).state == state


def test_each_method_of_this_package_is_named_by_a_test_of_methods() -> None:
    texts = "".join(path.read_text() for path in (TESTS / "core" / "methods").glob("test_*.py"))
    unnamed = [name for name in METHODS.names() if METHODS.get(name).__module__.startswith("mmcore.")
               if f'"{name}"' not in texts and f"methods.{name} " not in texts]  # fmt: skip
    assert unnamed == []


def test_a_study_that_wants_more_seeds_is_not_told_of_unlike_ones(tmp_path: Path) -> None:
    study = made(tmp_path, methods={"aug": 0.8, "joint": 0.7})
    set_study(study, seeds=2)
    assert checks_of(load_study(study))[16].state == "pass"
