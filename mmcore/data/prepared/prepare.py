"""Makes a prepared data set from a source, or finds it made already."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel

from mmcore.config.sections import parse_section
from mmcore.data.media import RawFolder
from mmcore.data.prepared.part_files import REPORTS, RunParts, run_here, write_parts
from mmcore.data.prepared.raw_parts import PartWriter, finish, plan_parts
from mmcore.data.prepared.store import PreparedDataset, intact, verified
from mmcore.data.prepared.writer import write_dataset
from mmcore.data.raw.index import check_faults
from mmcore.data.raw.source import RawSource, index_fingerprint, no_media
from mmcore.data.spec import (
    DATASETS,
    FORMAT_VERSION,
    DatasetSource,
    Progress,
)
from mmcore.errors import UsageError
from mmcore.storage import sha256


@dataclass(frozen=True)
class HowToPrepare:
    """How a data set is made of raw files; nothing of it changes a sample.

    Attributes:
        split_dir: Folder of the public lists, where they are not in the raw folder.
        vocab: WordPiece vocabulary; None: vocab.txt in the raw folder.
        on_missing: Refuse missing and damaged files ("fail"), or leave their samples out ("skip").
        run: Where the parts are written.
    """

    split_dir: Path | None = None
    vocab: Path | None = None
    on_missing: Literal["fail", "skip"] = "fail"
    run: RunParts = run_here


def prepared_dir(data_dir: Path | str, name: str, options: BaseModel | Mapping[str, Any] | None = None) -> Path:
    """Returns where the data set `name` under `options` lies: `<data_dir>/<name>[+key=value...]`.

    Options at their defaults do not show, so that the plain name is the default data set.
    """
    folder = DATASETS.get(name).folder_name(name, _options_model(name, options))
    return Path(data_dir) / re.sub(r"[^A-Za-z0-9._=+-]", "_", folder)


def prepare(
    source_name: str,
    options: BaseModel | Mapping[str, Any] | None,
    raw_dir: Path | str | None,
    data_dir: Path | str,
    *,
    progress: Progress | None = None,
    how: HowToPrepare | None = None,
) -> PreparedDataset:
    """Returns the prepared data set, made now unless an intact one of the same raw files is there.

    What an interrupted call left is used, or removed, by the next; a second call at the same time waits for the
    first. Until all is written, what was there before stays in its place.

    Args:
        source_name: Registered name of the data set.
        options: Its options; None for the defaults.
        raw_dir: Its raw files; None for an embedded data set, or to use what has been prepared before.
        data_dir: Where prepared data sets lie.
        progress: Told about each sample.
        how: For data sets made of raw files in parts (`mmcore.data.raw.source`).

    Raises:
        UsageError: Unknown data set or option; the raw folder is missing, empty or of another layout.
        DataError: A raw file is damaged, or, where there is no raw folder to make it again, a prepared one; the
            message names it.
    """
    model = _options_model(source_name, options)
    source = DATASETS.get(source_name)(model)
    target = prepared_dir(data_dir, source_name, model)
    reuse = source.needs_raw and raw_dir is None and target.exists()
    raw = None if reuse else _checked_raw_dir(source, source_name, raw_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if reuse:
            return verified(target)
        if isinstance(source, RawSource):
            return _prepare_raw(source, cast(Path, raw), target, how or HowToPrepare(), progress)
        fingerprint = _source_fingerprint(source, raw)
        existing = intact(target)
        if existing and existing.metadata["source_fingerprint"] == fingerprint:
            return existing
        partial = target.parent / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write_dataset(source, raw, fingerprint, partial, progress)
        replace_directory(partial, target)
    return PreparedDataset.open(target)


def _prepare_raw(
    source: RawSource, raw: Path, target: Path, how: HowToPrepare, progress: Progress | None
) -> PreparedDataset:
    """As `prepare`, in parts; those a killed call wrote are kept."""
    folder = RawFolder(raw, how.split_dir, how.vocab).absolute()
    index = source.index(folder)
    if not index.entries:
        raise no_media(source, index, folder)
    spec = source.stored_spec(folder)
    fingerprint = index_fingerprint(source, spec, index, folder)
    existing = intact(target)
    if existing and existing.metadata["source_fingerprint"] == fingerprint:
        return existing
    check_faults(source.name, index.problems, len(index.entries), how.on_missing)
    partial = target.parent.resolve() / f".{target.name}.partial"
    partial.mkdir(exist_ok=True)
    reports = write_parts(
        PartWriter(source, folder, spec, partial), plan_parts(source, index, folder, spec), how.run, progress
    )
    finish(source, spec, index, fingerprint=fingerprint, directory=partial, reports=reports, on_missing=how.on_missing)
    replace_directory(partial, target)
    shutil.rmtree(target / REPORTS)
    return PreparedDataset.open(target)


def _options_model(name: str, options: BaseModel | Mapping[str, Any] | None) -> BaseModel:
    if isinstance(options, BaseModel):
        return options
    return parse_section(DATASETS.get(name).Config, options or {}, "dataset.options")


def _checked_raw_dir(source: DatasetSource, name: str, raw_dir: Path | str | None) -> Path | None:
    if not source.needs_raw:
        return None
    if raw_dir is None:
        raise UsageError(f"{name} is made from raw files: pass --raw-dir. {source.raw_help}")
    raw = Path(raw_dir)
    if not raw.is_dir():
        raise UsageError(f"{name}: raw folder {raw} does not exist. {source.raw_help}")
    if not any(raw.iterdir()):
        raise UsageError(f"{name}: raw folder {raw} is empty. {source.raw_help}")
    return raw


def _source_fingerprint(source: DatasetSource, raw: Path | None) -> str:
    """Hashes what the samples depend on: the source's version, its options and the raw files' contents."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {source.version} {source.options.model_dump_json()}".encode())
    if raw is not None:
        for path in source.raw_files(raw):
            digest.update(f"{path.relative_to(raw)} {sha256(path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Lets one process at a time write `target`; the system frees the lock of a killed process."""
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_directory(partial: Path, target: Path) -> None:
    """Puts `partial` in the place of `target`; whoever has the old files open keeps them."""
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
