from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import stub_body
from rich.console import Console

from mmcore.analysis.sign_flips import compare_split
from mmcore.config.schema import ProtocolConfig
from mmcore.errors import DataError
from rayjobs.experiment.experiment import find_experiment, new_experiment
from rayjobs.experiment.plan import Plan
from rayjobs.experiment.request import Request
from rayjobs.reporting.comparison import rho_of
from rayjobs.reporting.finals import load_final
from rayjobs.reporting.ranking import build_ranking
from rayjobs.reporting.ranking_table import Ranking
from rayjobs.reporting.terminal import print_ranking
from rayjobs.search.searches import Search

LABELS = ("ensemble", "iprm", "aug")
TRIAL = {
    "values": {},
    "status": "done",
    "epochs": 24,
    "objective": 0.9,
    "objective_loss": 0.1,
    "device_seconds": 12.5,
    "reason": "",
}


def finals_of(folder: Path, label: str, right: float, seeds: int) -> None:
    for number in range(1, seeds + 1):
        run_dir = folder / f"digits-{label}" / f"final-{number}"
        run_dir.mkdir(parents=True)
        config = {"method": {"name": label}, "seed": number}
        job = SimpleNamespace(config=config)
        stub_body.write_result(job, run_dir, {"epoch": 24, "val/fused/accuracy": 0.9}, right)


def ranking_of(folder: Path, right: dict[str, float], seeds: int = 3, constructed: bool = True) -> dict[str, Any]:
    request = Request(datasets=("digits",), methods=LABELS, reference="ensemble", final_seeds=seeds)
    experiment = new_experiment(request, folder, None, "command")
    for label in LABELS:
        failed = TRIAL | {"name": "trial-002", "status": "failed", "epochs": 1, "reason": "loss nan at step 7"}
        trials = [TRIAL | {"name": "trial-001"}, failed if label == "aug" else TRIAL | {"name": "trial-002"}]
        finals_of(experiment.folder, label, right[label], seeds)
        stored = {"label": label, "trials": trials, "best": trials[0], "config": {}}
        (experiment.folder / f"digits-{label}").mkdir(exist_ok=True)
        (experiment.folder / f"digits-{label}" / "search.json").write_text(json.dumps(stored))
    return build_ranking(experiment, [plan_of(constructed)]).to_dict()


def plan_of(constructed: bool) -> Any:
    labels = np.arange(stub_body.NUM_TEST) % stub_body.NUM_CLASSES
    every = np.arange(stub_body.NUM_TEST)
    trained = np.arange(4 * stub_body.NUM_TEST)
    assignment = SimpleNamespace(line="holdout (seed 0)", train=trained, test=every, rows=lambda split: every)
    prepared = SimpleNamespace(
        directory=Path("data/digits"),
        card="A card.",
        constructed=constructed,
        fingerprint="f",
        spec=SimpleNamespace(classes=tuple("abcdefghij")[: stub_body.NUM_CLASSES], num_classes=stub_body.NUM_CLASSES),
        index=pa.table({name: np.resize(labels, 4 * stub_body.NUM_TEST) for name in ("label", "group", "source")}),
        assign=lambda protocol: assignment,
    )
    config: Any = SimpleNamespace(protocol=ProtocolConfig(), trainer=SimpleNamespace(class_weights="none"))
    searches = tuple(Search("digits", label, None, config, {}, [], 2, "hyperopt", "asha", 1, 3) for label in LABELS)
    return Plan(prepared, searches)  # type: ignore[arg-type]


def build_again(folder: Path, ranking: dict[str, Any]) -> dict[str, Any]:
    """Builds the ranking of an experiment whose files were changed."""
    return build_ranking(find_experiment(folder, ranking["experiment"]), [plan_of(True)]).to_dict()


def rows_of(ranking: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in ranking["rankings"][0]["rows"]}


def shown(ranking: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    print_ranking(Ranking.from_dict(ranking), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


RIGHT = {"ensemble": 0.7, "iprm": 0.95, "aug": 0.7}


def test_means_differences_and_intervals_are_those_of_the_predictions(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    rows = rows_of(ranking)
    assert ranking["rankings"][0]["rows"][0]["method"] == "iprm"
    assert rows["iprm"]["accuracy"] == pytest.approx(np.mean(rows["iprm"]["accuracies"]))
    delta = rows["iprm"]["delta"]
    assert delta["mean"] == pytest.approx(rows["iprm"]["accuracy"] - rows["ensemble"]["accuracy"])
    assert 0 < delta["low"] < delta["mean"] < delta["high"]
    assert rows["ensemble"]["delta"] is None
    assert rows["aug"]["delta"]["low"] <= 0 <= rows["aug"]["delta"]["high"]


def test_the_intervals_method_is_named_and_several_comparisons_are_tested_together(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    rows = rows_of(ranking)
    finals = {
        label: [load_final(path) for path in sorted((tmp_path / ranking["experiment"] / f"digits-{label}").glob("f*"))]
        for label in LABELS
    }
    clusters = np.array([int(group[1:]) for group in finals["aug"][0].groups])  # type: ignore[union-attr]
    p = {
        label: compare_split(
            *([final.correct for final in finals[of] if final] for of in (label, "ensemble")), clusters
        ).p
        for label in ("iprm", "aug")
    }
    # Six groups: the smallest p is 2^-5, so that Holm over two has none under .05.
    assert p["iprm"] == 2**-5
    assert {rows[label]["delta"]["word"] for label in p} == {"undecided"}
    note = ranking["rankings"][0]["interval_note"]
    assert note == (
        "Intervals are by paired bootstrap over 6 groups of test and the seeds, each for itself. By the exact test by "
        "flipped signs, for these training data (Holm over 2): iprm, aug cannot be told apart from ensemble, whatever "
        "the order."
    )
    assert note in " ".join(shown(ranking).split())


def alone(arrays: dict[str, np.ndarray], groups: int) -> None:
    """Makes each sample its own source and group, or puts them into so many groups."""
    names = arrays["sample_ids"]
    arrays["groups"] = np.array([f"g{at % groups}" for at in range(len(names))]) if groups else names


@pytest.mark.parametrize(("groups", "word"), [(0, "better"), (12, "undecided")])
def test_one_split_gives_a_word_but_none_where_groups_were_split_once(tmp_path: Path, groups: int, word: str) -> None:
    ranking = ranking_of(tmp_path, {"ensemble": 0.5, "iprm": 0.95, "aug": 0.5})
    for path in (tmp_path / ranking["experiment"]).rglob("predictions.npz"):
        with np.load(path) as stored:
            arrays = dict(stored)
        alone(arrays, groups)
        np.savez(path, **arrays)
    again = build_again(tmp_path, ranking)
    assert rows_of(again)["iprm"]["delta"]["word"] == word
    said = "iprm better; aug cannot be told apart from ensemble" if word == "better" else "iprm, aug cannot be told"
    assert said in again["rankings"][0]["interval_note"]
    assert f"over {groups or 60} {'groups' if groups else 'samples'} of test" in again["rankings"][0]["interval_note"]


def test_other_figures_are_means_over_the_final_models_that_all_have_them(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    folder = tmp_path / ranking["experiment"]
    for number, path in enumerate(sorted(folder.glob("digits-iprm/final-*/result.json"))):
        result = json.loads(path.read_text())
        result["test"] |= {"fused/macro_f1": 0.5 + 0.1 * number} | ({"fused/ece": 0.1} if number else {})
        path.write_text(json.dumps(result))
    rows = rows_of(build_again(tmp_path, ranking))
    assert rows["iprm"]["metrics"] == {"macro_f1": pytest.approx(0.6)}
    assert rows["aug"]["metrics"] == {}


def test_the_most_frequent_mistakes_are_counted_over_all_final_models(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    rng = np.random.default_rng(0)
    counts: Counter[tuple[int, int]] = Counter()
    for number, path in enumerate(sorted((tmp_path / ranking["experiment"] / "digits-iprm").rglob("predictions.npz"))):
        with np.load(path) as stored:
            arrays = dict(stored)
        answers = rng.integers(0, stub_body.NUM_CLASSES, stub_body.NUM_TEST)
        counts.update((int(a), int(b)) for a, b in zip(arrays["labels"], answers, strict=True) if a != b)
        arrays["logits/fused"] = np.eye(stub_body.NUM_CLASSES)[answers]
        order = rng.permutation(stub_body.NUM_TEST) if number else slice(None)
        np.savez(path, **{name: values[order] for name, values in arrays.items()})
    of_class = 3 * stub_body.NUM_TEST / stub_body.NUM_CLASSES
    expected = sorted(counts, key=lambda pair: (-counts[pair], pair))[:3]
    again = build_again(tmp_path, ranking)
    assert rows_of(again)["iprm"]["mistakes"] == [
        {"label": "abcdefghij"[a], "answer": "abcdefghij"[b], "share": pytest.approx(counts[a, b] / of_class)}
        for a, b in expected
    ]


def test_a_ranking_says_on_what_and_with_what_its_final_models_were_trained(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    assert "environment" not in ranking, "nobody knows of models that an earlier release trained"
    for device, path in zip(
        "AB", sorted((tmp_path / ranking["experiment"]).rglob("final-1/result.json")), strict=False
    ):
        own = {"software": {"torch": "2"}, "commit": "c", "device": device, "threads": 1, "begun": "b", "ended": "e"}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"environment": own}))
    found = build_again(tmp_path, ranking)["environment"]
    assert found == {
        "software": {"torch": "2"}, "commit": "c", "device": "A, B", "threads": 1, "begun": "b", "ended": "e"
    }  # fmt: skip


def test_no_interval_with_fewer_than_three_seeds(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT, seeds=2)
    assert rows_of(ranking)["iprm"]["delta"]["low"] is None
    assert "No interval: fewer than 3 final seeds." in shown(ranking)
    assert "word" not in rows_of(ranking)["iprm"]["delta"]
    assert "[" not in shown(ranking)


def test_cost_and_failures_are_counted(tmp_path: Path) -> None:
    rows = rows_of(ranking_of(tmp_path, RIGHT))
    assert (rows["aug"]["trials"], rows["aug"]["failed"]) == (2, 1)
    assert rows["iprm"]["epochs"] == 2 * 24 + 3 * 24
    assert rows["iprm"]["device_seconds"] == pytest.approx(2 * 12.5 + 3 * 1.0)
    assert rows["aug"]["failures"] == [{"trial": "trial-002", "reason": "loss nan at step 7"}]


def test_each_modalitys_own_accuracy_says_how_it_was_measured(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    assert rows_of(ranking)["iprm"]["modalities"] == {
        "image": {"accuracy": pytest.approx(0.6), "by": "head"},
        "audio": {"accuracy": pytest.approx(0.5), "by": "probe"},
    }
    assert "50.0%*" in shown(ranking)
    assert "* by a linear probe" in shown(ranking)


def test_a_lost_encoder_is_told_with_the_number_of_seeds(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    folder = tmp_path / "digits-aug-iprm-ensemble" / "digits-aug"
    for number in (1, 3):
        path = folder / f"final-{number}" / "result.json"
        result = json.loads(path.read_text())
        result["test"]["image/accuracy"] = 1 / 3
        path.write_text(json.dumps(result))
    again = build_again(tmp_path, ranking)
    assert again["rankings"][0]["chance_notes"] == ["aug: image no better than chance in 2 of 3 final models"]


def test_encoders_that_died_are_told_with_the_number_of_seeds(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    dead = {"kind": "dead", "modality": "audio", "text": "audio's encoder is dead"}
    other = {"kind": "fallen", "modality": "image", "since": 2, "text": "image has fallen back"}
    for number, since in ((1, 9), (3, 4)):
        path = tmp_path / "digits-aug-iprm-ensemble" / "digits-aug" / f"final-{number}" / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"readings": [other, dead | {"since": since}]}))
    again = build_again(tmp_path, ranking)
    note = "aug: audio's encoder died in 2 of 3 final models (since epoch 4, 9)"
    assert again["rankings"][0]["chance_notes"] == [note]
    assert note in shown(again)


def test_a_row_that_lacks_a_seed_has_failed_and_is_not_ranked_by_the_others(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    assert ranking["rankings"][0]["rows"][0]["method"] == "iprm"
    run_dir = tmp_path / ranking["experiment"] / "digits-iprm" / "final-2"
    (run_dir / "result.json").unlink()
    (run_dir / "failure.json").write_text(json.dumps({"reason": "the disk is full", "fatal": False}))
    again = build_again(tmp_path, ranking)
    row = rows_of(again)["iprm"]
    assert (row["accuracy"], row["half_width"], row["delta"], row["modalities"]) == (None, None, None, {})
    assert row["failed_because"] == "1 of 3 final models are missing (final-2: the disk is full)"
    assert len(row["accuracies"]) == 2  # what there is, each for itself
    assert row["failures"] == [{"trial": "final-2", "reason": "the disk is full"}]
    assert again["rankings"][0]["rows"][-1]["method"] == "iprm"  # last, not first
    text = " ".join(shown(again).split())
    assert "iprm failed 2 96" in text  # in place of the accuracy: trials, epochs
    assert "iprm has no result: 1 of 3 final models are missing (final-2: the disk is full); it is not ranked" in text
    assert "best-digits-ensemble.yaml" in again["next"]  # the first that has a result


def test_a_reference_that_lacks_a_seed_is_compared_with_nothing(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    (tmp_path / ranking["experiment"] / "digits-ensemble" / "final-3" / "result.json").unlink()
    again = build_again(tmp_path, ranking)
    assert [row["delta"] for row in again["rankings"][0]["rows"]] == [None, None, None]
    assert "No differences: ensemble has no final model, or not all of them." in shown(again)


def test_a_row_whose_trials_all_failed_says_why(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    folder = tmp_path / ranking["experiment"] / "digits-aug"
    stored = json.loads((folder / "search.json").read_text())
    trials = [trial | {"status": "failed", "reason": "loss nan at step 7"} for trial in stored["trials"]]
    (folder / "search.json").write_text(json.dumps(stored | {"trials": trials, "best": None, "config": None}))
    for path in folder.glob("final-*/result.json"):
        path.unlink()
    row = rows_of(build_again(tmp_path, ranking))["aug"]
    assert row["failed_because"] == (
        "3 of 3 final models are missing (no trial of a search succeeded; trial-001: loss nan at step 7)"
    )
    assert {failure["trial"] for failure in row["failures"]} == {"trial-001", "trial-002"}


def test_more_seeds_are_none_of_the_search_or_the_final_models(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    used = {0} | {seed for row in ranking["rankings"][0]["rows"] for seed in row["seeds"]}
    assert used == {0, 1, 2, 3}
    words = ranking["next"].split()
    first, number = int(words[words.index("--seed") + 1]), int(words[words.index("--seeds") + 1])
    assert not used & set(range(first, first + number))
    assert words[words.index("--output") + 1] == str(tmp_path)
    assert "--data-dir" not in words
    assert ranking["next"] in shown(ranking)


def test_models_tested_on_different_samples_are_not_compared(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    path = tmp_path / ranking["experiment"] / "digits-iprm" / "final-1" / "predictions.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["sample_ids"][0] = "zzz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="different samples"):
        build_again(tmp_path, ranking)


def test_samples_are_paired_by_id_whatever_their_order(tmp_path: Path) -> None:
    ranking = ranking_of(tmp_path, RIGHT)
    before = rows_of(ranking)["iprm"]["delta"]
    path = tmp_path / ranking["experiment"] / "digits-iprm" / "final-1" / "predictions.npz"
    with np.load(path) as stored:
        arrays = {name: values[::-1] for name, values in stored.items()}
    np.savez(path, **arrays)
    assert rows_of(build_again(tmp_path, ranking))["iprm"]["delta"] == pytest.approx(before)


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    finals_of(tmp_path, "iprm", 0.9, 1)
    path = tmp_path / "digits-iprm" / "final-1" / "predictions.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"predictions\.npz"):
        load_final(path.parent)


def test_the_table_fits_80_columns_and_says_what_must_be_said(tmp_path: Path) -> None:
    text = shown(ranking_of(tmp_path, RIGHT))
    table = text[: text.index("best configurations")]
    assert max(map(len, table.splitlines())) <= 80
    for phrase in (
        "CONSTRUCTED to show an effect: A card.",
        "Protocol: holdout (seed 0); 60 test samples, mean of 3 final seeds each.",
        "Δ to ensemble (95 %)",
        "Equal trials are not equal compute",
        "aug trial-002 failed: loss nan at step 7",
    ):
        assert phrase in table
    for phrase in ("best-digits-iprm.yaml", "tensorboard --logdir", "ledger.jsonl", "python -m rayjobs.train --config"):
        assert phrase in text


def test_data_that_is_not_constructed_is_not_called_so(tmp_path: Path) -> None:
    assert "CONSTRUCTED" not in shown(ranking_of(tmp_path, RIGHT, constructed=False))


def folds_ranking(folder: Path, offsets: list[float], seeds: int = 2) -> dict[str, Any]:
    """Ranks iprm against the ensemble over as many folds as there are `offsets`, its advantage in each of them."""
    request = Request(
        datasets=("digits",),
        methods=("ensemble", "iprm"),
        reference="ensemble",
        final_seeds=seeds,
        protocol={"name": "cv"},
    )
    experiment = new_experiment(request, folder, None, "command")
    config: Any = SimpleNamespace(protocol=ProtocolConfig(), trainer=SimpleNamespace(class_weights="none"))
    folds = range(len(offsets))
    searches = [
        Search("digits", label, fold, config, {}, [], 2, "hyperopt", "asha", 1, 3)
        for label in LABELS[:2]
        for fold in folds
    ]
    for search in searches:
        run_folder = experiment.folder / search.name
        run_folder.mkdir(parents=True)
        best = TRIAL | {"name": "trial-001"}
        stored = {"label": search.label, "trials": [best], "best": best, "config": {}}
        (run_folder / "search.json").write_text(json.dumps(stored))
        for number in range(1, seeds + 1):
            run_dir = run_folder / f"final-{number}"
            run_dir.mkdir()
            job = SimpleNamespace(config={"method": {"name": search.label}, "seed": number})
            stub_body.write_result(job, run_dir, {"epoch": 24, "val/fused/accuracy": 0.9}, 1.0)
            path = run_dir / "result.json"
            result = json.loads(path.read_text())
            result["test"]["fused/accuracy"] = 0.5 + (offsets[search.fold] if search.label == "iprm" else 0.0)
            path.write_text(json.dumps(result))
    plan = Plan(plan_of(True).prepared, tuple(searches), tuple(folds))
    return build_ranking(experiment, [plan]).to_dict()


def test_a_cross_validation_is_compared_by_fold_with_an_interval_over_the_folds(tmp_path: Path) -> None:
    offsets = [0.10, 0.14, 0.06]
    ranking = folds_ranking(tmp_path, offsets)
    row = rows_of(ranking)["iprm"]
    assert row["folds"] == pytest.approx([0.5 + offset for offset in offsets])
    assert row["delta"]["folds"] == pytest.approx(offsets)
    half_width = 4.302653 * np.std(offsets, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert row["delta"]["low"] == pytest.approx(0.1 - half_width, abs=1e-6)
    assert row["delta"]["high"] == pytest.approx(0.1 + half_width)
    assert (row["trials"], len(row["accuracies"])) == (3, 6)
    table = shown(ranking)
    assert "test by fold" in table
    assert "mean of 3 folds with 2 final seeds each" in " ".join(table.split())
    assert "Intervals are over the folds" in table
    assert row["delta"]["word"] == "undecided", "under five folds no word is given"


def test_the_word_over_folds_is_that_of_a_test_which_allows_for_shared_samples(tmp_path: Path) -> None:
    """A spread of 2 points over five folds, test by training size 1/4: t = 0.1 / (0.02 * sqrt(1/5 + 1/4)) = 7.5."""
    offsets = [0.10, 0.12, 0.08, 0.12, 0.08]
    ranking = folds_ranking(tmp_path, offsets)
    assert rows_of(ranking)["iprm"]["delta"]["word"] == "better"
    table = " ".join(shown(ranking).split())
    assert "By a test that allows for that (corrected t, Holm over 1, margin 1 point): iprm better." in table
    wide = folds_ranking(tmp_path / "wide", [0.10, 0.2, -0.05, 0.2, 0.05])
    assert rows_of(wide)["iprm"]["delta"]["low"] < 0 < rows_of(wide)["iprm"]["delta"]["mean"]
    assert rows_of(wide)["iprm"]["delta"]["word"] == "undecided"
    assert "iprm cannot be told apart from ensemble, whatever the order." in " ".join(shown(wide).split())


def test_rho_counts_groups_where_there_are_groups() -> None:
    index = pa.table({"group": ["a", "a", "b", "c", "d"], "source": ["1", "2", "3", "4", "5"]})
    fold = SimpleNamespace(test=np.array([0, 1]), train=np.array([2, 3]))
    assert rho_of(index, [fold]) == 0.5  # type: ignore[list-item]
    alone = index.set_column(0, "group", [["1", "2", "3", "4", "5"]])
    assert rho_of(alone, [fold]) == 1.0  # type: ignore[list-item]


def test_a_cross_validation_lacking_a_fold_has_no_difference(tmp_path: Path) -> None:
    ranking = folds_ranking(tmp_path, [0.1, 0.1, 0.1])
    experiment = find_experiment(tmp_path, ranking["experiment"])
    config: Any = SimpleNamespace(protocol=ProtocolConfig(), trainer=SimpleNamespace(class_weights="none"))
    searches = [
        Search("digits", label, fold, config, {}, [], 2, "hyperopt", "asha", 1, 3)
        for label in LABELS[:2]
        for fold in (0, 1, 2)
    ]
    for number in (1, 2):
        (experiment.folder / "digits-iprm" / "fold-1" / f"final-{number}" / "result.json").unlink()
    again = build_ranking(experiment, [Plan(plan_of(True).prepared, tuple(searches), (0, 1, 2))]).to_dict()
    row = rows_of(again)["iprm"]
    assert row["delta"] is None
    assert (row["accuracy"], row["half_width"], row["folds"]) == (None, None, [])
    assert row["failed_because"].startswith("2 of 6 final models are missing (fold-1 final-1: ")
    assert {failure["trial"] for failure in row["failures"]} == {"fold-1 final-1", "fold-1 final-2"}
    assert again["next"].count("python -m rayjobs.train") == 3  # each fold with its own best configuration
    assert again["next"].count("best-digits-ensemble-fold-") == again["next"].count("--seed 3") == 3
