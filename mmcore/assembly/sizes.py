"""How large the checkpoints of a run are, told before it is begun."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmcore.assembly.objects import build_method
from mmcore.config.schema import RunConfig
from mmcore.data.spec import DatasetSpec
from mmcore.training.probes import Probes

OVERHEAD_BYTES = 20_000
"""Of a checkpoint, beside its numbers: names, configuration, generators, rows."""


@dataclass(frozen=True)
class CheckpointSizes:
    """Bytes of a run's files of weights, to about a tenth; what a method adds as it trains is not in it.

    Attributes:
        resume_point: Weights, the optimizer's state and the rest that a run goes on with.
        best_model: Weights alone.
        kept: Resume points kept.
    """

    resume_point: int
    best_model: int
    kept: int

    @property
    def run(self) -> int:
        """Bytes of all that a run keeps."""
        return self.kept * self.resume_point + self.best_model


def checkpoint_sizes(config: RunConfig, spec: DatasetSpec) -> CheckpointSizes:
    """Returns the sizes of a run's checkpoints; builds its model without memory for its weights.

    Args:
        config: Complete.
        spec: The data set's, encoded where the configuration encodes.
    """
    with torch.device("meta"):
        method = build_method(config, spec, "meta")
        probes = Probes(method.model.num_features, spec.num_classes)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in method.state_dict().values())
    weights += sum(tensor.numel() * tensor.element_size() for tensor in probes.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    # Momentum of SGD; both running means of Adam.
    states = (1 if config.optimizer.momentum else 0) if config.optimizer.name == "sgd" else 2
    trainer = config.trainer
    return CheckpointSizes(
        resume_point=weights + states * trained + OVERHEAD_BYTES,
        best_model=weights + OVERHEAD_BYTES,
        kept=min(trainer.keep_checkpoints, trainer.max_epochs),
    )
