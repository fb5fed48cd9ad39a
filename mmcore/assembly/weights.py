"""Which files of pretrained weights a configuration names and lacks."""

from __future__ import annotations

from mmcore.assembly.config import build_source
from mmcore.assembly.objects import used_modalities
from mmcore.config.schema import DatasetConfig, RunConfig
from mmcore.encoders.base import missing_files


def missing_weights(config: RunConfig) -> list[str]:
    """Returns what is to be said of the weights that a complete configuration names, and that are not there.

    Only those of modalities its method uses, and of frozen encoders.
    """
    used = used_modalities(config, build_source(config).spec())
    trained = {f"model.encoders.{name}": config.model.encoders.get(name, {}) for name in used}
    problems = [problem for path, section in trained.items() for problem in missing_files(section, path)]
    return [*missing_frozen(config.dataset), *problems]


def missing_frozen(dataset: DatasetConfig) -> list[str]:
    """Returns what `missing_weights` says of the frozen encoders alone."""
    sections = {f"dataset.encode.{name}": section for name, section in dataset.encode.items()}
    return [problem for path, section in sections.items() for problem in missing_files(section, path)]
