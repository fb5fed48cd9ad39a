"""The data of a command: found prepared, or prepared now, and put where all trials of a node share it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

from mmcore.assembly.config import parse_dataset, with_named_frozen
from mmcore.assembly.weights import missing_frozen
from mmcore.config.plain import Settings
from mmcore.config.sections import parse_section
from mmcore.data.prepared.part_files import RunParts
from mmcore.data.prepared.prepare import HowToPrepare, prepare, prepared_dir
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.description import read_description
from mmcore.data.raw.source import RawSource
from mmcore.data.sources import user_table
from mmcore.data.spec import DATASETS
from mmcore.errors import ConfigError, UsageError
from mmcore.features.encoded_set import encode
from mmcore.features.frozen import recipe_of
from rayjobs.cli.terminal import progress_bar
from rayjobs.preparing.raw_tasks import RayParts
from rayjobs.storage.lease import holding, lease_of_file


def encode_one(parent: PreparedDataset, section: Settings, run: RunParts) -> PreparedDataset:
    """Returns a data set encoded as a run's `dataset` section says, or as it is where that names no frozen encoder.

    Raises:
        EquipoiseError: See `mmcore.features.encoded_set.encode`.
    """
    if not section.get("encode"):
        return parent
    with alone_at(parent.directory), progress_bar(f"encoding {parent.directory.name}") as progress:
        return encode(parent, parse_dataset(with_named_frozen(section)), run, progress)


def alone_at(directory: Path) -> AbstractContextManager[None]:
    """Holds a prepared data set, or the place of one to be made; waits for another command that does, and says so."""
    return holding(lease_of_file(directory), directory, waits=True)


def check_frozen(section: Settings) -> None:
    """Checks the frozen encoders of a run's `dataset` section as far as no data is needed for it.

    Raises:
        ConfigError: See `mmcore.features.frozen.recipe_of`; or weights named by a path are not there.
        UsageError: An encoder of other kinds of modality.
    """
    if not section.get("encode"):
        return
    dataset = parse_dataset(with_named_frozen(section))
    source = DATASETS.get(dataset.name)
    recipe_of(dataset, source(parse_section(source.Config, dataset.options, "dataset.options")).spec())
    problems = missing_frozen(dataset)
    if problems:
        raise ConfigError(problems)


def prepare_one(
    name: str, options: Settings, raw_dir: Path | None, data_dir: Path, how: HowToPrepare | None = None
) -> PreparedDataset:
    """Returns a data set, prepared; what is there and intact is used as it is.

    Args:
        name: The data set.
        options: Its options.
        raw_dir: Its raw files, where there are any.
        data_dir: Where prepared data lies.
        how: Its vocabulary, and where the work is done; None: on this machine.

    Raises:
        UsageError: A data set that needs raw files, and none were given; or a vocabulary that would not be used.
        DataError: What is there is damaged.
    """
    how = how or HowToPrepare(run=RayParts())
    check_available(name, options, raw_dir, data_dir, how.vocab)
    if raw_dir is None:
        raw_dir = own_raw_dir(name, options, data_dir)
    if DATASETS.get(name).needs_raw and raw_dir is None:
        return PreparedDataset.open(prepared_dir(data_dir, name, options))
    with alone_at(prepared_dir(data_dir, name, options)), progress_bar(f"preparing {name}") as progress:
        return prepare(name, options, raw_dir, data_dir, progress=progress, how=how)


def check_available(
    name: str, options: Settings, raw_dir: Path | None, data_dir: Path, vocab: Path | None = None
) -> None:
    """Raises a UsageError if a data set is not prepared and cannot be, or a vocabulary is given that nothing would use.

    What needs raw files and has none of its own needs them given.
    """
    directory = prepared_dir(data_dir, name, options)
    if options.get("demo") or name == user_table.SOURCE_NAME:
        return
    needs_raw = DATASETS.get(name).needs_raw
    if needs_raw and raw_dir is None and not directory.is_dir():
        raise UsageError(
            f"{name} is not prepared ({directory} is not there) and needs its raw files: pass --raw-dir DIR here, "
            f"or run python -m rayjobs.prepare --dataset {name} --raw-dir DIR. {DATASETS.get(name).raw_help}"
        )
    if vocab is not None and (raw_dir is None or not needs_raw):
        advice = "pass --raw-dir too, or leave it out" if needs_raw else "leave it out"
        raise UsageError(f"--vocab is for preparing texts, and {name} is not made from raw files here: {advice}")


def resolve_dataset(given: str) -> tuple[str, dict[str, Any]]:
    """Returns the name and the options of a data set: a registered one, or one described in a YAML file.

    Raises:
        UsageError: The file is missing, or wrong.
    """
    if Path(given).suffix.lower() not in {".yaml", ".yml"}:
        return given, {}
    return user_table.SOURCE_NAME, read_description(Path(given))


def own_raw_dir(name: str, options: Settings, data_dir: Path) -> Path | None:
    """Returns where the raw files of a demo, or of the user's own data set, lie; None for the others."""
    if name == user_table.SOURCE_NAME:
        return Path(str(options["root"]))
    return demo_files(name, data_dir) if options.get("demo") else None


def check_demo(name: str) -> None:
    """Raises a UsageError if a data set cannot write raw files of its own."""
    if "demo" not in DATASETS.get(name).Config.model_fields:
        others = [known for known in DATASETS.names() if "demo" in DATASETS.get(known).Config.model_fields]
        raise UsageError(f"--demo: {name} writes no raw files of its own; {', '.join(others)} do")


def demo_files(name: str, data_dir: Path) -> Path:
    """Returns the folder of a data set's own small raw files, written now unless they are there."""
    source = cast(type[RawSource], DATASETS.get(name))
    folder = data_dir / "demo-raw" / f"{name}-{source.version}"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        source(cast(Any, source.Config)(demo=True)).write_demo(partial)
        partial.rename(folder)
    return folder


def source_modalities(dataset: str, options: Settings) -> tuple[str, ...]:
    """Returns a data set's modalities without its files."""
    source = DATASETS.get(dataset)
    return source(parse_section(source.Config, options, "dataset.options")).spec().modality_names
