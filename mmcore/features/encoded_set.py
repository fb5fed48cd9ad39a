"""Encodes a prepared data set: another one beside it, of the same samples, with features in the place of modalities.

Part by part: at most SAMPLES of one of the parent's files become a file, and one that is there is never made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mmcore.batch import Batch
from mmcore.config.schema import DatasetConfig
from mmcore.data.prepared.columns import binary_column, table_schema, to_batch
from mmcore.data.prepared.part_files import (
    REPORTS,
    RunParts,
    keep_only,
    keep_report,
    run_here,
    stored_report,
    write_file,
    write_parts,
)
from mmcore.data.prepared.prepare import locked, replace_directory
from mmcore.data.prepared.store import PreparedDataset, intact
from mmcore.data.prepared.writer import METADATA_FILE
from mmcore.data.spec import DatasetSpec, Progress
from mmcore.errors import DataError, EquipoiseError
from mmcore.features.frozen import FrozenEncoders, Recipe, differing_weights, recipe_of
from mmcore.storage import write_synced

SAMPLES = 1024
"""Most of a part. The parent's own files may hold all texts of a data set: one part would keep one process busy."""


@dataclass(frozen=True)
class EncodedPart:
    """Some consecutive rows of one of the parent's files, to be encoded.

    Attributes:
        path: Path of the new file, in the encoded set.
        split: Split of all its samples.
        num_rows: Samples in it.
        parent: Path of the parent's file, in the parent.
        start: The first of its rows.
    """

    path: str
    split: str
    num_rows: int
    parent: str
    start: int


class EncodedWriter:
    """Encodes parts; sent to where that is done, which must see both data sets and the encoders' weights.

    Args:
        parent: What is encoded.
        recipe: How.
        encoders: Those of this process, on its CPU.
        directory: Where the parts go.

    Attributes:
        spec: What is stored.
    """

    def __init__(self, parent: PreparedDataset, recipe: Recipe, encoders: FrozenEncoders, directory: Path):
        self.spec = encoders.spec
        self._parent, self._recipe, self._directory = parent, recipe, directory
        self._checksums = encoders.checksums
        self._encoders = None if torch.cuda.is_available() else encoders

    def __call__(self, part: EncodedPart) -> dict[str, Any]:
        """Encodes one part, or finds it done; returns its report, or what went wrong as "error"."""
        try:
            return stored_report(self._directory, part) or self._written(part)
        except (EquipoiseError, OSError, pa.ArrowException) as error:
            return {"path": part.path, "error": f"{part.parent}: {error}"}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoders": None}  # each process builds its own, on its own device

    def _written(self, part: EncodedPart) -> dict[str, Any]:
        report = {"path": part.path, "split": part.split, "num_rows": part.num_rows}
        report |= write_file(self._directory / part.path, self._tables(part), self.spec)
        keep_report(self._directory, part, report)
        return report

    def _tables(self, part: EncodedPart) -> Iterator[pa.Table]:
        """Yields the encoded rows. The device is waited for once: until then features stay there."""
        encoders = self._ready()
        raw = set(self._recipe.sections)
        encoded: list[tuple[pa.RecordBatch, Batch]] = []
        with pq.ParquetFile(self._parent.directory / part.parent) as file:
            for rows in _batches(file, part, encoders.batch_size):
                batch = encoders(to_batch(rows, self._recipe.spec))
                encoded.append((rows.select([name for name in rows.schema.names if name not in raw]), batch))
        for rows, on_device in encoded:
            batch = on_device.to("cpu")
            encoders.check(batch)
            yield _table(rows, batch, self.spec, raw)

    def _ready(self) -> FrozenEncoders:
        if self._encoders is None:
            self._encoders = FrozenEncoders(self._recipe, "cuda" if torch.cuda.is_available() else "cpu")
            differing = differing_weights(self._checksums, self._encoders.checksums)
            if differing:
                raise DataError(
                    f"the weights found where this part is encoded are others than the command's: {differing}"
                )
        return self._encoders


def encoded_dir(parent: Path, recipe: Recipe) -> Path:
    """Returns where the encoded set lies: `<parent>+encode+image=clip+text=bert+views=4+<hash of the recipe>`."""
    names = [f"{name}={section['name']}" for name, section in recipe.sections.items()]
    views = max(recipe.views.values())
    return parent.with_name(
        "+".join([parent.name, "encode", *names, *([f"views={views}"] * bool(views)), recipe.key()])
    )


def encode(
    parent: PreparedDataset, dataset: DatasetConfig, run: RunParts = run_here, progress: Progress | None = None
) -> PreparedDataset:
    """Returns the encoded data set, made now unless an intact one is there; an interrupted call resumes.

    Args:
        parent: What is encoded.
        dataset: With what, as a checked section of a run's configuration.
        run: Where the parts are encoded.
        progress: Told about each part.

    Raises:
        ConfigError: See `recipe_of`.
        UsageError: An encoder that does not take its modality, or weights that cannot be read.
        DataError: The set that is there was encoded from another parent or with other weights; a feature that is no
            number; a part that could not be written. The parts that could be are kept.
    """
    recipe = recipe_of(dataset, parent.spec)
    encoders = FrozenEncoders(recipe)
    _check_weights(dataset.encoder_sha256, encoders.checksums, "the configuration was written")
    target = encoded_dir(parent.directory, recipe)
    with locked(target):
        existing = intact(target)
        if existing:
            _check_same(existing, parent, encoders.checksums)
            return existing
        partial = target.parent.resolve() / f".{target.name}.partial"
        partial.mkdir(exist_ok=True)
        writer = EncodedWriter(parent, recipe, encoders, partial)
        reports = write_parts(writer, plan_encoding(parent, recipe, encoders.checksums), run, progress)
        metadata = {
            **parent.metadata,
            "card": f"{parent.card} {_sentence(recipe)}",
            "modalities": [asdict(modality) for modality in encoders.spec.modalities],
            "files": keep_only(partial, reports),
            "encoded": encoders.describe(),
            "parent": {"directory": parent.directory.name, "fingerprint": parent.fingerprint},
            "recipe": recipe.key(),
        }
        write_synced(partial / METADATA_FILE, json.dumps(metadata, indent=1).encode())
        replace_directory(partial, target)
        shutil.rmtree(target / REPORTS)
    return PreparedDataset.open(target)


def plan_encoding(parent: PreparedDataset, recipe: Recipe, checksums: Mapping[str, str]) -> list[EncodedPart]:
    """Returns the parts in the parent's order of rows; a name is a hash of all that the part's features depend on."""
    parts = []
    for file in parent.metadata["files"]:
        for start in range(0, file["num_rows"], SAMPLES):
            number = min(SAMPLES, file["num_rows"] - start)
            depends_on = [recipe.key(), dict(checksums), file["path"], file["sha256"], start, number]
            digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
            name = f"{file['split']}/part-{digest[:16]}.parquet"
            parts.append(EncodedPart(name, file["split"], number, file["path"], start))
    return parts


def check_encoding(dataset: DatasetConfig, prepared: PreparedDataset, spec: DatasetSpec) -> None:
    """Looks whether a data set is what a run's configuration asks for.

    Args:
        dataset: The configuration's section.
        prepared: What the run would be trained on.
        spec: Its source's, before anything was encoded.

    Raises:
        DataError: It was encoded in another way, or with other weights.
    """
    wanted = recipe_of(dataset, spec).key() if dataset.encode else None
    if wanted != prepared.metadata.get("recipe"):
        raise DataError(
            f"{prepared.directory} holds {_shown(prepared)}, the configuration asks for {dict(dataset.encode)}: what "
            "is encoded, its transforms and views cannot be searched, each is another data set"
        )
    _check_weights(dataset.encoder_sha256, prepared.weights_sha256, "the configuration was written")


def _batches(file: pq.ParquetFile, part: EncodedPart, size: int) -> Iterator[pa.RecordBatch]:
    """Yields a part's rows, at most `size` at once; one row group of the parent's file is in memory at a time."""
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        low, high = max(part.start - first, 0), min(part.start + part.num_rows - first, count)
        if low < high:
            yield from file.read_row_group(group).slice(low, high - low).to_batches(max_chunksize=size)
        first += count


def _table(rows: pa.RecordBatch, batch: Batch, spec: DatasetSpec, encoded: set[str]) -> pa.Table:
    """Returns rows of the encoded set: features from `batch`, every other column from `rows`."""
    columns = {name: rows.column(name) for name in table_schema(spec).names if name not in encoded}
    for modality in spec.modalities:
        if modality.name in encoded:
            columns[modality.name] = binary_column(batch.inputs[modality.name].numpy(), modality)
    return pa.table({name: columns[name] for name in table_schema(spec).names}, schema=table_schema(spec))


def _check_same(existing: PreparedDataset, parent: PreparedDataset, checksums: Mapping[str, str]) -> None:
    made_of = existing.metadata["parent"]["fingerprint"]
    if made_of != parent.fingerprint:
        raise DataError(
            f"{existing.directory} was encoded from another {parent.directory.name} (fingerprint {made_of}, now "
            f"{parent.fingerprint}): remove it to encode again, or bring back the data set it was made of"
        )
    _check_weights(
        existing.weights_sha256, checksums, f"{existing.directory} was encoded", "remove it to encode again, or "
    )


def _check_weights(recorded: Mapping[str, str], found: Mapping[str, str], when: str, advice: str = "") -> None:
    differing = differing_weights(recorded, found)
    if differing:
        raise DataError(f"the encoders' weights changed since {when}: {differing}; {advice}bring back those weights")


def _shown(prepared: PreparedDataset) -> str:
    names = [f"{name} by {entry['encoder']['name']}" for name, entry in prepared.encoded.items()]
    return f"features of {', '.join(names)}" if names else "no features"


def _sentence(recipe: Recipe) -> str:
    named = " and ".join(f"{name} by a frozen {section['name']}" for name, section in recipe.sections.items())
    return f"Encoded once: {named}; what changes while encoders train can not be seen on these features."
