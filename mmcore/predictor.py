"""A trained model on new raw samples: preprocessing, encoders and heads all come from its checkpoint.

Shape legend: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmcore.assembly.config import build_source, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.config.schema import RunConfig
from mmcore.data.media import RawFolder
from mmcore.data.prepared.columns import samples_to_table, to_batch
from mmcore.data.raw.description import ManifestConfig, read_description
from mmcore.data.raw.index import DAMAGED, Entry, Problem
from mmcore.data.raw.source import RawSource, fault_of, kind_of_fault
from mmcore.data.sources.user_table import Manifest
from mmcore.data.spec import DatasetSpec, Sample
from mmcore.errors import CheckpointError, DataError, UsageError
from mmcore.features.frozen import FrozenEncoders, differing_weights, recipe_of
from mmcore.training.checkpoint import CheckpointFolder, load_checkpoint
from mmcore.training.trainer import load_model

FORM = ("delimiter", "quoting")
"""Options for the form of a text table; the next table may have another form."""


def read_state(path: Path) -> dict[str, Any]:
    """Returns the checkpoint of a run's folder (its best model), or the one that `path` itself is.

    Raises:
        CheckpointError: There is none that can be read.
    """
    if (path / "checkpoint.pt").is_file():
        return load_checkpoint(path)
    if (path / "checkpoints").is_dir():
        return CheckpointFolder(path / "checkpoints").best()
    raise CheckpointError(f"{path} is neither a checkpoint nor the folder of a run (final-1, seed-0)")


def samples_of(state: dict[str, Any], data: Path) -> tuple[RawSource, RawFolder, list[Entry], list[Problem]]:
    """Returns the samples to predict, in their order: a data set's source, its folder, entries, and what is wrong.

    Args:
        state: The checkpoint.
        data: A table (.csv, .tsv, .jsonl, .parquet) with the columns the model was trained on, labels not needed; a
            YAML file that names one; or the raw folder of a data set with a name.

    Raises:
        UsageError: It is none of them, or lacks columns.
    """
    source = build_source(parse_config(state["config"]))
    if not isinstance(source, RawSource):
        raise UsageError(f"'{state['config']['dataset']['name']}' is not made of raw files that could be predicted")
    if not data.exists():
        raise UsageError(f"--data {data} does not exist")
    if not isinstance(source, Manifest):
        if not data.is_dir():
            raise UsageError(f"--data must be the raw folder of {source.name}, got the file {data}")
        folder = RawFolder(data.resolve())
        index = source.index(folder)
        return source, folder, index.entries, index.faults()
    options = _options_for(source.options, data)
    source = Manifest(options)
    folder = RawFolder(Path(options.root))
    entries, problems = source.unlabelled()
    missing = {entry.sample_id: fault_of(source, entry, folder) for entry in entries}
    problems += [Problem(sample_id, kind_of_fault(reason), reason) for sample_id, reason in missing.items() if reason]
    return source, folder, [entry for entry in entries if not missing[entry.sample_id]], problems


class Predictor:
    """One trained model. Small batches are decoded, transformed and predicted in one process.

    Args:
        state: Its checkpoint.
        source: Decodes the samples, under the checkpoint's options.
        folder: Where their raw files lie.
        device: Where it computes.
    """

    def __init__(self, state: dict[str, Any], source: RawSource, folder: RawFolder, device: torch.device | str = "cpu"):
        config = parse_config(state["config"])
        self._source, self._folder, self._device = source, folder, torch.device(device)
        self._spec = source.stored_spec(folder)
        self._frozen = _frozen_encoders(config, self._spec, self._device)
        spec = self._frozen.spec if self._frozen else self._spec
        self._method = build_method(config, spec, self._device)
        load_model(self._method, state)
        self._method.eval()
        self._transforms = build_run_transforms(config, spec).to(self._device)

    @torch.no_grad()
    def __call__(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """Returns "sample_ids", "probabilities" (head -> (B, K) lists) and "problems", as plain values.

        Damaged samples are left out, and stand among the problems. A missing modality's features are zeros, as in
        training.
        """
        problems: list[Problem] = []
        samples: list[Sample] = []
        for entry in entries:
            try:
                sample, notes = self._source.decode(entry, self._folder)
            except DataError as error:
                problems.append(Problem(entry.sample_id, DAMAGED, str(error)))
                continue
            samples.append(sample)
            problems += notes
        probabilities = self._probabilities(samples) if samples else {}
        return {
            "sample_ids": [sample.sample_id for sample in samples],
            "probabilities": {head: values.tolist() for head, values in probabilities.items()},
            "problems": [asdict(problem) for problem in problems],
        }

    def _probabilities(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        batch = to_batch(samples_to_table(samples, self._spec), self._spec)
        if self._frozen:
            batch = self._frozen(batch, plain_only=True)
            self._frozen.check(batch)
        batch = batch.to(self._device)
        logits = self._method.predict(self._transforms(batch, training=False))
        return {head: values.float().softmax(dim=1).cpu() for head, values in logits.items()}


def _frozen_encoders(config: RunConfig, spec: DatasetSpec, device: torch.device) -> FrozenEncoders | None:
    """Returns the frozen encoders whose features a model was trained on; None where it was trained on raw samples.

    Raises:
        CheckpointError: Their weights are not those of the training.
    """
    if not config.dataset.encode:
        return None
    encoders = FrozenEncoders(recipe_of(config.dataset, spec), device)
    differing = differing_weights(config.dataset.encoder_sha256, encoders.checksums)
    if differing:
        raise CheckpointError(
            f"the model was trained on features of encoders with other weights: {differing}; bring back those weights"
        )
    return encoders


def _options_for(trained: ManifestConfig, data: Path) -> ManifestConfig:
    """Returns the checkpoint's options over another table; whatever decides a sample's content stays.

    Raises:
        UsageError: A YAML file describes other columns than the model was trained on.
    """
    if data.suffix.lower() not in {".yaml", ".yml"}:
        path = data.resolve()
        is_alike = path.suffix.lower() == Path(trained.manifest).suffix.lower()
        form = {key: getattr(trained, key) if is_alike else None for key in FORM}
        return trained.model_copy(update={"manifest": str(path), "root": str(path.parent), "split": None, **form})
    described = ManifestConfig.model_validate(read_description(data, trained.classes))
    columns, wanted = (_columns(options) for options in (described, trained))
    if columns != wanted:
        raise UsageError(f"{data.name} describes {columns}, the model was trained on {wanted}")
    update = {key: getattr(described, key) for key in ("manifest", "root", *FORM)}
    return trained.model_copy(update={**update, "split": None})


def _columns(options: ManifestConfig) -> dict[str, Any]:
    return {
        name: (column.kind, column.columns if column.kind == "tabular" else column.column)
        for name, column in options.modalities.items()
    }
