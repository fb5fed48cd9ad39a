"""The experiment that a `tune` command begins, or goes on with.

`--resume NAME` goes on as it was begun: an option that says otherwise would be ignored, so it is refused, with the
difference. Options that decide only where and how fast it is computed may be new.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click
from click.core import ParameterSource

from mmcore.config.plain import Plain
from mmcore.errors import UsageError
from rayjobs.commands.disk import NOT_KNOWN, check_room, disk_need
from rayjobs.commands.tune_flags import TuneFlags, request_of
from rayjobs.experiment.experiment import (
    Experiment,
    find_experiment,
    new_experiment,
    resume_experiment,
    unfinished_twins,
)
from rayjobs.experiment.machine import Machine
from rayjobs.experiment.plan import check_request
from rayjobs.experiment.request import Request
from rayjobs.results_layout import EXPERIMENT_FILE, RANKING_FILE
from rayjobs.storage.addresses import open_mirror

OPTIONS = {
    "datasets": "--dataset", "methods": "--method and --ablations", "reference": "--reference",
    "options": "--option and --demo", "dataset": "--encode, --views and --set", "values": "--set",
    "protocol": "--protocol, --split-seed and --folds", "algorithm": "--search", "min_workers": "--workers",
}  # fmt: skip
"""Field of a request -> the options that decide it, where they are called otherwise."""


TOUCHED = {
    "datasets": ("datasets", "options"), "methods": ("methods",), "ablations": ("methods",),
    "demo": ("options",), "encoders": ("dataset",), "views": ("dataset",), "values": ("values", "dataset"),
    "split_seed": ("protocol",), "folds": ("protocol",), "workers": ("workers", "min_workers"),
}  # fmt: skip
"""Flag -> the fields it decides, where these are others than the one of its name."""


def experiment_of(flags: TuneFlags, machine: Machine) -> Experiment:
    """Returns the experiment to run: a new one, or the one to resume."""
    mirror = open_mirror(flags["output"])
    mirror.pull_index((EXPERIMENT_FILE, RANKING_FILE))
    experiment = replace(_experiment_in(mirror.root, flags, machine), keep=flags["keep"])
    return replace(experiment, mirror=mirror) if mirror else experiment


def _experiment_in(output: Path, flags: TuneFlags, machine: Machine) -> Experiment:
    name = flags["name"]
    if flags["resume"]:
        if flags["name"] and flags["name"] != flags["resume"]:
            raise UsageError(f"--resume {flags['resume']} and --name {flags['name']} name two experiments")
        found = find_experiment(output, flags["resume"])
        _check_resumed(flags, found.request, found.name)
        return found
    request = request_of(flags)
    if flags["resume"] is not None:
        return resume_experiment(request, output, name)
    searches = check_request(request, machine)  # before a folder is made for it
    need = disk_need(searches, request, flags["keep"])
    if need is not None and not flags["force"]:
        check_room(need, output)
    click.echo(f"note: {need.describe(output) if need else NOT_KNOWN}", err=True)
    experiment = new_experiment(request, output, name, shlex.join(["python", "-m", "rayjobs.tune", *sys.argv[1:]]))
    for twin in unfinished_twins(experiment):
        click.echo(f"note: {twin} is unfinished; --resume {twin} continues it", err=True)
    return experiment


def resumed_request(output: Path, flags: TuneFlags) -> Request:
    """Returns the request of the experiment that `--resume NAME` names.

    Raises:
        UsageError: There is none, or an option says something else.
    """
    found = find_experiment(output, str(flags["resume"]))
    _check_resumed(flags, found.request, found.name)
    return found.request


def _check_resumed(flags: TuneFlags, stored: Request, name: str) -> None:
    """Raises a UsageError where an option that was typed says something else than the experiment that is resumed."""
    context = click.get_current_context(silent=True)
    typed = {flag for flag in flags if context and context.get_parameter_source(flag) is ParameterSource.COMMANDLINE}
    known = {field.name for field in dataclasses.fields(stored)}
    fields = {field for flag in typed for field in TOUCHED.get(flag, (flag,)) if field in known}
    if not fields:
        return
    wanted = request_of(cast(TuneFlags, flags | {flag: value for flag, value in _flags_of(stored).items()
                                                 if flag not in typed}))  # fmt: skip
    problems = [
        f"{OPTIONS.get(field, '--' + field.replace('_', '-'))}: {difference}"
        for field in sorted(fields)
        for difference in _differences(getattr(stored, field), getattr(wanted, field))
    ]
    if problems:
        raise UsageError(
            f"--resume {name} goes on as it was begun, so these options would be ignored: leave them out, or begin a "
            f"new experiment without --resume ({'; '.join(problems)})"
        )


def _flags_of(stored: Request) -> dict[str, Any]:
    """Returns the flags of a request, as far as others are refused without them."""
    encoders = stored.dataset.get("encode")
    sections = encoders if isinstance(encoders, Mapping) else {}
    return {
        "datasets": stored.datasets,
        "methods": stored.methods,
        "reference": stored.reference or "none",
        "encoders": tuple(f"{name}={one.get('name')}" for name, one in sections.items() if isinstance(one, Mapping)),
        "protocol": stored.protocol.get("name", "default"),
        "algorithm": stored.algorithm,
        "scheduler": stored.scheduler,
        "trials": stored.trials,
    }


def _differences(stored: Plain, wanted: Plain) -> list[str]:
    """Returns what was said otherwise: of a mapping only by the keys that are wanted, of names in any order."""
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        return [
            f"{key} was {_text(stored.get(key))}, not {_text(value)}"
            for key, value in wanted.items()
            if stored.get(key) != value
        ]
    if isinstance(wanted, Sequence) and isinstance(stored, Sequence) and not isinstance(wanted, str):
        stored, wanted = sorted(map(str, stored)), sorted(map(str, wanted))
    return [] if stored == wanted else [f"was {_text(stored)}, not {_text(wanted)}"]


def _text(value: Plain) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "not said" if value is None else str(value)
