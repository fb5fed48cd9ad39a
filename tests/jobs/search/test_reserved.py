"""What a search must not choose, by every way in: `rayjobs.search.reserved` decides, and each of them asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from mmcore.methods import METHODS
from rayjobs.experiment.machine import Machine
from rayjobs.experiment.plan import check_request
from rayjobs.experiment.request import Request
from rayjobs.search.reserved import RESERVED, refusals
from rayjobs.tune import main

SAMPLES = "which samples train, validate and test, so a search must not set it: "
SAID: dict[str, tuple[Any, str]] = {
    # path: (value, what is said)
    "protocol.name": ("paper", f"'protocol.name' decides {SAMPLES}choose one for all rows by --protocol NAME"),
    "protocol.seed": (3, f"'protocol.seed' decides {SAMPLES}choose one for all rows by --split-seed N"),
    "protocol.folds": (3, f"'protocol.folds' decides {SAMPLES}choose one for all rows by --folds N"),
    "protocol.fold": (1, "'protocol.fold' decides which samples are tested, so a search must not set it: use --protoc"),
    "protocol": ({"name": "paper"}, f"'protocol' decides {SAMPLES}"),
    "seed": (3, "'seed' decides which seed a trial has, so a search must not set it: choose one for all trials by --s"),
    "dataset": ({"name": "avdigits"}, "'dataset' decides which samples there are"),
    "dataset.name": ("avdigits", "'dataset.name' decides which samples there are"),
    "dataset.options": ({"seed": 4}, "'dataset.options' decides which samples there are"),
    "dataset.options.seed": (4, "'dataset.options.seed' decides which samples there are, so a search must not set it"),
    "method.name": ("joint", "'method.name' decides what a row of the ranking is"),
    "method": ({"name": "joint"}, "'method' decides what a row of the ranking is"),
}
WAYS = ("set", "space", "points")


def test_every_rule_is_among_what_is_tried() -> None:
    assert set(SAID) >= set(RESERVED)
    free = ["optimizer.lr", "trainer.batch_size", "method.alpha", "dataset.transforms.image.flip", "seeds", "protocols"]
    assert refusals(free, "--set") == []


def dry_run(folder: Path, *arguments: str) -> Result:
    folders = ["--output", str(folder / "results"), "--data-dir", str(folder / "data"), "--dry-run", "--cpus", "2"]
    return CliRunner().invoke(main, [*arguments, *folders])


def space_with(folder: Path, path: str, value: Any, way: str, of_method: bool) -> Path:
    """Writes a space file that sets a path by one of its sections, of all methods or of one that is not asked for."""
    part: dict[str, Any] = {
        "set": {path: value},
        "space": {path: {"choice": [value]}},
        "points": [{path: value}],
    }
    content: dict[str, Any] = {"trials": 4, "max_epochs": 4, "space": {"optimizer.lr": {"choice": [0.01]}}}
    section = content.setdefault("methods", {}).setdefault("aug", {}) if of_method else content
    section[way] = section.get(way, {}) | part[way] if way != "points" else part[way]
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("of_method", [False, True], ids=["shared", "method"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", SAID)
def test_a_space_file_cannot_set_it_in_any_section(tmp_path: Path, path: str, way: str, of_method: bool) -> None:
    value, said = SAID[path]
    file = space_with(tmp_path, path, value, way, of_method)
    done = dry_run(tmp_path, "--space", str(file), "--method", "iprm")
    where = f"{'methods.aug.' if of_method else ''}{way}"
    assert done.exit_code == 2, done.output
    assert f"space.yaml: {where}: {said}" in " ".join(done.output.split())


@pytest.mark.parametrize("kind", [[], ["--search", "grid"], ["--search", "random"], ["--scheduler", "pbt"]])
@pytest.mark.parametrize("path", SAID)
def test_the_command_line_cannot_set_it_whatever_the_search(tmp_path: Path, path: str, kind: list[str]) -> None:
    value, said = SAID[path]
    file = space_with(tmp_path, "optimizer.momentum", 0.9, "set", of_method=False)
    done = dry_run(tmp_path, "--space", str(file), "--set", f"{path}={json.dumps(value)}", *kind)
    assert done.exit_code == 2, done.output
    assert f"--set: {said}" in " ".join(done.output.split())


@pytest.mark.parametrize(("kind", "way"), [(["--search", "grid"], "space"), (["--scheduler", "pbt"], "space")])
def test_neither_a_grid_nor_a_population_searches_it(tmp_path: Path, kind: list[str], way: str) -> None:
    file = space_with(tmp_path, "protocol.seed", 3, way, of_method=False)
    done = dry_run(tmp_path, "--space", str(file), *kind)
    assert done.exit_code == 2
    assert SAID["protocol.seed"][1] in " ".join(done.output.split())


def test_a_configuration_file_is_no_space_and_cannot_set_it(tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    file.write_text(yaml.safe_dump({"dataset": {"name": "digits"}, "protocol": {"name": "paper"}, "seed": 3}))
    done = dry_run(tmp_path, "--space", str(file))
    assert done.exit_code == 2
    assert "unknown key 'protocol'" in done.output


def test_a_request_that_is_gone_on_with_is_asked_again() -> None:
    """One kept by an older release, or changed by hand, has no way in either."""
    stored = Request(datasets=("digits",), methods=("joint",), protocol={"name": "paper"})
    with pytest.raises(Exception, match="picks the best epoch on the test split"):
        check_request(stored, Machine(cpus=1))
    with pytest.raises(Exception, match="'seed' decides which seed a trial has"):
        check_request(Request(datasets=("digits",), methods=("joint",), values={"seed": 3}), Machine(cpus=1))


def test_a_plug_ins_variant_cannot_set_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(METHODS.get("joint"), "variants", classmethod(lambda cls, modalities: {"lucky": {"seed": 8}}))
    done = dry_run(tmp_path, "--method", "joint-lucky")
    assert done.exit_code == 2
    assert f"the variant joint-lucky: {SAID['seed'][1]}" in " ".join(done.output.split())


def test_the_flags_set_it_for_all_rows_alike(tmp_path: Path) -> None:
    given = ["--protocol", "cv", "--folds", "4", "--split-seed", "2", "--seed", "9", "--method", "joint", "--json"]
    searches = json.loads(dry_run(tmp_path, *given).stdout)["searches"]
    sections = [(search["config"]["protocol"], search["config"]["seed"]) for search in searches]
    assert {section["fold"] for section, _ in sections} == {0, 1, 2, 3}
    assert {(section["seed"], section["folds"], seed) for section, seed in sections} == {(2, 4, 9)}
