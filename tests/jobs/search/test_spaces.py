"""Spaces of methods a file says nothing of, widened ranges, and that the shipped files treat all methods alike."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from mmcore.errors import ConfigError
from mmcore.methods import METHODS, joint
from rayjobs.search.distributions import Distribution
from rayjobs.search.searches import Search, SearchOptions, build_searches
from rayjobs.search.spaces import load_space, spaces_folder

SHIPPED = [path for path in sorted(spaces_folder().glob("*.yaml")) if not path.stem.endswith("-ladder")]
RATE = "optimizer.lr"
PLAIN = ["unimodal", "ensemble", "joint", "joint_unimodal"]
OTHERS = [name for name in METHODS.names() if name not in PLAIN]
MOST_DIMENSIONS = 3
AUTHORS = {
    "ogm": {"method.alpha": 0.8},
    "opm": {"method.base": 0.5},
    "mmpareto": {"method.gamma": 1.5},
    "agm": {"method.alpha": 1.5},
    "amss": {"method.temperature": 0.2},
    "arl": {"method.gamma": 4.0, "method.temperature": 8.0},
    "cml": {"method.weight": 0.1},
    "dgl": {"method.alpha": 4.0},
    "gblending": {"method.super_epoch": 10},
    "g2d": {"method.distil": 1.0},
    "inforeg": {"method.beta": 0.95},
    "lfm": {"method.schedule": "learned", "method.start": 0.95},
    "mla": {"method.projection": True, "method.normalise": True},
    "pmr": {"method.alpha": 1.0},
    "mmcosine": {"method.scale": 10.0},
    "umt": {"method.weight": 10.0},
    "mslr": {"method.memory": 5, "method.scale": "gradients"},
    "qmf": {"method.weight": 0.1, "method.detach": True},
    "relearning": {"method.strength": 3.0, "method.every_epochs": 20},
    "simbamm": {"method.width": 512, "method.layers": 4},
}
"""Method -> the authors' own settings, on CREMA-D; IPRM's and AUG's differ by data set: test_searches.py."""
ON_A_SET = {("vggsound", "ogm"): {"method.alpha": 0.1}}
FACTORS = {"arl": ("method.gamma", 2), "dgl": ("method.alpha", 1)}
"""Method -> the setting that multiplies its encoders' rate, by up to more than the plain methods' range is widened, and
the most that the rule itself adds to that."""
RATES = {
    "inforeg": 0.002, "ogm": 0.001, "mla": 0.001, "pmr": 0.001, "mmpareto": 0.002, "relearning": 0.002,
    "simbamm": 0.0034,
}  # fmt: skip
every_file = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


def searches(path: Path, *methods: str) -> dict[str, Search]:
    dataset = {"name": "digits", "options": {}}
    built = build_searches(load_space(path), dataset, "digits", ("image", "audio"), methods, options=SearchOptions())
    return {search.label: search for search in built}


def space(folder: Path, **content: object) -> Path:
    path = folder / "space.yaml"
    shared = {"space": {RATE: {"loguniform": [0.001, 0.1]}}, "points": [{RATE: 0.01}, {RATE: 0.02}]}
    path.write_text(yaml.safe_dump({"trials": 2, "max_epochs": 4, **shared, **content}))
    return path


# The shipped files


@every_file
def test_every_method_but_the_plain_ones_has_settings_of_its_own_to_search(path: Path) -> None:
    built = searches(path, *OTHERS)
    without = [name for name, search in built.items() if not any(key.startswith("method.") for key in search.space)]
    assert not without, (
        f"enter them in search_spaces/default.yaml, and their ranges in search_spaces/README.md: {without}"
    )


@every_file
def test_no_method_is_searched_in_more_dimensions_than_three(path: Path) -> None:
    assert max(len(search.space) for search in searches(path, *METHODS.names()).values()) == MOST_DIMENSIONS


@every_file
def test_the_authors_own_settings_are_tried_first(path: Path) -> None:
    assert AUTHORS.keys() == set(OTHERS) - {"iprm", "aug"}, "enter the authors' settings here"
    for name, search in searches(path, *AUTHORS).items():
        expected = ON_A_SET.get((path.stem, name), AUTHORS[name])
        assert search.points[0].items() >= expected.items(), name


@pytest.mark.parametrize("file", ["default", "cremad"])
def test_on_the_authors_set_their_rate_is_tried_first_too(file: str) -> None:
    built = searches(spaces_folder() / f"{file}.yaml", *AUTHORS)
    assert {name: built[name].points[0][RATE] for name in RATES} == RATES
    assert {built[name].points[0][RATE] for name in AUTHORS.keys() - RATES.keys()} == {0.01}


@every_file
def test_plain_methods_reach_every_rate_that_another_method_comes_to_by_its_own_factor(path: Path) -> None:
    built = searches(path, *METHODS.names())
    low, high = built["mmpareto"].space[RATE].ends()
    least, most = built["mmpareto"].space["method.gamma"].ends()
    assert most > 2
    for label, search in built.items():
        ends = search.space[RATE].ends()
        if label.partition("-")[0] in PLAIN:
            assert ends == pytest.approx([low * min(least, 1), high * most])
        elif label in FACTORS:
            setting, more = FACTORS[label]
            largest = more * search.space[setting].ends()[1]
            assert largest > most
            is_uncut = search.config.optimizer.name == "adam" and ends[1] == high  # Adam divides the factor out
            assert ends == pytest.approx([low, high if is_uncut else high * most / largest]), label
        else:
            assert ends == [low, high], label


@every_file
def test_optimizer_schedule_batch_size_and_encoders_are_common(path: Path) -> None:
    sections = ("optimizer", "schedule", "trainer", "model", "protocol")
    fixed = {
        label: {name: value for name, value in search.config.to_dict().items() if name in sections}
        for label, search in searches(path, *METHODS.names()).items()
    }
    assert all(values == fixed["joint"] for values in fixed.values())
    own = {key for search in searches(path, *METHODS.names()).values() for key in search.space}
    assert all(key == RATE or key.startswith("method.") for key in own)


def test_the_readme_tells_where_every_range_comes_from() -> None:
    text = (Path(__file__).parents[3] / "search_spaces" / "README.md").read_text()
    for name, section in load_space(spaces_folder() / "default.yaml").methods.items():
        assert f"| `{name}` |" in text
        for path in section.space:
            assert f"`{path.removeprefix('method.')}`" in text, (name, path)


# Filling in


def test_a_file_says_whether_methods_without_a_section_are_filled_in(tmp_path: Path) -> None:
    assert list(searches(space(tmp_path), "ogm")["ogm"].space) == [RATE]
    built = searches(space(tmp_path, fill_in_methods=True), "ogm", "joint")
    assert list(built["ogm"].space) == [RATE, "method.alpha"]
    assert built["ogm"].points == [{RATE: 0.01, "method.alpha": 0.8}, {RATE: 0.02, "method.alpha": 0.8}]
    assert built["joint"].space[RATE].ends() == [0.001, 0.25]
    assert built["joint"].points == [{RATE: 0.01}, {RATE: 0.02}]


def test_a_files_own_section_stands(tmp_path: Path) -> None:
    own = {"ogm": {"space": {"method.alpha": {"uniform": [0.2, 0.3]}}, "points": [{RATE: 0.01, "method.alpha": 0.25}]}}
    search = searches(space(tmp_path, fill_in_methods=True, methods=own), "ogm")["ogm"]
    assert search.space["method.alpha"].ends() == [0.2, 0.3]
    assert search.points == [{RATE: 0.01, "method.alpha": 0.25}]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file beside a method of another package."""
    module = ModuleType("their_method")
    module.__file__ = str(tmp_path / "their_method.py")
    monkeypatch.setitem(sys.modules, "their_method", module)

    class TheirConfig(joint.JointConfig):
        strength: float = 0.5

    theirs = type("Theirs", (joint.Joint,), {"__module__": "their_method", "Config": TheirConfig})
    monkeypatch.setitem(METHODS._entries, "theirs", theirs)
    return tmp_path / "their_method.yaml"


def test_a_plug_ins_space_lies_beside_its_module(plugin: Path, tmp_path: Path) -> None:
    path = space(tmp_path, fill_in_methods=True)
    assert list(searches(path, "theirs")["theirs"].space) == [RATE]
    plugin.write_text("space: {method.strength: {uniform: [0, 1]}}\npoints: [{method.strength: 0.3}]\n")
    search = searches(path, "theirs")["theirs"]
    assert list(search.space) == [RATE, "method.strength"]
    assert search.points == [{RATE: 0.01, "method.strength": 0.3}, {RATE: 0.02, "method.strength": 0.3}]
    assert list(searches(space(tmp_path), "theirs")["theirs"].space) == [RATE]


def test_what_is_wrong_in_a_plug_ins_space_is_told(plugin: Path, tmp_path: Path) -> None:
    plugin.write_text("sapce: {}\n")
    with pytest.raises(ConfigError, match=rf"unknown key '{plugin}\.sapce': did you mean 'space'"):
        load_space(space(tmp_path, fill_in_methods=True))
    plugin.write_text("space: {method.strength: {unifrom: [0, 1]}}\n")
    with pytest.raises(ConfigError, match=r"methods\.theirs\.space\.method\.strength\.unifrom"):
        load_space(space(tmp_path, fill_in_methods=True))


# Widening


def test_a_widened_range_has_each_end_times_its_factor() -> None:
    assert Distribution.parse({"uniform": [1, 2]}, "x").widened(0.5, 3, "x").ends() == [0.5, 6]
    assert Distribution.parse({"loguniform": [1, 2]}, "x").widened(1, 2.5, "x").kind == "loguniform"


def test_only_ranges_of_floats_that_the_file_searches_can_be_widened(tmp_path: Path) -> None:
    methods = {"joint": {"widen": {RATE: [1, 2], "optimizer.momentum": [1, 2]}}}
    path = space(tmp_path, space={RATE: {"choice": [0.1]}}, points=[], methods=methods)
    with pytest.raises(ConfigError) as caught:
        load_space(path)
    assert caught.value.problems == [
        "space.yaml: methods.joint.widen: 'optimizer.momentum' is not in the file's space",
        "space.yaml: methods.joint.widen.optimizer.lr widens a range, uniform or loguniform, got one of 0.1",
    ]
