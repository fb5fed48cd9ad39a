"""From the flags of `train` to a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mmcore.config.sections import set_path
from mmcore.errors import UsageError, unknown_name
from rayjobs.cli.options import parse_overrides

PROTOCOLS = ("group", "holdout", "cv", "paper")


def protocols(arguments: dict[str, Any]) -> list[str | None]:
    """Returns the protocols asked for; [None]: the configuration's own.

    Raises:
        UsageError: One is unknown or named twice, or there are several where one is needed.
    """
    if arguments["protocol"] is None:
        return [None]
    names = [name.strip() for name in arguments["protocol"].split(",")]
    for name in names:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    if len(set(names)) < len(names):
        raise UsageError(f"--protocol names one twice, got {arguments['protocol']!r}")
    if len(names) > 1 and arguments["references"]:
        raise UsageError("--reference is for one protocol: its runs are of one, and are not compared across two")
    return list(names)


def configuration(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration a command line asks for: its file or the paper's, then its own options, then `--set`.

    Raises:
        UsageError: No paper has settings for the data set and method, or they are asked for beside others.
    """
    from rayjobs.preparing.datasets import resolve_dataset

    values: dict[str, Any] = read_config(arguments["config_file"]) if arguments["config_file"] else {}
    name, described = resolve_dataset(arguments["dataset"] or "")
    _choose(values, "dataset", name, "digits")
    if described:
        values["dataset"] = {"name": name, "options": described}
    _choose(values, "method", arguments["method"], "iprm")
    if arguments["as_paper"]:
        _set_paper(values, arguments)
    if arguments["options"]:
        set_path(values, "dataset.options", {**values["dataset"].get("options", {}),
                                             **parse_overrides(arguments["options"])})  # fmt: skip
    if arguments["encoders"] or arguments["views"] is not None:
        _set_encoding(values, arguments["encoders"], arguments["views"])
    if arguments["protocol"]:
        set_path(values, "protocol.name", arguments["protocol"])
        values["protocol"].pop("fold", None)  # a file's fold is of the protocol in the file; by --set one is chosen
    if arguments["split_seed"] is not None:
        set_path(values, "protocol.seed", arguments["split_seed"])
    if arguments["folds"]:
        set_path(values, "protocol.folds", arguments["folds"])
        values["protocol"].pop("fold", None)
    if arguments["max_epochs"]:
        set_path(values, "trainer.max_epochs", arguments["max_epochs"])
    values["seed"] = arguments["seed"]
    if arguments["variant"]:
        _set_variant(values, arguments["variant"])
    for path, value in parse_overrides(arguments["values"], "--set").items():
        set_path(values, path, value)
    return values


def _set_paper(values: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Puts the paper's settings into a configuration; everything the command line says goes before them."""
    from rayjobs.experiment.papers import paper_settings

    for option, given in (("--config", arguments["config_file"]), ("--encode", arguments["encoders"])):
        if given:
            reason = "it is a configuration itself" if option == "--config" else "the papers train their encoders"
            raise UsageError(f"--paper is not for {option}: {reason}; leave out one of them")
    given = parse_overrides(arguments["options"]) | parse_overrides(arguments["values"], "--set")
    is_demo = bool(given.get("demo") or given.get("dataset.options.demo"))
    for setting in paper_settings(values["dataset"]["name"], values["method"]["name"], arguments["variant"]):
        if not (is_demo and setting.is_of_real_data):
            set_path(values, setting.path, setting.value)


def _set_encoding(values: dict[str, Any], encoders: tuple[str, ...], views: int | None) -> None:
    """Puts `--encode` and `--views` into a configuration; encoders of the file stay where none are given."""
    from rayjobs.cli.options import encoding_of

    dataset = values["dataset"]
    if encoders:
        dataset.pop("encoder_sha256", None)  # of those in the file
        dataset |= encoding_of(encoders, views)
    elif dataset.get("encode"):
        dataset["views"] = views
    else:
        encoding_of((), views)


def _set_variant(values: dict[str, Any], variant: str) -> None:
    """Puts all settings of a method's variant into a configuration; `--set` still goes before them."""
    from mmcore.assembly.config import variant_settings
    from rayjobs.preparing.datasets import source_modalities

    dataset = values["dataset"]
    modalities = source_modalities(dataset["name"], dataset.get("options", {}))
    for path, value in variant_settings(values["method"]["name"], variant, modalities).items():
        set_path(values, path, value)


def read_config(path: Path) -> dict[str, Any]:
    """Returns a configuration file's content, YAML or JSON.

    Raises:
        UsageError: It is missing, or no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"--config {path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is no YAML file ({error})") from None
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold a mapping, as tune's best-*.yaml does, got {json.dumps(values)}")
    return values


def _choose(values: dict[str, Any], section: str, given: str | None, default: str) -> None:
    """Sets a section's name; another plug-in than the file's takes its own defaults."""
    name = values.get(section, {}).get("name")
    if given and given != name:
        values[section] = {"name": given}
    elif not name:
        values[section] = {"name": default}
