"""What is typed after `compare`: one message for wrong use, and a study file that says what was wanted."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from study_files import MadeData, MadeStudy, write_study

from mmcore.errors import ConfigError, UsageError
from rayjobs.commands.comparing.beginning import preview
from rayjobs.commands.comparing.flags import parse_folds
from rayjobs.commands.comparing.power import _known, outlooks
from rayjobs.compare import main
from rayjobs.experiment.machine import Machine
from rayjobs.results_layout import COMPARE_FILE
from rayjobs.study.build import document_of
from rayjobs.study.study import read_study


def run(folder: Path, verb: str, *arguments: str) -> Result:
    places = ["--output", str(folder / "results")]
    places += ["--data-dir", str(folder / "data")] if verb == "new" else []
    return CliRunner().invoke(main, [verb, "mine", *arguments, *places])


def test_a_study_is_written_as_it_was_wanted_and_nothing_is_started(tmp_path: Path) -> None:
    result = run(tmp_path, "new", "--method", "iprm", "--trials", "4", "--margin", "2", "--folds", "0,2", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    rows = ["iprm", "ensemble-tuned", "ensemble", "unimodal-image", "unimodal-audio", "joint"]
    assert plan["rows"] == {"digits": rows}
    assert plan["cells"] == 12
    assert plan["trials"] == {"digits": 4}
    study = read_study(tmp_path / "results" / "mine")
    assert (study.margin, study.folds, study.protocol, study.seeds) == (2.0, [0, 2], {"name": "cv"}, 3)
    assert [path.name for path in (tmp_path / "results" / "mine").iterdir()] == ["study.yaml"]
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, "new", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "compared with ensemble-tuned, margin 1 point" in result.stdout
    assert "run --pilot" in result.stdout  # never a guess
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--margin", "0"], "margin must be"),
        (["--margin", "60"], "margin must be"),
        (["--margin", "much"], "--margin must be points, or DATA_SET=points, got 'much'"),
        (["--margin", "=1"], "--margin must be points, or DATA_SET=points, got '=1'"),
        (["--use", "nowhere"], "nowhere holds no study (study.yaml is missing)"),
        (["--folds", "0-99"], "--folds 5, 6, 7, 8, 9, ...: digits has 5, 0 to 4"),
        (["--reference", "unimodal"], "several rows (unimodal-image, unimodal-audio): choose"),
        (["--folds", "0-"], "--folds must name folds, as in 0,1 or 0-5, got '0-'"),
        (["--folds", "0,9"], "--folds 9: digits has 5, 0 to 4"),
        (["--protocol", "paper"], "protocol paper chooses on test"),
        (["--protocol", "group", "--folds", "0"], "folds is for protocol cv, got group"),
        (["--protocol", "group", "--cv-folds", "4"], "--cv-folds is for --protocol cv"),
        (["--method", "joint", "--method", "ensemble"], "methods must name one that is no reference"),
        (["--method", "iprn"], "unknown method 'iprn': did you mean 'iprm'"),
        (["--trials", "1"], "--trials 2 or more, got 1"),
        (["--option", "noise_colour=red"], "--option noise_colour: no data set of this command has it"),
        (["--alpha", "0.5"], "0.5 is not in the range"),
        (["--reference", "none"], "unknown method 'none'"),
        (["--pilot", "--dry-run"], "--pilot trains, which --dry-run does not"),
    ],
)
def test_wrong_use_is_one_message_before_anything_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(tmp_path, "new", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    assert run(tmp_path, "new").exit_code == 0
    before = (tmp_path / "results/mine/study.yaml").read_bytes()
    again = run(tmp_path, "new", "--trials", "3")
    assert again.exit_code == 2
    assert "is there already: go on by rayjobs.compare run mine" in again.stderr
    assert (tmp_path / "results/mine/study.yaml").read_bytes() == before


def test_what_is_added_is_only_added(tmp_path: Path) -> None:
    run(tmp_path, "new", "--method", "iprm", "--trials", "4", "--folds", "0")
    added = run(tmp_path, "add", "--method", "aug", "--trials", "6", "--folds", "1", "--seeds", "4", "--margin", "2")
    assert added.exit_code == 0, added.output
    study = read_study(tmp_path / "results/mine")
    assert (study.methods, study.trials, study.folds, study.seeds, study.margin) == (["iprm", "aug"], 6, [0, 1], 4, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to add"),
        (["--method", "iprm"], "there is nothing to add"),
        (["--trials", "3"], "--trials 3: the study has 4 already"),
        (["--seeds", "1"], "--seeds 1: the study has 3 already"),
        (["--folds", "1"], "--folds 1: the study has all folds already"),
        (["--option", "noise=1"], "--option and --demo are for a --dataset that is added"),
        (["--method", "augg"], "unknown method 'augg'"),
    ],
)
def test_an_addition_that_is_none_is_refused_and_nothing_is_lost(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    run(tmp_path, "new", "--method", "iprm", "--trials", "4")
    before = (tmp_path / "results/mine/study.yaml").read_bytes()
    added = run(tmp_path, "add", *arguments)
    assert added.exit_code == 2, added.output
    assert message in " ".join(added.stderr.split())
    assert (tmp_path / "results/mine/study.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("margin", 0, "margin must be"),
        ("margins", {"digits": "small"}, "margins.digits must be"),
        ("trails", 4, "unknown key 'trails': did you mean 'trials'"),
        ("seeds", "many", "seeds must be"),
        ("folds", [0, 0], "folds holds an entry twice: 0, 0"),
        ("folds", [], "folds must name one at least"),
        ("methods", [], "methods must"),
        ("methods", ["iprm", "iprm"], "methods holds an entry twice: iprm, iprm"),
        ("format", "equipoise.study/9", "format must be"),
    ],
)
def test_a_file_edited_wrongly_is_named_with_key_rule_and_value(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    run(tmp_path, "new")
    path = tmp_path / "results/mine/study.yaml"
    content = yaml.safe_load(path.read_text()) | {key: value}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises((ConfigError, UsageError), match=message.replace("'", ".")):
        read_study(path.parent)


def test_a_study_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    run(tmp_path, "new")
    with pytest.raises(UsageError, match=r"no study 'mime'.*did you mean 'mine'"):
        read_study(tmp_path / "results/mime")


def test_folds_are_named_one_by_one_or_from_to() -> None:
    assert parse_folds("2,0") == [0, 2]
    assert parse_folds("0-2,2,5") == [0, 1, 2, 5]
    assert parse_folds(None) is None
    for wrong in ("", "a", "2-1", "-1", "1.5", "1,,2"):
        with pytest.raises(UsageError, match="--folds must name folds"):
            parse_folds(wrong)


def test_a_report_of_made_cells_is_told_and_written_and_reads_only(tmp_path: Path) -> None:
    made = MadeStudy(methods={"good": 0.9, "joint": 0.7}, data=(MadeData(folds=3),))
    study = write_study(tmp_path / "results" / "mine", made)
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    told = run(tmp_path, "report")
    assert told.exit_code == 0, told.output
    assert "nothing is decided" in told.stdout
    assert {path: path.read_bytes() for path in before} == before
    assert (study / "report.html").is_file()
    assert not (study / "tables").exists()
    with_tables = run(tmp_path, "report", "--tables", "latex", "--json")
    assert [path.suffix for path in (study / "tables").iterdir()] == [".tex"]
    assert json.loads(with_tables.stdout)["schema"] == "equipoise.compare/1"
    assert run(tmp_path, "report", "--tables", "excel").exit_code == 2


def test_what_is_told_to_be_typed_next_can_be_typed(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new", "my study", "--output", str(tmp_path / "my results")])
    assert result.exit_code == 0, result.output
    typed = shlex.split(result.stdout.splitlines()[-1])
    assert typed[3:] == ["run", "my study", "--output", str(tmp_path / "my results")]


def test_a_damaged_file_costs_its_own_cell_alone_and_is_named(tmp_path: Path) -> None:
    made = MadeStudy(methods={"good": 0.9, "joint": 0.7}, data=(MadeData(folds=3),))
    study = write_study(tmp_path / "results" / "mine", made)
    lost = study / "cells/made-good/fold-1/final-2/predictions.npz"
    lost.write_bytes(lost.read_bytes()[:100])
    told = run(tmp_path, "report", "--json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    waiting = [(cell["method"], cell["fold"]) for cell in document["cells"] if cell["status"] == "open"]
    assert waiting == [("good", 1)]
    assert str(lost.relative_to(study)) in json.dumps(document["notes"])
    (study / "lock.json").write_text("{")
    refused = run(tmp_path, "report")
    assert refused.exit_code == 1
    assert "lock.json is damaged" in refused.stderr


def test_the_cost_and_the_outlook_are_told_where_earlier_studies_tell_them(tmp_path: Path) -> None:
    methods = {"iprm": [0.9, 0.8, 0.85, 0.9, 0.95], "ensemble-tuned": 0.8}
    made = MadeStudy(methods=methods, data=(MadeData(name="digits", folds=5),))
    write_study(tmp_path / "results" / "before", made)
    places = ["--output", str(tmp_path / "results")]
    assert CliRunner().invoke(main, ["report", "before", *places]).exit_code == 0
    asked = ["--method", "iprm", "--reference-only", "--trials", "4", "--cpus", "2", "--dry-run"]
    plan = json.loads(run(tmp_path, "new", *asked, "--json").stdout)
    known = json.loads((tmp_path / "results/before/compare.json").read_text())["power"][0]
    (outlook,) = plan["power"]
    assert outlook["source"] == "the study before"
    assert outlook["deviation"] == known["deviation"]
    assert outlook["smallest"] > 1
    text = run(tmp_path, "new", *asked).stdout
    assert f"{outlook['smallest']:.1f} points or more would be shown in 4 of 5 such studies" in text
    assert "this plan can show neither a difference of 1 point nor equivalence within it" in " ".join(text.split())
    for other in (["--cv-folds", "4"], ["--split-seed", "1"], ["--option", "image_noise=0.1"]):
        (unknown,) = json.loads(run(tmp_path, "new", *asked, *other, "--json").stdout)["power"]
        assert unknown["deviation"] is None  # other splits and other data differ by something else


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", None, b"inf", b"-2"])
def test_what_another_study_left_damaged_tells_nothing_and_stops_nothing(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "results" / "before" / COMPARE_FILE
    made = MadeStudy(methods={"iprm": 0.9, "ensemble-tuned": 0.8}, data=(MadeData(name="digits", folds=5, samples=20),))
    study = write_study(file.parent, made)
    if content is None:
        file.mkdir()
    elif content in {b"inf", b"-2"}:
        document = document_of(study)
        power = [replace(document.power[0], deviation=float(content), smallest=1.0)]
        file.write_text(json.dumps(replace(document, power=power).to_dict()))
    else:
        file.write_bytes(content)
    wanted = read_study(study)
    found, source = _known(wanted, wanted.datasets[0], tmp_path / "results" / "mine")
    assert (found, source) == (None, "")


def test_a_pilots_figure_is_its_data_sets_whatever_options_that_has(tmp_path: Path) -> None:
    run(tmp_path, "new", "--option", "image_noise=0.1", "--reference-only", "--trials", "4")
    folder = tmp_path / "results" / "mine"
    study = read_study(folder)
    plan = preview(study, folder, Machine(cpus=2))
    (outlook,) = outlooks(study, plan, folder, {"digits+image_noise=0.1": 1.5})
    assert (outlook.deviation, outlook.source.partition(":")[0]) == (1.5, "pilot")
