from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml
from hyperopt import pyll
from ray.tune.search.hyperopt import HyperOptSearch
from scipy import stats

from mmcore.errors import ConfigError, UsageError
from mmcore.methods import METHODS
from mmcore.methods.aug import scaled_interval
from rayjobs.search.distributions import Distribution
from rayjobs.search.searches import Search, SearchOptions, ablations_of, build_searches
from rayjobs.search.spaces import load_space, space_file
from rayjobs.search.suggestions import suggestions_of

DIGITS = {"name": "digits", "options": {}}
CONTENT: dict[str, Any] = {
    "trials": 5,
    "max_epochs": 20,
    "space": {"optimizer.lr": {"loguniform": [0.001, 0.1]}},
    "points": [{"optimizer.lr": 0.01}],
    "methods": {
        "iprm": {
            "space": {"method.alpha": {"uniform": [0.1, 0.99]}},
            "points": [{"optimizer.lr": 0.01, "method.alpha": 0.8}],
        }
    },
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(CONTENT | changes))
    return path


def searches(path: Path, *methods: str, **options: Any) -> dict[str, Search]:
    built = build_searches(
        load_space(path), DIGITS, "digits", ("image", "audio"), methods, options=SearchOptions(**options)
    )
    return {search.label: search for search in built}


def test_each_method_gets_the_shared_space_and_its_own(tmp_path: Path) -> None:
    built = searches(write(tmp_path), "iprm", "ensemble")
    assert list(built["iprm"].space) == ["optimizer.lr", "method.alpha"]
    assert list(built["ensemble"].space) == ["optimizer.lr"]
    assert built["ensemble"].points == [{"optimizer.lr": 0.01}]
    assert {search.trials for search in built.values()} == {5}
    assert {search.max_epochs for search in built.values()} == {20}


def test_a_variant_is_a_row_of_its_own(tmp_path: Path) -> None:
    built = searches(write(tmp_path), "unimodal")
    assert {label: search.config.method["modality"] for label, search in built.items()} == {
        "unimodal-image": "image",
        "unimodal-audio": "audio",
    }


def test_one_grace_period_for_all_longer_than_any_interval_of_aug(tmp_path: Path) -> None:
    for max_epochs in (4, 7, 20, 24, 100):
        built = searches(write(tmp_path), "iprm", "aug", max_epochs=max_epochs)
        grace = {search.grace_epochs for search in built.values()}
        assert grace == {max_epochs // 4 + 1}
        assert grace.pop() > scaled_interval(200, 200, max_epochs)


def test_a_file_may_lengthen_the_grace_period_only(tmp_path: Path) -> None:
    assert searches(write(tmp_path, grace_epochs=12), "iprm")["iprm"].grace_epochs == 12
    assert searches(write(tmp_path, grace_epochs=2), "iprm")["iprm"].grace_epochs == 6


def test_a_fixed_value_leaves_the_space_and_the_points(tmp_path: Path) -> None:
    built = searches(write(tmp_path), "iprm", "ensemble", values={"optimizer.lr": 0.05, "method.alpha": 0.5})
    assert not built["iprm"].space
    assert built["iprm"].trials == 1
    assert built["iprm"].config.method["alpha"] == 0.5
    assert not built["ensemble"].space
    assert built["ensemble"].config.optimizer.lr == 0.05


def test_fixed_method_key_that_no_method_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'method\.alpah': did you mean 'method\.alpha'"):
        searches(write(tmp_path), "iprm", values={"method.alpah": 0.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trails": 5}, r"space\.yaml: unknown key 'trails': did you mean 'trials'"),
        ({"trials": 0}, r"space\.yaml: trials must be in \[1, 100000\], got 0"),
        ({"methods": {"iprn": {}}}, r"methods: unknown method 'iprn': did you mean 'iprm'"),
        ({"space": {"optimizer.lr": {"loguniforn": [1, 2]}}}, "did you mean 'loguniform'"),
        ({"space": {"optimizer.lr": {"uniform": [0.1, 0.01]}}}, "low end is under its high end"),
        ({"space": {"optimizer.lr": {"loguniform": [0, 1]}}}, "a range above 0"),
        ({"space": {"optimizer.lr": 0.1}}, "must be a mapping like"),
        ({"space": {"optimizer.lr": {}}}, "one of uniform, loguniform"),
    ],
)
def test_what_a_file_gets_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_space(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {"optimizer.ler": {"uniform": [0.1, 0.2]}}},
            r"\(ensemble\): unknown key 'optimizer.ler': did you mean",
        ),
        ({"space": {"optimizer.lr.x": {"uniform": [0.1, 0.2]}}}, "optimizer.lr.x is no path of the configuration"),
        ({"space": {"optimizer.lr": {"uniform": [0.1, 20]}}}, r"optimizer\.lr must be .*, got 20"),
        ({"points": [{"optimizer.lr": 0.5}]}, "sets optimizer.lr to 0.5, outside loguniform 0.001 ... 0.1"),
        ({"points": [{"optimizer.momentum": 0.5}]}, "needs a value for 'optimizer.lr'"),
        ({"points": [{"optimizer.lr": 0.01, "schedule.name": "step"}]}, "'schedule.name', which is not searched"),
    ],
)
def test_what_does_not_fit_the_configuration_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        searches(write(tmp_path, **changes), "ensemble")


def test_all_problems_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_space(write(tmp_path, trails=5, space={"optimizer.lr": 0.1}, methods={"iprn": {}}))
    assert len(caught.value.problems) == 3


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        space_file("digits", tmp_path / "none.yaml")


def test_own_file_or_default() -> None:
    assert space_file("digits").name == "digits.yaml"
    assert space_file("something").name == "default.yaml"
    assert space_file("sarcasm").name == "sarcasm.yaml"
    assert space_file("sarcasm", demo=True).name == "demo.yaml"


SHIPPED = sorted(space_file("digits").parent.glob("*.yaml"))
LADDERS = [path for path in SHIPPED if path.stem.endswith("-ladder")]


@pytest.mark.parametrize("path", LADDERS, ids=lambda path: path.stem)
def test_a_shipped_ladder_fits_every_variant_and_holds_the_papers_learning_rate(path: Path) -> None:
    variants = [f"{name}-{key}" for name in METHODS.names() for key in METHODS.get(name).variants(("image", "audio"))]
    built = searches(path, *METHODS.names(), *variants, algorithm="grid")
    assert len(built) > len(variants) > 10
    for search in built.values():
        assert list(search.space) == ["optimizer.lr"]
        assert 0.01 in search.space["optimizer.lr"].ends()
        assert search.trials == load_space(path).file.trials


def test_a_variant_fixes_its_settings_and_takes_them_out_of_the_space(tmp_path: Path) -> None:
    path = write(tmp_path, methods=CONTENT["methods"])
    built = searches(path, "iprm", "iprm-no_average", "aug-released", "unimodal-audio")
    assert list(built) == ["iprm", "iprm-no_average", "aug-released", "unimodal-audio"]
    ablation = built["iprm-no_average"]
    assert (ablation.config.method["alpha"], list(ablation.space)) == (0.0, ["optimizer.lr"])
    assert ablation.points == [{"optimizer.lr": 0.01}]
    released = built["aug-released"].config
    assert (released.schedule.name, released.method["added_classifiers"]) == ("step", "frozen")
    assert released.method["fusion_weights"] == {"image": 0.6, "audio": 0.4}
    assert ablations_of("iprm") == ["iprm-linear", "iprm-no_average", "iprm-one_pass", "iprm-fixed"]
    assert ablations_of("iprm-linear") == []
    with pytest.raises(UsageError, match="unknown variant of iprm 'liner': did you mean 'linear'"):
        searches(path, "iprm-liner")


def test_a_grid_is_every_combination_of_choices_and_refuses_ranges(tmp_path: Path) -> None:
    space = {"optimizer.lr": {"choice": [0.1, 0.01]}, "trainer.batch_size": {"choice": [32, 64]}}
    path = write(tmp_path, space=space, points=[], methods={})
    search = searches(path, "joint", algorithm="grid")["joint"]
    points = [tuple(point.values()) for point in search.points]
    assert points == [(0.1, 32), (0.1, 64), (0.01, 32), (0.01, 64)]
    assert (search.trials, search.is_grid) == (4, True)
    with pytest.raises(ConfigError, match=r"--search grid needs a choice for optimizer\.lr, not a range"):
        searches(write(tmp_path), "joint", algorithm="grid")


def test_each_fold_is_a_search_of_its_own(tmp_path: Path) -> None:
    options = SearchOptions(protocol={"name": "cv"}, folds=(0, 1, 2))
    built = build_searches(
        load_space(write(tmp_path)), DIGITS, "digits", ("image", "audio"), ("joint",), options=options
    )
    assert [search.name for search in built] == [f"digits-joint/fold-{fold}" for fold in range(3)]
    assert [search.config.protocol.fold for search in built] == [0, 1, 2]


@pytest.mark.parametrize("path", [path for path in SHIPPED if path not in LADDERS], ids=lambda path: path.stem)
def test_every_shipped_space_fits_every_method(path: Path) -> None:
    built = searches(path, *METHODS.names())
    assert {search.trials for search in built.values()} == {load_space(path).file.trials}
    assert all(search.points for search in built.values())


PAPERS = {
    # file: (IPRM's lr, alphas), (AUG's lr, t_N, epochs of its schedule), batch size
    "default": ((0.01, [0.8, 0.7]), (0.01, 20, 200), None),
    "digits": ((0.01, [0.8, 0.7]), (0.01, 20, 200), None),
    "avdigits": ((0.01, [0.8, 0.7]), (0.01, 20, 200), None),
    "cremad": ((0.01, [0.8, 0.7]), (0.01, 20, 200), 64),
    "kinetics_sounds": ((0.01, [0.8, 0.7]), (0.01, 10, 100), 64),
    "iemocap": ((0.001, [0.7]), (0.001, 20, 200), 16),
    "vggsound": ((0.01, [0.8, 0.7]), (0.01, 10, 100), 16),
    "nvgesture": ((0.01, [0.7, 0.8]), (0.01, 10, 100), 2),
    "sarcasm": ((1e-4, [0.7]), (2e-5, 1, 19), 64),
    "twitter15": ((2e-5, [0.7]), (2e-5, 5, 50), 32),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_settings_are_tried_first(name: str) -> None:
    (iprm_lr, alphas), (aug_lr, interval, epochs), batch_size = PAPERS[name]
    path = space_file(name)
    assert path.stem == name
    built = searches(path, "iprm", "aug")
    first = built["iprm"].points[: len(alphas)]
    assert [(point["optimizer.lr"], point["method.alpha"]) for point in first] == [(iprm_lr, a) for a in alphas]
    points = [(p["optimizer.lr"], p["method.check_every_epochs"]) for p in built["aug"].points]
    assert points == [(aug_lr, interval)] * 2
    assert {point["method.residual_weight"] for point in built["aug"].points} == {0.2, 0.5}
    assert built["aug"].config.method["schedule_epochs"] == epochs
    if batch_size:
        assert built["iprm"].config.trainer.batch_size == batch_size


def test_every_shipped_space_of_a_data_set_is_compared_with_the_papers() -> None:
    own = {path.stem for path in SHIPPED if path not in LADDERS} - {"demo"}
    assert {name for name in own if not name.endswith("-encoded")} == set(PAPERS)  # those train the encoders


def test_integers_are_whole_and_in_range() -> None:
    whole = Distribution.parse({"randint": [1, 3]}, "x")
    assert whole.contains(3)
    assert not whole.contains(2.5)
    assert not whole.contains(True)
    assert [whole.decode(code) for code in (1.0, 1.999, 2.0, 3.0, 3.999, 4.0)] == [1, 1, 2, 3, 3, 3]
    assert Distribution.parse({"loguniform": [0.001, 0.1]}, "x").decode(0.10000000000000002) == 0.1


MIXED: list[Any] = [[1, 2], 3, None, {"name": "mlp", "hidden": [8]}, True, 1, "text", []]


@pytest.mark.parametrize("scheduler", ["asha", "pbt"])
@pytest.mark.parametrize("algorithm", ["hyperopt", "random"])
@pytest.mark.parametrize("first", range(len(MIXED)))
def test_a_point_is_tried_as_the_option_it_is_whatever_kind_it_has(
    tmp_path: Path, first: int, algorithm: str, scheduler: str
) -> None:
    points = [{"method.x": MIXED[first], "method.n": 7}, {"method.x": MIXED[first - 1], "method.n": 2}]
    space = {"method.x": {"choice": MIXED}, "method.n": {"lograndint": [2, 7]}}
    found = suggested(tmp_path, space, points, 12, algorithm, scheduler)
    assert json.dumps(found[:2], sort_keys=True) == json.dumps(points, sort_keys=True)  # told apart: true and 1
    assert all(json.dumps(values["method.x"]) in map(json.dumps, MIXED) for values in found)


def suggested(
    folder: Path,
    space: dict[str, Any],
    points: list[dict[str, Any]],
    number: int,
    algorithm: str = "hyperopt",
    scheduler: str = "asha",
) -> list[dict[str, Any]]:
    """Returns the values of a search's first trials, as they reach Tune."""
    base = searches(write(folder), "joint", algorithm=algorithm, scheduler=scheduler, trials=number)["joint"]
    parsed = {path: Distribution.parse(section, path) for path, section in space.items()}
    search = replace(base, space=parsed, points=points, changeable=tuple(space))
    chosen = suggestions_of(search)
    found = []
    for trial in range(1, number + 1):
        found.append(chosen.suggest(trial))
        chosen.complete(trial, 0.5)
    return found


def test_a_search_goes_on_with_options_that_are_no_plain_values(tmp_path: Path) -> None:
    search = searches(write(tmp_path), "joint", trials=9)["joint"]
    search = replace(search, space={"method.x": Distribution.parse({"choice": MIXED}, "x")}, points=[])
    first, second = suggestions_of(search), suggestions_of(search)
    assert [first.suggest(number) for number in range(1, 10)] == [second.suggest(number) for number in range(1, 10)]


NUM_DRAWS = 4000
DRAWN: dict[str, Any] = {
    "uniform": [-1.0, 3.0],
    "loguniform": [0.001, 0.1],
    "randint": [-2, 3],
    "lograndint": [1, 9],
    "choice": [[1, 2], 3, None, {"a": 1}],
}


def probabilities(distribution: Distribution) -> dict[Any, float]:
    """Returns the probability of each value of a distribution with finitely many."""
    ends = distribution.ends()
    if distribution.choice is not None:
        return {json.dumps(option): 1 / len(ends) for option in ends}
    low, high = ends
    if distribution.kind == "randint":
        return dict.fromkeys(range(low, high + 1), 1 / (high + 1 - low))
    whole = math.log((high + 1) / low)
    return {number: math.log((number + 1) / number) / whole for number in range(low, high + 1)}


@pytest.mark.parametrize("kind", DRAWN)
def test_hyperopt_and_draw_agree_over_many_draws(kind: str) -> None:
    """By Kolmogorov and Smirnov's test of floats, and chi-square of what is finite; every end has its share."""
    distribution = Distribution.parse({kind: DRAWN[kind]}, "x")
    drawn = [distribution.draw(np.random.default_rng([7, number])) for number in range(NUM_DRAWS)]
    space = HyperOptSearch.convert_search_space({"x": distribution.to_tune()})
    generator = np.random.default_rng(5)
    by_hyperopt = [distribution.decode(pyll.stochastic.sample(space, generator)["x"]) for _ in range(NUM_DRAWS)]
    assert all(distribution.contains(value) for value in [*drawn, *by_hyperopt])
    if distribution.kind in {"uniform", "loguniform"}:
        assert stats.ks_2samp(drawn, by_hyperopt).pvalue > 0.01
        scale = np.log if kind == "loguniform" else np.asarray
        low, high = (float(scale(end)) for end in distribution.ends())
        for values in (drawn, by_hyperopt):
            assert stats.kstest(scale(values), "uniform", (low, high - low)).pvalue > 0.01
        return
    expected = probabilities(distribution)
    for values in (drawn, by_hyperopt):
        keys = [json.dumps(value) for value in values] if kind == "choice" else values
        counts = [sum(key == one for one in keys) for key in expected]
        assert sum(counts) == NUM_DRAWS
        assert stats.chisquare(counts, [NUM_DRAWS * share for share in expected.values()]).pvalue > 0.01


@pytest.mark.parametrize(("algorithm", "learns"), [("hyperopt", True), ("random", False)])
def test_random_search_does_not_learn_from_results_and_tpe_does(tmp_path: Path, algorithm: str, learns: bool) -> None:
    search = searches(write(tmp_path), "joint", algorithm=algorithm, trials=30)["joint"]

    def suggestions(best: float) -> list[float]:
        """Returns the rates of 30 trials, the nearer to `best` the better they are."""
        chosen = suggestions_of(search)
        found = []
        for number in range(1, 31):
            rate = cast(float, chosen.suggest(number)["optimizer.lr"])
            chosen.complete(number, -abs(math.log10(rate / best)))
            found.append(rate)
        return found

    low, high = suggestions(1e-4), suggestions(1.0)
    assert low[0] == high[0] == 0.01  # the point given
    assert (low != high) == learns
