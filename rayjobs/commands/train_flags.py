"""From the flags of `train` to a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from mmcore.config.documents import read_yaml
from mmcore.config.plain import Plain
from mmcore.config.sections import get_path, set_path
from mmcore.errors import ConfigError, UsageError, unknown_name
from rayjobs.cli.options import parse_overrides

PROTOCOLS = ("group", "holdout", "cv", "paper")


class TrainFlags(TypedDict):
    """The flags of `train`, by click's names for them; `python -m rayjobs.train --help` says what each means."""

    config_file: Path | None
    dataset: str | None
    method: str | None
    variant: str | None
    options: tuple[str, ...]
    values: tuple[str, ...]
    encoders: tuple[str, ...]
    views: int | None
    as_paper: bool
    protocol: str | None
    split_seed: int | None
    folds: int | None
    max_epochs: int | None
    seed: int
    seeds: int
    workers: int | None
    gpus_per_worker: float | None
    cache: str
    missing: str | None
    noises: tuple[str, ...]
    shapley: bool
    references: tuple[Path, ...]
    raw_dir: Path | None
    vocab: Path | None
    data_dir: Path
    output: Path | str
    name: str | None
    resume: bool
    address: str | None
    verbose: bool
    as_json: bool


def protocols(flags: TrainFlags) -> list[str | None]:
    """Returns the protocols asked for; [None]: the configuration's own.

    Raises:
        UsageError: One is unknown or named twice, or there are several where one is needed.
    """
    if flags["protocol"] is None:
        return [None]
    names = [name.strip() for name in flags["protocol"].split(",")]
    for name in names:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    if len(set(names)) < len(names):
        raise UsageError(f"--protocol names one twice, got {flags['protocol']!r}")
    if len(names) > 1 and flags["references"]:
        raise UsageError("--reference is for one protocol: its runs are of one, and are not compared across two")
    return list(names)


def configuration(flags: TrainFlags) -> dict[str, Plain]:
    """Returns the configuration a command line asks for: its file or the paper's, then its own options, then `--set`.

    Raises:
        UsageError: No paper has settings for the data set and method, or they are asked for beside others.
    """
    from rayjobs.preparing.datasets import resolve_dataset

    values = read_config(flags["config_file"]) if flags["config_file"] else {}
    _check_sections(values)
    name, described = resolve_dataset(flags["dataset"] or "")
    _choose(values, "dataset", name, "digits")
    if described:
        values["dataset"] = {"name": name, "options": described}
    _choose(values, "method", flags["method"], "iprm")
    if flags["as_paper"]:
        _set_paper(values, flags)
    if flags["options"]:
        given = get_path(values, "dataset.options") or {}
        set_path(values, "dataset.options", {**given, **parse_overrides(flags["options"])})
    if flags["encoders"] or flags["views"] is not None:
        _set_encoding(values, flags["encoders"], flags["views"])
    if flags["protocol"]:
        set_path(values, "protocol.name", flags["protocol"])
        _drop(values, "protocol", "fold")  # a file's fold is of the protocol in the file; by --set one is chosen
    if flags["split_seed"] is not None:
        set_path(values, "protocol.seed", flags["split_seed"])
    if flags["folds"]:
        set_path(values, "protocol.folds", flags["folds"])
        _drop(values, "protocol", "fold")
    if flags["max_epochs"]:
        set_path(values, "trainer.max_epochs", flags["max_epochs"])
    values["seed"] = flags["seed"]
    if flags["variant"]:
        _set_variant(values, flags["variant"])
    for path, value in parse_overrides(flags["values"], "--set").items():
        set_path(values, path, value)
    return values


def _check_sections(values: dict[str, Plain]) -> None:
    """Raises a ConfigError where a file has something else for a section that the command line adds to."""
    problems = []
    for path in ("dataset", "dataset.options", "method", "protocol", "trainer"):
        found = get_path(values, path)
        if found is not None and not isinstance(found, Mapping):
            hint = f"; write {path}: {{name: {found}}}" if path in {"dataset", "method"} else ""
            problems.append(f"--config: {path} must be a mapping, got {found!r}{hint}")
    if problems:
        raise ConfigError(problems)


def _set_paper(values: dict[str, Plain], flags: TrainFlags) -> None:
    """Puts the paper's settings into a configuration; everything the command line says goes before them."""
    from rayjobs.experiment.papers import paper_settings

    for option, is_given in (("--config", flags["config_file"] is not None), ("--encode", bool(flags["encoders"]))):
        if is_given:
            reason = "it is a configuration itself" if option == "--config" else "the papers train their encoders"
            raise UsageError(f"--paper is not for {option}: {reason}; leave out one of them")
    given = parse_overrides(flags["options"]) | parse_overrides(flags["values"], "--set")
    is_demo = bool(given.get("demo") or given.get("dataset.options.demo"))
    for setting in paper_settings(*_names(values), flags["variant"]):
        if not (is_demo and setting.is_of_real_data):
            set_path(values, setting.path, setting.value)


def _set_encoding(values: dict[str, Plain], encoders: tuple[str, ...], views: int | None) -> None:
    """Puts `--encode` and `--views` into a configuration; encoders of the file stay where none are given."""
    from rayjobs.cli.options import encoding_of

    if encoders:
        _drop(values, "dataset", "encoder_sha256")  # of those in the file
        for key, value in encoding_of(encoders, views).items():
            set_path(values, f"dataset.{key}", value)
    elif get_path(values, "dataset.encode"):
        set_path(values, "dataset.views", views)
    else:
        encoding_of((), views)


def _set_variant(values: dict[str, Plain], variant: str) -> None:
    """Puts all settings of a method's variant into a configuration; `--set` still goes before them."""
    from mmcore.assembly.config import variant_settings
    from rayjobs.preparing.datasets import source_modalities

    dataset, method = _names(values)
    modalities = source_modalities(dataset, get_path(values, "dataset.options") or {})
    for path, value in variant_settings(method, variant, modalities).items():
        set_path(values, path, value)


def read_config(path: Path) -> dict[str, Plain]:
    """Returns a configuration file's content, YAML or JSON.

    Raises:
        UsageError: It is missing, or no mapping.
    """
    try:
        return read_yaml(path)
    except ConfigError as error:
        raise ConfigError([f"--config {problem}" for problem in error.problems]) from None
    except UsageError as error:
        raise UsageError(f"--config {error}") from None


def _choose(values: dict[str, Plain], section: str, given: str | None, default: str) -> None:
    """Sets a section's name; another plug-in than the file's takes its own defaults."""
    name = get_path(values, f"{section}.name")
    if given and given != name:
        values[section] = {"name": given}
    elif not name:
        values[section] = {"name": default}


def _drop(values: dict[str, Plain], section: str, key: str) -> None:
    """Takes a key out of a section, where it stands there."""
    found = values.get(section)
    if isinstance(found, Mapping):
        values[section] = {name: value for name, value in found.items() if name != key}


def _names(values: dict[str, Plain]) -> tuple[str, str]:
    """Returns the names of the data set and of the method."""
    return str(get_path(values, "dataset.name")), str(get_path(values, "method.name"))
