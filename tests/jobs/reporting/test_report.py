from __future__ import annotations

import base64
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import stored_records
from click.testing import CliRunner, Result
from html_pages import Page
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmcore.analysis.intervals import best_so_far
from mmcore.errors import DataError
from rayjobs.report import main, write_report
from rayjobs.reporting import figures
from rayjobs.reporting.figures import intervals_picture, line_styles
from rayjobs.reporting.html_page import _budget
from rayjobs.reporting.records import load_experiment, load_search

EVIL = "<script>alert('x')</script>"
SPACE = {"optimizer.lr": "log-uniform from 0.001 to 0.1", "method.alpha": "uniform from 0 to 1"}
CARD = "CONSTRUCTED to show an effect."


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_trial(folder: Path, number: int, accuracies: list[float], values: dict[str, Any], ended: bool = True) -> None:
    run_dir = folder / f"trial-{number:03d}"
    own = {"val/audio/probe_accuracy": 0.3}
    rows = [
        {"epoch": epoch, "val/fused/accuracy": accuracy, "val/image/accuracy": accuracy / 2, **own}
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config: dict[str, Any] = {"optimizer": {"lr": values["optimizer.lr"]}, "method": {"alpha": values["method.alpha"]}}
    write(run_dir / "config.json", config)
    write(run_dir / "progress.json", {"epoch": len(rows), "objective": max(accuracies), "objective_loss": 0.1})
    if ended:
        write(run_dir / "result.json", stored_records.result())


def write_search(
    experiment: Path, label: str, fold: int | None = None, trials: int = 3, ended: bool = True, select: str = "best"
) -> None:
    name = f"digits-{label}" + ("" if fold is None else f"/fold-{fold}")
    config = {"method": {"name": label.partition("-")[0]}, "trainer": {"select": select}}
    write(experiment / name / "plan.json", {"name": name, "trials": trials, "space": SPACE, "config": config})
    entries = []
    for number in range(1, trials + 1):
        values = {"optimizer.lr": number / 100, "method.alpha": (number * 7 % 5) / 5}
        accuracies = [0.1 * number / trials + 0.2 * epoch for epoch in range(1, 4)]
        write_trial(experiment / name, number, accuracies, values, ended)
        entries.append({"name": f"trial-{number:03d}", "values": values, "status": "done", "epochs": 3,
                        "objective": max(accuracies), "objective_loss": 0.1, "device_seconds": 1.0,
                        "reason": ""})  # fmt: skip
    if ended:
        write(
            experiment / name / "search.json",
            {"trials": entries, "best": entries[-1], "label": label, "config": config},
        )


def write_experiment(folder: Path, finished: bool = True, labels: tuple[str, ...] = ("ensemble", "iprm")) -> Path:
    experiment = folder / "mine"
    stored = {"format_version": 1, "created": "2026-01-02", "folder": str(experiment), "command": f"tune {EVIL}",
              "request": {"datasets": ["digits"], "methods": labels, "data_dir": str(folder / "nowhere")}}  # fmt: skip
    write(experiment / "experiment.json", stored)
    for label in labels:
        write_search(experiment, label, ended=finished)
    readings = [{"run_dir": str(experiment / "digits-iprm" / "final-1")}, {"run_dir": str(folder / "another" / "x")}]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(reading) + "\n" for reading in readings))
    if finished:
        write(experiment / "ranking.json", ranking(labels))
    return experiment


def row_of(label: str, accuracy: float, delta: dict[str, Any] | None) -> dict[str, Any]:
    return stored_records.row(
        method=label,
        accuracy=accuracy,
        delta=delta,
        trials=3,
        failed=1 if delta else 0,
        epochs=123,
        device_seconds=45.6,
        modalities={"image": {"accuracy": 0.801, "by": "head"}, "audio": {"accuracy": 0.302, "by": "probe"}},
        failures=[{"trial": "trial-009", "reason": f"loss nan {EVIL}"}] if delta else [],
    )


def ranking(labels: tuple[str, ...]) -> dict[str, Any]:
    delta = {"mean": 0.0123, "low": -0.0047, "high": 0.0291}
    rows = [row_of(labels[0], 0.9012, None), *(row_of(label, 0.9135, delta) for label in labels[1:])]
    table = stored_records.table(
        card=CARD,
        constructed=True,
        num_test_samples=359,
        interval_note="A note on the intervals.",
        search_note="Searched once.",
        chance_notes=["iprm: audio no better than chance in 1 of 3 final models"],
        rows=rows,
    )
    return stored_records.ranking(rankings=[table], notes=["Equal trials."])


def page_of(experiment: Path) -> Page:
    return Page(Path(write_report(experiment, experiment / "report")["page"]).read_text())


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_numbers_are_those_of_the_ranking(tmp_path: Path) -> None:
    page = page_of(write_experiment(tmp_path))
    rows = {row[0]: row for row in page.tables["Ranking by test accuracy"]}
    assert rows["method"] == ["method", "test", "Δ to ensemble (95 %)", "trials", "epochs", "device-seconds"]
    assert rows["ensemble"] == ["ensemble", "90.1%", "reference", "3", "123", "46"]
    assert rows["iprm"] == ["iprm", "91.3%", "+1.2 [-0.5, +2.9]", "3, 1 failed", "123", "46"]
    assert page.row("Each modality alone, on test", "iprm") == ["iprm", "80.1% ", "30.2%*"]


def test_figures_words_and_versions_stand_in_the_page_where_a_ranking_has_them(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    page = page_of(experiment)
    assert "Other figures on test, means over the final models" not in page.tables
    stored = ranking(("ensemble", "iprm"))
    ensemble, iprm = stored["rankings"][0]["rows"]
    ensemble |= {"metrics": {"macro_f1": 0.8, "ece": 0.05}, "accuracies": [0.9, 0.91]}
    iprm |= {"mistakes": [{"label": "four", "answer": "<nine>", "share": 0.123}]}
    iprm |= {"metrics": {"macro_f1": 0.812}, "delta": iprm["delta"] | {"word": "better"}}
    software = {"python": "3.11", "torch": "2.9"}
    stored["environment"] = {
        "software": software, "commit": "c0ffee", "device": "A <GPU>", "threads": 1, "begun": "09:00", "ended": "10:00"
    }  # fmt: skip
    write(experiment / "ranking.json", stored)
    page = page_of(experiment)
    assert page.tables["Other figures on test, means over the final models"] == [
        ["method", "macro-F1", "calibration error", "test of each final model"],
        ["ensemble", "80.0%", "5.0%", "90.0%  91.0%"],
        ["iprm", "81.2%", "", "90.0%"],
    ]
    assert page.row("What is most often taken for what, of a class's test samples", "iprm") == [
        "iprm", "four as <nine> 12.3%"
    ]  # fmt: skip
    assert page.row("Ranking by test accuracy", "iprm")[-1] == "better"
    assert page.row("Ranking by test accuracy", "ensemble")[-1] == ""
    assert (
        "Final models were trained on A <GPU> by python 3.11, torch 2.9 (commit c0ffee), from 09:00 to 10:00."
        in page.text
    )


@contextmanager
def axes_shown(look: Callable[[str, Axes], None]) -> Iterator[None]:
    """Shows the axes of each figure that is drawn."""
    kept = figures._png

    def looking(figure: Figure) -> bytes:
        (axes,) = figure.axes
        look("budget" if axes.get_legend() else "intervals", axes)
        return kept(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_png", looking)
        yield


def test_a_method_has_one_colour_in_all_figures_by_its_place_in_the_table(tmp_path: Path) -> None:
    drawn: dict[str, list[Any]] = {}

    def lines(stem: str, axes: Axes) -> None:
        drawn[stem] = [(line.get_label(), line.get_color(), line.get_linestyle()) for line in axes.get_lines()]

    experiment = write_experiment(tmp_path, labels=("ensemble", "iprm"))
    write_search(experiment, "aug")
    record = load_experiment(experiment)
    table = record.ranking.rankings[0] if record.ranking else None
    assert table
    styles = line_styles([row.method for row in table.rows])
    with axes_shown(lines):
        intervals_picture("intervals", table, "ensemble")
        _budget("digits", table, record.of_dataset("digits"))
    (colour,) = [colour for _, colour, dashes in drawn["intervals"] if dashes == "None"]
    budget = {label: colour for label, colour, _ in drawn["budget"]}
    assert colour == budget["iprm"] == styles["iprm"][1]
    assert budget["ensemble"] == styles["ensemble"][1] != styles["iprm"][1]
    assert list(budget) == ["ensemble", "iprm", "aug"], "in the table's order, what it has not comes last"


def test_a_row_without_a_result_is_shown_as_failed_with_its_reason(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    stored = ranking(("ensemble", "iprm"))
    because = "1 of 3 final models are missing (final-2: the disk is full)"
    lacking = {"accuracy": None, "delta": None, "modalities": {}, "failed_because": because}
    stored["rankings"][0]["rows"][1] |= lacking
    write(experiment / "ranking.json", stored)
    page = page_of(experiment)
    assert page.row("Ranking by test accuracy", "iprm")[:3] == ["iprm", "failed", ""]
    assert f"iprm has no result: {because}; it is not ranked by those that worked" in page.text


def test_what_the_search_spent_is_counted_for_every_method(tmp_path: Path) -> None:
    page = page_of(write_experiment(tmp_path))
    assert page.tables["What the searches spent, final models aside"] == [
        ["method", "trials", "stopped early", "failed", "epochs"],
        ["ensemble", "3 of 3", "0", "0", "9"],
        ["iprm", "3 of 3", "0", "0", "9"],
    ]


def test_a_trial_that_was_never_begun_is_not_counted(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    path = experiment / "digits-iprm" / "search.json"
    stored = json.loads(path.read_text())
    stored["trials"][2] |= {"status": "unfinished", "epochs": 0, "objective": None}
    write(path, stored)
    assert page_of(experiment).row("What the searches spent, final models aside", "iprm")[1] == "2 of 3"


def test_what_makes_a_ranking_fair_is_said_as_in_the_terminal(tmp_path: Path) -> None:
    text = page_of(write_experiment(tmp_path)).text
    for said in (
        "Protocol: holdout (seed 0); 359 test samples, mean of 3 final seeds each.",
        CARD,
        "A note on the intervals.",
        "Searched once.",
        "iprm: audio no better than chance in 1 of 3 final models",
        "* by a linear probe on its features, else by its own head",
        "Equal trials.",
        "Test was read 1 times by it",
        "Validation, never test.",
        "Best on validation, which chose it",
    ):
        assert said in text


def test_what_comes_from_outside_is_text_and_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    label = f"iprm-{EVIL.replace('/', '')}"
    experiment = write_experiment(tmp_path, labels=("ensemble", "iprm", label))
    search = experiment / f"digits-{label}" / "search.json"
    stored = json.loads(search.read_text())
    stored["trials"][0] |= {"name": EVIL, "status": "failed", "reason": EVIL, "values": {EVIL: EVIL}}
    write(search, stored)
    text = Path(write_report(experiment, tmp_path / "out")["page"]).read_text()
    page = Page(text)
    assert text.lower().count("<script") == 0
    assert page.text.count(EVIL) >= 5  # the command, the trial, its settings and its reason, the failed ones
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.named("img") if image["src"])
    assert not any(name.startswith("on") or name == "href" for _, attributes in page.tags for name in attributes)
    policy = [meta["content"] for meta in page.named("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_files_stay_in_their_folder_whatever_the_names(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, labels=("ensemble", "iprm-..$x^_"))
    written = write_report(experiment, tmp_path / "out")
    assert {Path(figure).parent for figure in written["figures"]} == {tmp_path / "out"}
    assert any("iprm-.._x_" in figure or "iprm_.._x__" in figure for figure in written["figures"])


def test_it_can_be_read_without_seeing_it_and_on_a_phone(tmp_path: Path) -> None:
    page = page_of(write_experiment(tmp_path))
    pictures = page.named("img")
    assert len(pictures) == 4  # the intervals, the budget, two methods' trials
    assert all(len(picture["alt"] or "") > 40 for picture in pictures)
    assert {heading["scope"] for heading in page.named("th")} == {"col", "row"}
    assert len(page.named("table")) == len(page.named("caption"))
    assert page.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named("meta")
    wide = [attributes for attributes in page.named("div") if attributes.get("class") == "wide"]
    assert len(wide) == len(page.named("table"))  # each scrolls by itself, by keyboard too
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in wide)


def test_the_figures_beside_the_page_are_those_in_it(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    written = write_report(experiment, tmp_path / "out")
    page = Page(Path(written["page"]).read_text())
    inside = {base64.b64decode((image["src"] or "").partition(",")[2]) for image in page.named("img")}
    assert inside == {Path(figure).read_bytes() for figure in written["figures"]}
    assert all(png.startswith(b"\x89PNG") for png in inside)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["report.html", *(Path(figure).name for figure in written["figures"])]
    )


def test_the_figures_are_told_in_words_with_their_numbers(tmp_path: Path) -> None:
    alts = [image["alt"] or "" for image in page_of(write_experiment(tmp_path)).named("img")]
    assert "iprm +1.2, interval -0.5 to +2.9" in alts[0]
    assert "ensemble 70.0% after 9 epochs; iprm 70.0% after 9 epochs" in alts[1]
    assert "3 trials of iprm. The best, trial-003, ends at 70.0% after 3 epochs; " in alts[3]
    assert "image alone 35.0%" in alts[3]
    assert "audio alone 30.0%" in alts[3]


def test_the_best_of_a_search_is_where_its_curve_ends(tmp_path: Path) -> None:
    search = load_search(write_experiment(tmp_path) / "digits-iprm")
    assert search.best is not None
    assert search.best.name == "trial-003"
    assert best_so_far(search.accuracies())[-1] == search.best.objective


def test_a_failed_trial_costs_epochs_and_brings_nothing(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path) / "digits-iprm"
    stored = json.loads((folder / "search.json").read_text())
    stored["trials"][2]["status"] = "failed"
    write(folder / "search.json", stored)
    search = load_search(folder)
    assert search.best is not None
    assert search.best.name == "trial-002"
    assert len(search.accuracies()) == 9
    assert all(math.isnan(value) for value in search.accuracies()[6:])


def test_where_the_last_epoch_counts_only_that_one_is_the_best(tmp_path: Path) -> None:
    experiment = tmp_path / "mine"
    write_search(experiment, "iprm", trials=1, select="last")
    assert [math.isnan(value) for value in load_search(experiment / "digits-iprm").accuracies()] == [True, True, False]


def test_an_unfinished_search_shows_validation_and_says_that_it_is_no_result(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, finished=False)
    run_dir = experiment / "digits-iprm" / "trial-002"
    write(run_dir / "failure.json", {"reason": "loss nan at step 7", "fatal": True})
    (experiment / "digits-iprm" / "trial-004.set-aside").mkdir()
    (run_dir.parent / "trial-003" / "metrics.jsonl").open("a").write('{"epoch": 4, "val/fu')  # being written
    page = page_of(experiment)
    assert "This search has not ended" in page.text
    assert "Ranking by test accuracy" not in page.tables
    assert "digits: validation so far" in page.text
    assert "What the data is cannot be told" in page.text
    assert page.row("What the searches spent, final models aside", "iprm") == ["iprm", "3 of 3", "0", "1", "2", "9"]
    assert page.row("Best on validation, which chose it", "iprm")[1:3] == ["70.0%", "trial-003"]
    assert "iprm trial-002 failed: loss nan at step 7" in page.text
    assert page.row("Every trial", "iprm trial-001")[1] == "running or stopped"


def test_a_search_that_has_only_begun_can_be_shown(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, finished=False)
    for path in experiment.glob("digits-*/trial-*"):
        shutil.rmtree(path)
    done = run(experiment, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) | {"page": ""} == {
        "page": "", "figures": [], "finished": False, "trials": 0, "damage": []
    }  # fmt: skip


def test_folds_are_kept_apart_and_their_curves_averaged(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, labels=("ensemble",))
    for fold in range(2):
        write_search(experiment, "iprm-linear", fold, trials=2 + fold)
    record = load_experiment(experiment)
    assert [(search.label, search.fold) for search in record.searches] == [
        ("ensemble", None), ("iprm-linear", 0), ("iprm-linear", 1)]  # fmt: skip
    page = page_of(experiment)
    assert page.row("Best on validation, which chose it", "iprm-linear, fold 1")[2] == "trial-003"
    assert "iprm-linear 70.0% after 9 epochs" in (page.named("img")[0]["alt"] or "")


def test_settings_are_weighed_only_with_enough_trials(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, labels=("ensemble",))
    write_search(experiment, "iprm", trials=30)
    page = page_of(experiment)
    assert "ensemble: not drawn: 3 trials with a result; at least 20 are needed." in page.text
    (alt,) = [image["alt"] or "" for image in page.named("img") if "Share of the variance" in (image["alt"] or "")]
    assert "iprm's validation accuracy by setting: optimizer.lr" in alt
    assert "iprm, 30 trials" in page.text


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_a_search_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / name)
    assert done.exit_code == 2
    assert "holds no search (experiment.json is missing)" in done.output
    assert not (tmp_path / name / "report").exists()


def test_a_folder_of_several_searches_names_them(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    done = run(tmp_path)
    assert done.exit_code == 2
    assert f"name one of them, as in {tmp_path}/mine" in done.output


def test_a_damaged_ranking_is_no_unfinished_search(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    (experiment / "ranking.json").write_text('{"rankings": [')
    with pytest.raises(DataError, match=r"ranking\.json is damaged"):
        load_experiment(experiment)


def test_another_releases_search_is_refused(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    stored = json.loads((experiment / "experiment.json").read_text())
    write(experiment / "experiment.json", stored | {"format_version": 99})
    done = run(experiment)
    assert done.exit_code == 2
    assert "another release (format 99)" in done.output


def test_results_of_the_first_format_are_read_still(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    stored = json.loads((experiment / "experiment.json").read_text())
    write(experiment / "experiment.json", stored | {"format_version": 1})
    assert "ensemble" in page_of(experiment).text
