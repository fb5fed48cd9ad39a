"""The prepared data set: one directory, written once, read by everything else.

`<data-dir>/<name>/dataset.json` describes it (classes, modalities, splits, options, what was skipped and why,
the checksum of each file); `<split>/part-00000.parquet`, ... hold the samples (see `mmcore.data.columns`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from mmcore.config import ProtocolConfig, parse_section
from mmcore.data.columns import INDEX_COLUMNS, columns_to_arrays, table_schema, to_batch
from mmcore.data.media import RawFolder
from mmcore.data.part_files import REPORTS, RunParts, run_here, write_parts
from mmcore.data.parts import PartWriter, finish, plan_parts
from mmcore.data.raw import RawSource, check_faults, index_fingerprint, no_media
from mmcore.data.spec import DATASETS, SPLITS, DatasetSource, DatasetSpec, Modality, SplitRules
from mmcore.data.splits import Assignment, assign
from mmcore.data.writer import FORMAT_VERSION, METADATA_FILE, Progress, sha256, write_dataset
from mmcore.errors import DataError, UsageError

__all__ = ["FORMAT_VERSION", "PreparedDataset", "columns_to_arrays", "prepare", "prepared_dir", "to_batch"]

FROZEN_NOTE = "imbalance that arises while encoders train cannot arise"
"""Ends the protocol's line of everything trained on stored features."""


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


class PreparedDataset:
    """A prepared data set on disk. Build it with `open` or `prepare`; small when pickled (no samples).

    Attributes:
        directory: Where it lies.
        metadata: The content of its dataset.json.
        spec: Classes and modalities.
        rules: What the protocols go by.
    """

    def __init__(self, directory: Path, metadata: dict[str, Any]):
        self.directory = directory
        self.metadata = metadata
        self.spec = DatasetSpec(
            name=metadata["name"],
            classes=tuple(metadata["classes"]),
            modalities=tuple(Modality(**{**m, "shape": tuple(m["shape"])}) for m in metadata["modalities"]),
        )
        self.rules = SplitRules(**metadata["split_rules"])

    @classmethod
    def open(cls, directory: Path | str) -> PreparedDataset:
        """Opens a prepared data set; checks its version and that each file is there with the right size.

        Raises:
            UsageError: The directory is missing or holds no prepared data set.
            DataError: It is of another format version, or a file is missing, damaged or of another size.
        """
        directory = Path(directory)
        metadata = _read_metadata(directory)
        try:
            prepared = cls(directory, metadata)
        except (KeyError, TypeError) as error:
            raise DataError(f"{directory / METADATA_FILE} is damaged ({error}); prepare the data set again") from None
        for file in prepared.metadata["files"]:
            path = directory / file["path"]
            if not path.is_file():
                raise DataError(f"{path} is missing; prepare the data set again")
            if path.stat().st_size != file["num_bytes"]:
                size = path.stat().st_size
                raise DataError(f"{path} is damaged: {size} bytes, expected {file['num_bytes']}; prepare it again")
        return prepared

    def verify(self) -> None:
        """Reads every file and compares checksums.

        Raises:
            DataError: A file is missing or damaged; the message names it.
            OSError: The data set's folder cannot be reached.
        """
        for file in self.metadata["files"]:
            path = self.directory / file["path"]
            # Where the whole folder is away, so is its storage, which may come back.
            if not path.is_file() and (self.directory / METADATA_FILE).is_file():
                raise DataError(f"{path} is missing; prepare the data set again")
            if sha256(path) != file["sha256"]:
                raise DataError(f"{path} is damaged: its sha256 is not that of {METADATA_FILE}; prepare it again")

    @property
    def name(self) -> str:
        """Name of the source that made it."""
        return self.spec.name

    @property
    def options(self) -> dict[str, Any]:
        """The source's options, every default filled in."""
        return self.metadata["options"]

    @property
    def card(self) -> str:
        """Origin, licence and limits, in a few sentences."""
        return self.metadata["card"]

    @property
    def constructed(self) -> bool:
        """True if the data was made to show an effect."""
        return self.metadata["constructed"]

    @property
    def default_protocol(self) -> str:
        """The protocol of a run that asks for none: "group" or "holdout"."""
        return self.rules.default_protocol

    @property
    def replicates(self) -> Mapping[str, int]:
        """How many replicates of a source each split uses; empty: all."""
        return self.rules.replicates

    @property
    def num_samples(self) -> int:
        """Samples in all splits' files, replicates included."""
        return sum(file["num_rows"] for file in self.metadata["files"])

    @property
    def num_bytes(self) -> int:
        """Bytes the samples' arrays take in memory (the files may be smaller)."""
        return self.num_samples * sum(modality.num_bytes for modality in self.spec.modalities)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the content."""
        content = {key: value for key, value in self.metadata.items() if key not in {"card"}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def files(self, split: str | None = None) -> list[Path]:
        """Returns the files of one split, or of all, in index order."""
        wanted = SPLITS if split is None else (split,)
        return [self.directory / file["path"] for file in self.metadata["files"] if file["split"] in wanted]

    @cached_property
    def index(self) -> pa.Table:
        """The columns that describe each sample, and `split` (as published); a row's number is its name everywhere."""
        parts = []
        for file in self.metadata["files"]:
            part = _read_parquet(self.directory / file["path"], list(INDEX_COLUMNS))
            parts.append(part.append_column("split", pa.array([file["split"]] * len(part), pa.string())))
        return pa.concat_tables(parts).combine_chunks()

    def read_table(self) -> pa.Table:
        """Returns all rows in index order, in memory."""
        return pa.concat_tables([_read_parquet(path) for path in self.files()])

    def read_modality(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns one modality of all rows (N, ...) in index order, in memory, and which have it (None: all)."""
        modality = next(modality for modality in self.spec.modalities if modality.name == name)
        spec = replace(self.spec, modalities=(modality,))
        table = pa.concat_tables([_read_parquet(path, table_schema(spec).names) for path in self.files()])
        arrays = columns_to_arrays(table, spec)
        return arrays.inputs[name], arrays.present.get(name)

    @property
    def encoded(self) -> Mapping[str, Mapping[str, Any]]:
        """Modality -> how its features were made by a frozen encoder; empty where encoders are trained on all."""
        return self.metadata.get("encoded", {})

    @property
    def weights_sha256(self) -> dict[str, str]:
        """Modality -> checksum of its frozen encoder's weights."""
        return {name: entry["weights_sha256"] for name, entry in self.encoded.items()}

    def assign(self, protocol: ProtocolConfig) -> Assignment:
        """Returns which rows train, validate and test under `protocol`; see `mmcore.data.splits.assign`.

        The protocol's line says which encoders are frozen: results with and without are not to be ranked together.
        """
        assignment = assign(self.index, self.rules, protocol, self.name)
        if not self.encoded:
            return assignment
        frozen = ", ".join(f"{name} {entry['encoder']['name']}" for name, entry in self.encoded.items())
        return replace(assignment, line=f"{assignment.line}; frozen encoders ({frozen}): {FROZEN_NOTE}")

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "metadata": self.metadata, "spec": self.spec, "rules": self.rules}


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
    progress: Progress | None = None,
    how: HowToPrepare | None = None,
) -> PreparedDataset:
    """Returns the prepared data set, made now unless an intact one of the same raw files is there.

    What a killed call left is gone on with, or removed, by the next; a second call at the same time waits for
    the first. Until all is written, what was there before stays in its place.

    Args:
        source_name: Registered name of the data set.
        options: Its options; None for the defaults.
        raw_dir: Its raw files; None for an embedded data set, or to use what has been prepared before.
        data_dir: Where prepared data sets lie.
        progress: Told about each sample.
        how: For data sets made of raw files in parts (`mmcore.data.raw`).

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
            return _verified(target)
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
    finish(source, spec, index, fingerprint, partial, reports, how.on_missing)
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


def intact(directory: Path) -> PreparedDataset | None:
    """Returns the data set in `directory`, or None if there is none that can be used as it is."""
    try:
        return _verified(directory)
    except (DataError, UsageError):
        return None


def _verified(directory: Path) -> PreparedDataset:
    prepared = PreparedDataset.open(directory)
    prepared.verify()
    return prepared


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


def _read_metadata(directory: Path) -> dict[str, Any]:
    path = directory / METADATA_FILE
    if not path.is_file():
        raise UsageError(f"{directory} is not a prepared data set (no {METADATA_FILE}); make one with rayjobs.prepare")
    try:
        metadata = json.loads(path.read_bytes())
        version = metadata["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); prepare the data set again") from None
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}, this version reads {FORMAT_VERSION}; prepare it again")
    return metadata


def _read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged ({error}); prepare the data set again") from None
