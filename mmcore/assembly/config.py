"""Completes and checks configurations: fills in the plug-ins' own settings, and the data set's choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from pydantic import ValidationError

from mmcore.config.problems import describe_problems
from mmcore.config.schema import DatasetConfig, RunConfig, unreachable_floor
from mmcore.config.sections import get_path, json_plain, parse_section, set_path
from mmcore.data.spec import DATASETS, DatasetSource
from mmcore.errors import ConfigError, UsageError, unknown_name
from mmcore.features.frozen import recipe_of
from mmcore.methods.base import METHODS
from mmcore.transforms.batch_transforms import build_transforms


def build_source(config: RunConfig) -> DatasetSource:
    """Returns the source of the configuration's data set, with its options."""
    return _source_of({"name": config.dataset.name, "options": config.dataset.options})


def complete_config(config: RunConfig) -> RunConfig:
    """Returns the configuration with the data set's own choices (encoders, transforms) written out.

    Raises:
        ConfigError: An encoder or transform of a modality the data set does not have, among others.
    """
    source, data = build_source(config), config.to_dict()
    encoders = default_encoders(source, config.dataset)
    data["model"]["encoders"] = {**encoders, **data["model"]["encoders"]}
    defaults, given = source.default_transforms(), data["dataset"]["transforms"]
    data["dataset"]["transforms"] = {
        name: {**defaults.get(name, {}), **given.get(name, {})} for name in dict.fromkeys([*defaults, *given])
    }
    completed = parse_config(data)
    build_transforms(source.spec(), {}, completed.dataset.transforms)
    return completed


def default_encoders(source: DatasetSource, dataset: DatasetConfig) -> dict[str, dict[str, Any]]:
    """Returns modality -> section of what is trained: the data set's own choice, on stored features a small one."""
    frozen = recipe_of(dataset, source.spec()).default_encoders() if dataset.encode else {}
    return {**source.default_encoders(), **frozen}


def with_named_encoders(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping for `parse_config` in which an encoder's section without a name is the data set's own one.

    So `{"model": {"encoders": {"image": {"width": 8}}}}` changes one key and keeps the others. A frozen encoder
    (`dataset.encode`) of the name the data set itself has takes the data set's settings, too.
    """
    if not isinstance(get_path(values, "dataset.name"), str):
        return dict(values)  # told by `parse_config`
    dataset = with_named_frozen(values["dataset"])
    given = get_path(values, "model.encoders")
    if not _are_sections(given):
        return {**values, "dataset": dataset}
    source = _source_of(dataset)
    frozen = dataset.get("encode")
    is_needed = _are_sections(frozen) and any(name in given and "name" not in given[name] for name in frozen)
    defaults = default_encoders(source, parse_dataset(dataset)) if is_needed else source.default_encoders()
    encoders = {
        name: section if "name" in section else {**defaults.get(name, {}), **section} for name, section in given.items()
    }
    return {**values, "dataset": dataset, "model": {**values["model"], "encoders": encoders}}


def with_named_frozen(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a `dataset` section whose frozen encoders have the data set's own settings where it has the same ones."""
    given = dataset.get("encode")
    if not _are_sections(given) or not isinstance(dataset.get("name"), str):
        return dict(dataset)
    own = _source_of(dataset).default_encoders()
    encode = {}
    for name, section in given.items():
        default = own.get(name, {})
        is_same = isinstance(section, Mapping) and section.get("name", default.get("name")) == default.get("name")
        encode[name] = {**default, **section} if is_same else section
    return {**dataset, "encode": encode}


def _are_sections(given: Any) -> TypeGuard[Mapping[str, Mapping[str, Any]]]:
    """Tells whether something is a mapping of mappings, and not empty; what is none is told by `parse_config`."""
    return isinstance(given, Mapping) and bool(given) and all(isinstance(one, Mapping) for one in given.values())


def variant_settings(method: str, variant: str, modalities: Sequence[str]) -> dict[str, Any]:
    """Returns what a method's named variant sets: path of the configuration -> value.

    Raises:
        UsageError: The method has no variant of that name; lists those it has.
    """
    known = METHODS.get(method).variants(modalities)
    if variant not in known:
        raise unknown_name(f"variant of {method}", variant, list(known))
    return known[variant]


def variants_of(config: RunConfig, modalities: Sequence[str]) -> list[str]:
    """Returns the names of the method's variants whose every setting a configuration has."""
    values = config.to_dict()
    known = METHODS.get(config.method["name"]).variants(modalities)
    return [
        name
        for name, settings in known.items()
        if all(get_path(values, path) == value for path, value in settings.items())
    ]


def _source_of(dataset: Mapping[str, Any]) -> DatasetSource:
    source = DATASETS.get(dataset["name"])
    return source(parse_section(source.Config, dataset.get("options", {}), "dataset.options"))


def parse_config(data: Mapping[str, Any]) -> RunConfig:
    """Validates a mapping and fills in every default, the plug-ins' own included.

    Raises:
        ConfigError: Lists all problems: unknown keys with the nearest known one, values out of range,
            unknown data set, method or encoder, values JSON cannot hold.
    """
    if not isinstance(data, Mapping):
        raise ConfigError([f"a configuration must be a mapping, got {data!r}"])
    filled = json.loads(json.dumps(dict(data), default=json_plain))
    problems = _fill_plugins(filled)
    try:
        config = RunConfig.model_validate(filled)
    except ValidationError as error:
        problems = describe_problems(error, RunConfig) + problems
    else:
        problems += unreachable_floor(config)
    if problems:
        raise ConfigError(problems)
    return config


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Returns a configuration with `values` (path -> value, as in `optimizer.lr`) set in it.

    Raises:
        ConfigError: Lists every problem of the result.
    """
    data = config.to_dict()
    for path, value in values.items():
        set_path(data, path, value)
    return parse_config(data)


def parse_dataset(data: Mapping[str, Any]) -> DatasetConfig:
    """Validates a `dataset` section alone and fills in every default, the plug-ins' own included.

    Raises:
        ConfigError: Lists every problem.
    """
    return parse_config({"dataset": dict(data), "method": {"name": "joint"}}).dataset


def _fill_plugins(data: dict[str, Any]) -> list[str]:
    """Completes the plug-ins' sections of `data` in place; returns the problems found there."""
    from mmcore.data.spec import DATASETS
    from mmcore.encoders import ENCODERS
    from mmcore.methods import METHODS

    problems: list[str] = []

    def fill(section: Any, registry: Any, path: str, options_key: str | None = None) -> None:
        if not isinstance(section, dict) or (options_key and not isinstance(section.get("name"), str)):
            return  # described with the run's own keys
        if not isinstance(section.get("name"), str):
            problems.append(f"{path}.name must be the name of a known {registry.kind}, got {section.get('name')!r}")
            return
        try:
            plugin = registry.get(section["name"])
            if options_key is None:
                values = {key: value for key, value in section.items() if key != "name"}
                section.update(parse_section(plugin.Config, values, path).model_dump(mode="json"))
            elif isinstance(section.setdefault(options_key, {}), dict):
                filled = parse_section(plugin.Config, section[options_key], f"{path}.{options_key}")
                section[options_key] = filled.model_dump(mode="json")
        except ConfigError as error:
            problems.extend(error.problems)
        except UsageError as error:
            problems.append(f"{path}.name: {error}")

    if "dataset" in data:
        fill(data["dataset"], DATASETS, "dataset", options_key="options")
    if "method" in data:
        fill(data["method"], METHODS, "method")
    dataset = data.get("dataset")
    frozen = dataset.get("encode") if isinstance(dataset, dict) else None
    for modality, section in (frozen if isinstance(frozen, dict) else {}).items():
        fill(section, ENCODERS, f"dataset.encode.{modality}")
    model = data.get("model")
    encoders = model.get("encoders") if isinstance(model, dict) else None
    for modality, section in (encoders if isinstance(encoders, dict) else {}).items():
        fill(section, ENCODERS, f"model.encoders.{modality}")
    return problems
