"""The results folder of a `train` command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmcore.assembly.config import with_values
from mmcore.config.plain import Plain
from mmcore.config.schema import RunConfig
from mmcore.data.spec import DATASETS
from mmcore.errors import CheckpointError, UsageError
from rayjobs.results_layout import RUN_FILE
from rayjobs.runs.test_ledger import open_ledger
from rayjobs.storage.addresses import reaching
from rayjobs.storage.files import json_or_set_aside, write_json
from rayjobs.storage.mirror import Mirror

Folds = tuple[int | None, ...]
MOST_DIFFERENCES = 5
"""Told of a configuration that is another one."""


def run_folder(folder: Path, fold: int | None) -> Path:
    """Returns where the runs of a fold lie, one folder per seed."""
    return folder if fold is None else folder / f"fold-{fold}"


def of_fold(config: RunConfig, fold: int | None) -> RunConfig:
    """Returns the configuration on a fold."""
    return config if fold is None else with_values(config, {"protocol.fold": fold})


def choose_folder(mirror: Mirror, name: str | None, config: RunConfig, *, resume: bool, suffix: str = "") -> Path:
    """Returns the folder of the runs: a new one, or that of the command that is resumed; writes nothing.

    A name made from the configuration is numbered (`-2`, `-3`) where it is taken; a given one is not. A suffix tells
    the parts of one command apart.

    Raises:
        UsageError: There is nothing to resume, or the given name is taken.
    """
    output = mirror.root
    mirror.pull_index((RUN_FILE,))
    end = f"-{suffix}" if suffix else ""
    dataset = DATASETS.get(config.dataset.name).short_name(config.dataset.name, config.dataset.options)
    default = f"train-{dataset}-{config.method['name']}{end}"
    name = f"{name}{end}" if name else None
    folder = output / (name or default)
    number = 1
    if not resume:
        if name and _is_taken(folder):
            raise UsageError(f"{folder} is there already: pass --resume to continue it, or choose another --name")
        while _is_taken(folder):
            number += 1
            folder = output / f"{default}-{number}"
    else:
        while not name and _is_taken(output / f"{default}-{number + 1}"):
            number += 1
            folder = output / f"{default}-{number}"
        if not _is_taken(folder):
            raise UsageError(f"there is no run in {folder} to resume; leave out --resume")
    return folder


def begin_in(mirror: Mirror, folder: Path, config: RunConfig, folds: Folds, command: str) -> None:
    """Writes what is asked for into a folder this command holds, and makes it what its twin is.

    Raises:
        CheckpointError: The folder's runs are of another configuration.
    """
    wanted: dict[str, Plain] = {"config": config.to_dict(), "folds": list(folds)}
    # Where it is damaged or gone, each run's own checkpoints tell whether they are of this configuration.
    stored = json_or_set_aside(folder / RUN_FILE)
    different = _differences(wanted, {key: stored.get(key) for key in wanted}) if stored is not None else []
    if different:
        raise CheckpointError(
            f"{folder} holds runs of another configuration ({'; '.join(different[:MOST_DIFFERENCES])}): repeat the "
            f"command that made them ({stored.get('command')}), or leave out --resume"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_FILE, {**wanted, "command": command})
    if not mirror:  # of runs on several nodes, each keeps its own
        open_ledger(mirror.root)
        return
    with reaching(mirror.address):
        mirror.push([folder / RUN_FILE])
    mirror.renew(folder)


def _differences(wanted: Plain, stored: Plain, path: str = "") -> list[str]:
    """Returns what a configuration has otherwise than the stored one, by path."""
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        paths = {key: f"{path}.{key}" if path else key for key in [*wanted, *stored]}
        return [one for key in paths for one in _differences(wanted.get(key), stored.get(key), paths[key])]
    return [] if wanted == stored else [f"{path.removeprefix('config.')} was {stored!r}, not {wanted!r}"]


def _is_taken(folder: Path) -> bool:
    """Tells whether a folder is that of a `train` command: by its file, or by runs, should it have lost the file."""
    return (folder / RUN_FILE).exists() or any(True for _ in folder.glob("seed-*")) or (folder / "fold-0").exists()


def run_title(fold: int | None, seed: int) -> str:
    """Returns what a run is called in the terminal."""
    return f"seed {seed}" if fold is None else f"fold {fold}, seed {seed}"
