from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmcore.errors import UsageError
from rayjobs.experiment.experiment import find_experiment, new_experiment, resume_experiment, unfinished_twins
from rayjobs.experiment.request import Request

REQUEST = Request(
    datasets=("digits",), methods=("iprm", "aug", "ensemble"), reference="ensemble", values={"optimizer.lr": 0.01}
)


def test_the_name_says_what_is_searched() -> None:
    assert REQUEST.name() == "digits-aug-iprm-ensemble"
    assert replace(REQUEST, methods=("joint",), reference=None).name() == "digits-joint"
    assert replace(REQUEST, protocol={"name": "group"}).name() == "digits-group-aug-iprm-ensemble"


def test_a_request_comes_back_from_its_folder_as_it_was(tmp_path: Path) -> None:
    experiment = new_experiment(REQUEST, tmp_path, None, "the command")
    assert find_experiment(tmp_path, experiment.name) == experiment


def test_a_derived_name_is_numbered_a_given_one_is_not(tmp_path: Path) -> None:
    names = [new_experiment(REQUEST, tmp_path, None, "").name for _ in range(3)]
    assert names == ["digits-aug-iprm-ensemble", "digits-aug-iprm-ensemble-2", "digits-aug-iprm-ensemble-3"]
    new_experiment(REQUEST, tmp_path, "mine", "")
    with pytest.raises(UsageError, match="--resume mine"):
        new_experiment(REQUEST, tmp_path, "mine", "")


def test_resume_finds_the_newest_of_the_same_request(tmp_path: Path) -> None:
    new_experiment(REQUEST, tmp_path, None, "")
    second = new_experiment(REQUEST, tmp_path, None, "")
    other = new_experiment(replace(REQUEST, seed=7), tmp_path, None, "")
    assert resume_experiment(REQUEST, tmp_path, None) == second
    assert resume_experiment(replace(REQUEST, seed=7), tmp_path, None) == other
    assert unfinished_twins(second) == ["digits-aug-iprm-ensemble"]
    (tmp_path / "digits-aug-iprm-ensemble" / "ranking.json").write_text("{}")
    assert unfinished_twins(second) == []


def test_resume_of_another_request_says_what_differs(tmp_path: Path) -> None:
    new_experiment(REQUEST, tmp_path, None, "")
    with pytest.raises(UsageError, match="seed: 0 there, 8 here"):
        resume_experiment(replace(REQUEST, seed=8), tmp_path, None)


def test_resume_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --resume"):
        resume_experiment(REQUEST, tmp_path, None)
    with pytest.raises(UsageError, match="there is none yet"):
        find_experiment(tmp_path, "digits")
    new_experiment(REQUEST, tmp_path, "mine", "")
    with pytest.raises(UsageError, match="did you mean 'mine'"):
        find_experiment(tmp_path, "mime")


def test_a_moved_experiment_is_refused(tmp_path: Path) -> None:
    experiment = new_experiment(REQUEST, tmp_path / "a", None, "")
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(UsageError, match="was moved"):
        find_experiment(tmp_path / "b", experiment.name)


def test_names_and_protocol_are_checked() -> None:
    with pytest.raises(UsageError, match="unknown data set 'digit': did you mean 'digits'"):
        replace(REQUEST, datasets=("digit",)).check()
    with pytest.raises(UsageError, match="unknown method 'iprn': did you mean 'iprm'"):
        replace(REQUEST, methods=("iprn",)).check()
    with pytest.raises(UsageError, match="test split"):
        replace(REQUEST, protocol={"name": "paper"}).check()


def test_an_experiment_of_another_format_is_not_gone_on_with(tmp_path: Path) -> None:
    experiment = new_experiment(REQUEST, tmp_path, None, "")
    path = experiment.folder / "experiment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    with pytest.raises(UsageError, match=r"experiment format 1; .* finish it with that one, or begin anew"):
        find_experiment(tmp_path, experiment.name)
