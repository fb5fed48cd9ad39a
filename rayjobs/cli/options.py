"""What every command shares: errors as one message and an exit code, and `key=value` on the command line."""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.markup import escape

from mmcore.config.documents import parse_yaml
from mmcore.config.plain import Plain, Settings
from mmcore.config.sections import get_path, set_path
from mmcore.errors import ConfigError, EquipoiseError, UsageError
from rayjobs.cli.ending import EXIT_CODE, as_interrupt

EXPONENT_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
LONGEST_S = 10 * 366 * 86_400.0
P = ParamSpec("P")
R = TypeVar("R")


def friendly_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Gives a command the option `--debug` and ends it with one message and an exit code where it fails.

    Errors this project raises on purpose end with their own `exit_code`; those of the operating system and
    what nobody foresaw with 1. With `--debug` the traceback is printed before the message. Ctrl-C and SIGTERM end it
    with 130.
    """

    @click.option("--debug", is_flag=True, help="Print the traceback of an error.")
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        debug = kwargs.pop("debug")  # the command itself does not take it
        try:
            with as_interrupt():
                _check_texts(click.get_current_context())
                return function(*args, **kwargs)
        except KeyboardInterrupt:
            click.echo("interrupted; what was finished is kept, and the same command does the rest", err=True)
            sys.exit(EXIT_CODE)
        except (click.exceptions.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 (the command's outermost frame)
            console = Console(stderr=True, highlight=False, soft_wrap=True)
            if debug:
                console.print_exception()
            console.print(f"[bold red]error:[/] {escape(describe_error(error))}")
            sys.exit(error.exit_code if isinstance(error, EquipoiseError) else 1)

    return run


def _check_texts(context: click.Context) -> None:
    """Raises a UsageError where an argument is empty, which would be taken for none, or is no text.

    Bytes that are not UTF-8 come as half characters, which cannot be printed or stored.
    """
    for parameter in context.command.params:
        given = context.params.get(parameter.name or "")
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, (str, Path)) and not _is_text(str(value)):
                raise UsageError(f"{parameter.opts[0]} must be UTF-8, got {str(value)!a}")
            if isinstance(value, Path):
                _check_links(value, parameter.opts[0])
            if value == "" and getattr(parameter, "flag_value", None) != "":
                raise UsageError(f"{parameter.opts[0]} must not be empty; leave it out for the default")


def _check_links(path: Path, option: str) -> None:
    try:
        path.resolve()
    except (RuntimeError, OSError):  # Python 3.13 on: an OSError
        raise UsageError(f"{option} {path}: its symbolic links lead in a circle") from None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_error(error: Exception) -> str:
    """Returns what the user must know of an error, without its traceback."""
    if isinstance(error, MemoryError):
        return "this takes more memory than there is: make what was asked for smaller"
    if isinstance(error, (EquipoiseError, OSError)):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)"


def parse_overrides(pairs: Iterable[str], option: str = "--option") -> dict[str, Plain]:
    """Returns `key=value` arguments as a mapping; values are YAML, so `1e-3`, `true`, `null` and `[1, 2]` work.

    Args:
        pairs: As given on the command line.
        option: What they were given with, for the messages.

    Raises:
        ConfigError: Lists every argument without "=", with a value that is not valid YAML, or whose key came before.
    """
    values: dict[str, Any] = {}
    problems = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            problems.append(f"{option} must be key=value, got {pair!r}")
        elif key.strip() in values:
            problems.append(f"{option} {key.strip()} is given twice")
        else:
            try:
                values[key.strip()] = parse_scalar(text)
            except UsageError as error:
                problems.append(f"{option} {key.strip()}: {error}")
    if problems:
        raise ConfigError(problems)
    return values


def parse_scalar(text: str) -> Any:
    """Returns a YAML value; numbers such as `1e-3`, which YAML 1.1 takes for text, are numbers.

    Raises:
        UsageError: `text` is not valid YAML, or no finite number.
    """
    value = parse_yaml(text)
    if not isinstance(value, str) or not EXPONENT_NUMBER.fullmatch(text.strip()):
        return value
    number = float(text)
    if not math.isfinite(number):
        raise UsageError(f"a number must be finite, got {text}")
    return number


def parse_duration(text: str, option: str) -> float:
    """Returns seconds: `90` or `90s`, `15m`, `8h`, `2d`.

    Raises:
        UsageError: It is none of these, or not above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0.0
    if not 0 < seconds <= LONGEST_S:
        raise UsageError(f"{option} must be a time above 0, as in 90m, 8h or 2d, of 10 years at most, got {text!r}")
    return seconds


def parse_workers(text: str) -> tuple[int | None, int]:
    """Returns the fewest and the most workers of a trial: `4` is (None, 4), an elastic `2:4` is (2, 4).

    Raises:
        UsageError: It is neither, or not 1 <= MIN < MAX.
    """
    match = re.fullmatch(r"(?:(\d{1,4}):)?(\d{1,4})", text.strip())
    least, most = (int(match[1]) if match[1] else None, int(match[2])) if match else (None, 0)
    if most < 1 or (least is not None and not 1 <= least < most):
        raise UsageError(f"--workers must be a number from 1 to 9999, or MIN:MAX with 1 <= MIN < MAX, got {text!r}")
    return least, most


def print_json(value: Plain) -> None:
    """Writes `value` to standard output as one JSON document."""
    click.echo(json.dumps(value, indent=1))


PATHS = ("dataset.encode.", "dataset.transforms.", "dataset.views")
"""What `--set` may name where a data set alone is asked for."""


def encoding_of(named: Sequence[str], views: int | None, values: Settings | None = None) -> dict[str, Plain]:
    """Returns what flags add to a run's `dataset` section: `encode`, `views` and `transforms`.

    Args:
        named: Values of `--encode`: `image=clip,text=bert`, repeatable.
        views: Value of `--views`.
        values: What `--set` gives: path -> value, of PATHS.

    Raises:
        ConfigError: Lists every flag that is no such thing.
    """
    section: dict[str, Plain] = {}
    problems = []
    for pair in [pair.strip() for text in named for pair in text.split(",")]:
        name, _, encoder = pair.partition("=")
        if not name or not encoder:
            problems.append(f"--encode must be MODALITY=ENCODER,..., got {pair!r}")
        elif get_path(section, f"encode.{name}") is not None:
            problems.append(f"--encode: {name} is named twice")
        else:
            set_path(section, f"encode.{name}.name", encoder)
    for path, value in (values or {}).items():
        if path.startswith(PATHS):
            set_path(section, path.removeprefix("dataset."), value)
        else:
            problems.append(f"--set {path}: here only {', '.join(f'{known}...' for known in PATHS[:2])} can be set")
    if views is not None:
        section["views"] = views
    if section and not section.get("encode"):
        problems.append("--views and --set are for --encode, which is not given")
    if problems:
        raise ConfigError(problems)
    return section
