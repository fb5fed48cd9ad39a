"""Teachers: models of one modality each, trained alone on a run's own samples, from which its method may learn.

Shape legend: B samples, K classes, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcore.assembly.config import parse_config
from mmcore.assembly.objects import build_method
from mmcore.batch import Batch
from mmcore.config.schema import RunConfig
from mmcore.data.spec import DatasetSpec
from mmcore.errors import CheckpointError
from mmcore.methods.step import Answer
from mmcore.methods.unimodal import Unimodal
from mmcore.training.checkpoint import CheckpointFolder
from mmcore.training.trainer import load_model


class FrozenTeacher:
    """A trained `unimodal` model that gives logits and features; see `mmcore.methods.step.Teacher`.

    Args:
        method: Trained; is frozen here.
        checksum: What tells its weights from others.
    """

    def __init__(self, method: Unimodal, checksum: str):
        self._method = method.eval().requires_grad_(requires_grad=False)
        self.modality: str = method.config.modality
        self.num_features = method.model.num_features[self.modality]
        self.checksum = checksum

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Answer:
        """Returns logits (B, K) and features (B, D) of a transformed batch."""
        features = self._method.model.encode(batch)[self.modality]
        return Answer(self._method.heads[self.modality](features), features)


def teacher_config(config: RunConfig, modality: str) -> RunConfig:
    """Returns the run that makes a teacher for another, complete one: that run itself, but for its method."""
    return parse_config({**config.to_dict(), "method": {"name": "unimodal", "modality": modality}})


def read_teacher(run_dir: Path) -> dict[str, Any]:
    """Returns the checkpoint that a finished run of `unimodal` is tested by, on the CPU.

    Raises:
        CheckpointError: There is none that can be read.
    """
    folder = CheckpointFolder(run_dir / "checkpoints")
    state = folder.best()
    select = parse_config(state["config"]).trainer.select
    return state if select == "best" else folder.selected(select)


def build_teacher(
    state: Mapping[str, Any], modality: str, config: RunConfig, spec: DatasetSpec, device: torch.device | str = "cpu"
) -> FrozenTeacher:
    """Returns a modality's teacher for a run.

    Args:
        state: As `read_teacher` returns it.
        modality: What it must be a model of.
        config: The run that is to learn from it.
        spec: Its data set.
        device: Where the run trains.

    Raises:
        CheckpointError: It is of another method or modality, or learnt from other samples or inputs.
    """
    own = parse_config(state["config"])
    if own.method != {"name": "unimodal", "modality": modality}:
        raise CheckpointError(f"the teacher of {modality} must be a model of unimodal on it, got {own.method}")
    if different := _differences(own, config, modality):
        raise CheckpointError(
            f"the teacher of {modality} must have learnt from the run's own samples; {' and '.join(different)} differ"
        )
    method = build_method(own, spec, device)
    assert isinstance(method, Unimodal)
    load_model(method, dict(state))
    dtype = torch.float64 if config.trainer.precision == "float64" else torch.float32
    return FrozenTeacher(method.to(dtype=dtype), _checksum(state["method"]))


def _differences(own: RunConfig, config: RunConfig, modality: str) -> list[str]:
    """Returns in what a teacher's samples, or its modality's inputs, are not those of a run."""
    pairs = {
        "dataset.name": (own.dataset.name, config.dataset.name),
        "dataset.options": (own.dataset.options, config.dataset.options),
        "dataset.encode": (own.dataset.encode.get(modality), config.dataset.encode.get(modality)),
        "dataset.transforms": (own.dataset.transforms.get(modality), config.dataset.transforms.get(modality)),
        "protocol": (own.protocol, config.protocol),
    }
    return [name for name, (first, second) in pairs.items() if first != second]


def _checksum(weights: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
