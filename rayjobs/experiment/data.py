"""The data sets of a request, prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.assembly.config import with_named_frozen
from mmcore.config.sections import parse_section
from mmcore.data.prepared.part_files import RunParts
from mmcore.data.prepared.prepare import HowToPrepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.spec import DATASETS
from mmcore.errors import ConfigError
from rayjobs.preparing.datasets import encode_one, prepare_one

if TYPE_CHECKING:
    from rayjobs.experiment.request import Request


def options_of(request: Request, dataset: str) -> dict[str, Any]:
    """Returns the options that concern a data set.

    Raises:
        ConfigError: An option that no data set of the request has.
    """
    fields = {name: set(DATASETS.get(name).Config.model_fields) for name in request.datasets}
    unknown = [key for key in request.options if not any(key in known for known in fields.values())]
    if unknown:
        parse_section(DATASETS.get(dataset).Config, {key: request.options[key] for key in unknown}, "dataset.options")
        raise ConfigError([f"--option {key}: no data set of this command has it" for key in unknown])
    return {key: value for key, value in request.options.items() if key in fields[dataset]}


def section_of(request: Request, dataset: str) -> dict[str, Any]:
    """Returns the run's `dataset` section for a data set of a request."""
    return with_named_frozen({"name": dataset, "options": options_of(request, dataset), **request.dataset})


def prepare_datasets(request: Request, run: RunParts, encoders: RunParts) -> dict[str, PreparedDataset]:
    """Returns each data set of a request, prepared where `run` says and encoded where `encoders` says."""
    raw = Path(request.raw_dir) if request.raw_dir else None
    how = HowToPrepare(vocab=Path(request.vocab) if request.vocab else None, run=run)
    prepared = {}
    for name in request.datasets:
        parent = prepare_one(name, options_of(request, name), raw, Path(request.data_dir), how)
        prepared[name] = encode_one(parent, section_of(request, name), encoders)
    return prepared
