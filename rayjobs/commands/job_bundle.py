"""What a job takes along: this package and the small files its command names, in a folder for Ray to upload."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import click

import mmcore
import rayjobs
from mmcore.errors import UsageError
from rayjobs.search.spaces import spaces_folder
from rayjobs.storage.addresses import is_address

VERBS = ("prepare", "train", "tune", "compare", "predict", "report")
MAX_BYTES = 100 * 2**20
"""What a job server takes; said before the upload, not after it."""
CARRIED = ("--space", "--config")
"""Options that name a small file, which is taken along where it lies on this machine."""


def check_command(verb: str, arguments: Sequence[str]) -> None:
    """Checks a command as its verb will, before anything is sent.

    Raises:
        UsageError: An unknown verb, or a folder that would be lost with the job.
        click.UsageError: What the verb itself refuses.
    """
    if verb not in VERBS:
        raise UsageError(f"what is submitted begins with one of {', '.join(VERBS)}, got {verb!r}")
    command, own = _command(verb, arguments)
    with command.make_context(f"rayjobs.{verb}", own) as context:
        relative = [parameter.opts[0] for parameter in command.params if _is_relative(parameter, context)]
    if relative:
        raise UsageError(
            f"{', '.join(relative)} must be absolute, on storage all nodes see: a relative path lies in the job's own "
            "folder, which is gone when it ends"
        )


def takes_address(verb: str, arguments: Sequence[str]) -> bool:
    """Tells whether a command joins the cluster itself; a report only reads files there."""
    return any("--address" in parameter.opts for parameter in _command(verb, arguments)[0].params)


def _command(verb: str, arguments: Sequence[str]) -> tuple[click.Command, list[str]]:
    """Returns a verb's command, of `compare` the one its first argument names, and the arguments that are left for it.

    Raises:
        click.UsageError: There is none of that name.
    """
    command: click.Command = importlib.import_module(f"rayjobs.{verb}").main
    if not isinstance(command, click.Group):
        return command, list(arguments)
    with click.Context(command, info_name=f"rayjobs.{verb}") as context:
        if not arguments:
            raise click.UsageError(f"name one of {', '.join(command.list_commands(context))}", context)
        _, found, own = command.resolve_command(context, list(arguments))
    if found is None:
        raise click.UsageError(f"there is no command {arguments[0]}", context)
    return found, own


def pack(folder: Path, arguments: Sequence[str]) -> list[str]:
    """Copies what a job needs into an empty folder; returns its arguments with the files' places there.

    Raises:
        UsageError: It is more than a job server takes.
    """
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in (mmcore, rayjobs):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, folder / source.name, ignore=ignored)
    if not (folder / "rayjobs" / "search_spaces").is_dir():  # a checkout has them beside the package
        shutil.copytree(spaces_folder(), folder / "search_spaces", ignore=ignored)
    packed = _carry_files(folder, arguments)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MAX_BYTES:
        raise UsageError(
            f"a job takes along at most {MAX_BYTES / 2**20:.0f} MiB, this one has {size / 2**20:.0f} MiB: put large "
            "files on storage all nodes see and name them by absolute paths"
        )
    return packed


def _is_relative(parameter: click.Parameter, context: click.Context) -> bool:
    """Tells whether an option names a path, given or by default, that means nothing on another machine."""
    given = context.params.get(parameter.name or "")
    values = [value for value in (given if isinstance(given, tuple) else (given,)) if value is not None]
    if not isinstance(parameter.type, click.Path):  # a data set is a name, or a table's file
        values = [value for value in values if str(value).endswith((".yaml", ".yml"))]
    return parameter.opts[0] not in CARRIED and any(
        not is_address(value) and not Path(value).is_absolute() for value in values
    )


def _carry_files(folder: Path, arguments: Sequence[str]) -> list[str]:
    packed: list[str] = []
    previous = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in CARRIED and equals:
            argument = f"{option}={_carry(folder, value)}"
        elif previous in CARRIED:
            argument = _carry(folder, argument)
        packed.append(argument)
        previous = argument
    return packed


def _carry(folder: Path, value: str) -> str:
    """Returns the place of a file's copy in the folder; a file that is not here must be on the cluster."""
    source = Path(value)
    if not source.is_file():
        return value
    target = folder / "carried" / source.name
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    return str(target.relative_to(folder))
