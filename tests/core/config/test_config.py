from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt

from mmcore.assembly.config import parse_config, with_values
from mmcore.config.schema import OptimizerConfig
from mmcore.config.sections import Section, parse_section, set_path
from mmcore.data.spec import DATASETS
from mmcore.encoders import ENCODERS
from mmcore.errors import ConfigError
from mmcore.methods import METHODS


def _data(**changes: Any) -> dict[str, Any]:
    return {"dataset": {"name": "digits"}, "method": {"name": "iprm"}} | changes


def _problems(data: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    return caught.value.problems


def _known(registry: Any) -> str:
    return ", ".join(registry.names())


def test_defaults_are_filled_in_those_of_plugins_too() -> None:
    config = parse_config(_data(model={"encoders": {"image": {"name": "small_conv", "width": 8}}}))
    assert config.optimizer.lr == 0.01
    assert config.method["alpha"] == METHODS.get("iprm").Config().alpha
    assert set(config.dataset.options) == set(DATASETS.get("digits").Config.model_fields)
    assert config.model.encoders["image"] == {"name": "small_conv", "width": 8, "features": 64, "depth": 4}


def test_what_is_written_is_read_back() -> None:
    config = parse_config(_data(optimizer={"lr": 0.1}, trainer={"threads": 2}))
    again = parse_config(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.fingerprint() == config.fingerprint()


def test_fingerprints_tell_configurations_apart() -> None:
    config = parse_config(_data())
    assert len(config.fingerprint()) == 12
    assert int(config.fingerprint(), 16) >= 0
    assert parse_config(_data(optimizer={"lr": 0.01, "momentum": 0.9}, seed=0)).fingerprint() == config.fingerprint()
    assert parse_config({"method": {"name": "iprm"}, "dataset": {"name": "digits"}}).fingerprint() == (
        config.fingerprint()
    )
    others = [{"seed": 1}, {"method.alpha": 0.123}, {"dataset.options.seed": 1}, {"model.projection_dim": 3}]
    prints = {with_values(config, values).fingerprint() for values in others}
    assert len(prints | {config.fingerprint()}) == 5


def test_with_values_sets_paths_and_leaves_the_original() -> None:
    config = parse_config(_data())
    changed = with_values(config, {"optimizer.lr": 0.5, "method.alpha": 0.25, "model.encoders.image.name": "resnet18"})
    assert (changed.optimizer.lr, changed.method["alpha"]) == (0.5, 0.25)
    assert changed.model.encoders == {"image": {"name": "resnet18", "weights": "none", "size": "18"}}
    assert config.optimizer.lr == 0.01
    assert with_values(config, {}) == config


def test_with_values_takes_what_searches_hand_over() -> None:
    values = {"optimizer.lr": np.float32(0.5), "trainer.batch_size": np.int64(32), "seed": torch.tensor(3)}
    config = with_values(parse_config(_data()), values)
    assert (config.optimizer.lr, config.trainer.batch_size, config.seed) == (0.5, 32, 3)
    assert type(config.trainer.batch_size) is int


def test_with_values_checks_what_it_sets() -> None:
    config = parse_config(_data())
    with pytest.raises(ConfigError) as caught:
        with_values(config, {"optimizer.lr": 0, "optimiser.lr": 1, "method.alpha": 1.7})
    assert caught.value.problems == [
        "optimizer.lr must be in (0, 10], got 0",
        "unknown key 'optimiser': did you mean 'optimizer'? "
        "known: dataset, method, model, optimizer, protocol, schedule, seed, trainer",
        "method.alpha must be in [0, 1], got 1.7",
    ]
    with pytest.raises(ConfigError, match=r"^cannot set 'seed.x': seed is 0, not a mapping$"):
        with_values(config, {"seed.x": 1})


def test_set_path_makes_the_mappings_on_the_way() -> None:
    data: dict[str, Any] = {"a": {"b": 1}}
    set_path(data, "a.c.d", 2)
    set_path(data, "e", 3)
    assert data == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optimizer": {"momentum": 1}}, "optimizer.momentum must be in [0, 1), got 1"),
        ({"optimizer": {"clip_norm": 0}}, "optimizer.clip_norm must be greater than 0, got 0"),
        ({"trainer": {"max_epochs": 0}}, "trainer.max_epochs must be in [1, 1000000], got 0"),
        ({"trainer": {"log_every_steps": -1}}, "trainer.log_every_steps must be in [1, 1000000000], got -1"),
        ({"trainer": {"max_epochs": 3.5}}, "trainer.max_epochs must be a valid integer, got 3.5"),
        ({"trainer": {"probes": "maybe"}}, "trainer.probes must be a valid boolean, got 'maybe'"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr must be a valid number, got 'fast'"),
        ({"optimizer": {"lr": None}}, "optimizer.lr must be a valid number, got None"),
        ({"optimizer": {"clip_norm": float("inf")}}, "optimizer.clip_norm must be a finite number, got inf"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr must be a finite number, got nan"),
        ({"optimizer": {"name": "sdg"}}, "optimizer.name must be 'sgd', 'adam' or 'adamw', got 'sdg'"),
        ({"optimizer": 0.1}, "optimizer must be a mapping, got 0.1"),
        ({"seed": -1}, "seed must be in [0, 2000000000], got -1"),
        ({"protocol": {"folds": 4, "fold": 4}}, "protocol.fold must be less than folds (4), got 4"),
        ({"trainer": {"epochs": 3}}, "unknown key 'trainer.epochs': did you mean 'max_epochs'? known: "),
        ({"dataset": {"name": "digits", "option": {}}},
         "unknown key 'dataset.option': did you mean 'options'? known: "),
        ({"dataset": {"name": "digts"}}, "dataset.name: unknown data set 'digts': did you mean 'digits'? known: "),
        ({"dataset": {"name": "digits", "options": {"image_nois": 1}}},
         "unknown key 'dataset.options.image_nois': did you mean 'image_noise'? known: "),
        ({"optimizer": {"lr": 0.01}, "schedule": {"min_lr": 0.1}},
         "schedule.min_lr must be at most optimizer.lr (0.01), got 0.1"),
        ({"schedule": {"min_lr": -1e-9}}, "schedule.min_lr must be at least 0, got -1e-09"),
        ({"dataset": {"name": "digits", "options": {"image_noise": -1}}},
         "dataset.options.image_noise must be in [0, 1], got -1"),
        ({"dataset": {"name": "digits", "options": []}}, "dataset.options must be a mapping, got []"),
        ({"dataset": {"options": {}}}, "dataset.name is required"),
        ({"dataset": {"name": 3}}, "dataset.name must be a valid string, got 3"),
        ({"dataset": "digits"}, "dataset must be a mapping, got 'digits'"),
        ({"method": "iprm"}, "method must be a mapping, got 'iprm'"),
        ({"method": {"alpha": 1}}, "method.name must be the name of a known method, got None"),
        ({"method": {"name": "iprn"}}, "method.name: unknown method 'iprn': did you mean 'iprm'? known: "),
        ({"method": {"name": "iprm", "alpa": 1}}, "unknown key 'method.alpa': did you mean 'alpha'? known: "),
        ({"method": {"name": "iprm", "inference_weight": 3}},
         "method.inference_weight must be 'last' or 'next', or in [0, 1], got 3"),
        ({"model": {"encoders": ["small_conv"]}}, "model.encoders must be a mapping, got ['small_conv']"),
        ({"model": {"encoders": {"image": "small_conv"}}},
         "model.encoders.image must be a mapping, got 'small_conv'"),
        ({"model": {"encoders": {"image": {"width": 3}}}},
         "model.encoders.image.name must be the name of a known encoder, got None"),
        ({"model": {"encoders": {"image": {"name": "resnet81"}}}},
         "model.encoders.image.name: unknown encoder 'resnet81': did you mean 'resnet18'? known: "),
        ({"model": {"encoders": {"image": {"name": "small_conv", "depth": 9}}}},
         "model.encoders.image.depth must be in [1, 6], got 9"),
    ],
)  # fmt: skip
def test_each_problem_is_one_sentence(changes: dict[str, Any], problem: str) -> None:
    (message,) = _problems(_data(**changes))
    # What is known differs with every method and data set added.
    assert message.startswith(problem) if problem.endswith("known: ") else message == problem


def test_known_names_are_all_listed() -> None:
    (message,) = _problems(_data(method={"name": "zzz"}))
    assert message == f"method.name: unknown method 'zzz'; known: {_known(METHODS)}"
    (message,) = _problems(_data(model={"encoders": {"image": {"name": "?"}}}))
    assert message == f"model.encoders.image.name: unknown encoder '?'; known: {_known(ENCODERS)}"


def test_all_problems_are_reported_at_once() -> None:
    problems = _problems({
        "dataset": {"name": "digts"},
        "method": {"name": "iprm", "alpha": -1, "x": 1},
        "optimizer": {"lr": 0, "momentum": 2},
        "seeds": 3,
        "model": {"encoders": {"image": {"name": "small_conv", "width": 0}}},
    })  # fmt: skip
    keys = ["optimizer.lr", "optimizer.momentum", "'seeds'", "dataset.name", "method.alpha", "'method.x'",
            "model.encoders.image.width"]  # fmt: skip
    assert len(problems) == len(keys)
    assert all(key in problem for key, problem in zip(keys, problems, strict=True))


def test_missing_sections() -> None:
    assert _problems({}) == ["dataset is required", "method is required"]


@pytest.mark.parametrize("data", [None, ["a"], "digits", 3])
def test_what_is_no_mapping(data: Any) -> None:
    assert _problems(data) == [f"a configuration must be a mapping, got {data!r}"]


def test_values_that_cannot_be_written() -> None:
    path = Path("x")
    assert _problems(_data(seed=path)) == [f"a configuration holds numbers, texts, lists and mappings, got {path!r}"]


def test_parse_does_not_change_its_argument() -> None:
    data = _data(dataset={"name": "digits", "options": {}})
    parse_config(data)
    assert data == _data(dataset={"name": "digits", "options": {}})


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        OptimizerConfig().lr = 1


class _Inner(Section):
    share: Annotated[float, Ge(0), Lt(1)] = 0


class _Outer(Section):
    inner: _Inner = _Inner()
    pair: tuple[Annotated[float, Gt(0)], ...] = ()
    either: Literal["all"] | Annotated[int, Ge(1), Le(9)] = "all"
    at_most: Annotated[int, Le(5)] = 0
    below: Annotated[float, Lt(5)] = 0


def test_parse_section_names_the_whole_path() -> None:
    values = {"inner": {"share": 1, "shar": 0}, "pair": [1, 0], "either": 10, "at_most": 6, "below": 5}
    with pytest.raises(ConfigError) as caught:
        parse_section(_Outer, values, "method")
    assert caught.value.problems == [
        "method.inner.share must be in [0, 1), got 1",
        "unknown key 'method.inner.shar': did you mean 'share'? known: share",
        "method.pair.1 must be greater than 0, got 0",
        "method.either must be 'all', or in [1, 9], got 10",
        "method.at_most must be at most 5, got 6",
        "method.below must be less than 5, got 5",
    ]


def test_section_without_keys() -> None:
    with pytest.raises(ConfigError, match=r"^unknown key 'method.alpha': nothing can be set here$"):
        parse_section(Section, {"alpha": 1}, "method")


def test_errors_read_well_and_survive_pickling() -> None:
    one, two = ConfigError(["a is required"]), ConfigError(["a is required", "b must be 1, got 2"])
    assert str(one) == "a is required"
    assert str(two) == "2 problems:\n  - a is required\n  - b must be 1, got 2"
    assert str(pickle.loads(pickle.dumps(two))) == str(two)
    assert one.exit_code == 2
