"""The prepared data set: one directory, written once, read by everything else.

`<data-dir>/<name>/dataset.json` describes it (classes, modalities, splits, options, what was skipped and why,
the checksum of each file); `<split>/part-00000.parquet`, ... hold the samples (see `mmcore.data.prepared.columns`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcore.config.schema import ProtocolConfig
from mmcore.data.prepared.columns import INDEX_COLUMNS, columns_to_arrays, table_schema
from mmcore.data.prepared.writer import METADATA_FILE
from mmcore.data.spec import (
    FORMAT_VERSION,
    SPLITS,
    DatasetSpec,
    Modality,
    SplitRules,
)
from mmcore.data.splits import Assignment, assign
from mmcore.errors import DataError, UsageError
from mmcore.storage import sha256

FROZEN_NOTE = "imbalance that arises while encoders train cannot arise"
"""Ends the protocol's line of everything trained on stored features."""


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
        options: dict[str, Any] = self.metadata["options"]
        return options

    @property
    def card(self) -> str:
        """Origin, licence and limits, in a few sentences."""
        return str(self.metadata["card"])

    @property
    def constructed(self) -> bool:
        """True if the data was made to show an effect."""
        return bool(self.metadata["constructed"])

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

    def columns_to_fill(self) -> dict[str, np.ndarray]:
        """Returns "'column' (modality)" -> which rows have a number there (N,), of filled columns.

        A column that the description does not name is called by its number.
        """
        found: dict[str, np.ndarray] = {}
        for modality in self.spec.modalities:
            if modality.fill is not None:
                numbers, present = self.read_modality(modality.name)
                is_known = ~np.isnan(numbers) & (True if present is None else present[:, None])
                section = (self.options.get("modalities") or {}).get(modality.name, {})
                names = section.get("columns") or range(is_known.shape[1])
                found |= {f"'{one}' ({modality.name})": is_known[:, place] for place, one in enumerate(names)}
        return found

    @property
    def encoded(self) -> Mapping[str, Mapping[str, Any]]:
        """Modality -> how its features were made by a frozen encoder; empty where encoders are trained on all."""
        encoded: Mapping[str, Mapping[str, Any]] = self.metadata.get("encoded", {})
        return encoded

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


def intact(directory: Path) -> PreparedDataset | None:
    """Returns the data set in `directory`, or None if there is none that can be used as it is; says what is damaged."""
    try:
        return verified(directory)
    except UsageError:
        return None
    except DataError as error:
        logging.getLogger(__name__).warning("%s: it is made again", error)
        return None


def verified(directory: Path) -> PreparedDataset:
    """Opens a prepared data set and reads all of it, so that damage is found here."""
    prepared = PreparedDataset.open(directory)
    prepared.verify()
    return prepared


def _read_metadata(directory: Path) -> dict[str, Any]:
    path = directory / METADATA_FILE
    if not path.is_file():
        raise UsageError(f"{directory} is not a prepared data set (no {METADATA_FILE}); make one with rayjobs.prepare")
    try:
        metadata: dict[str, Any] = json.loads(path.read_bytes())
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
