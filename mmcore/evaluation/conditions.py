"""What a model is tested under beside the data as they are: missing modalities, noisy ones, subsets of them.

Everything is drawn from the sample's id, so that a sample loses the same modality, and gets the same noise, whatever
the method, the batch size or the number of workers: results under one condition are paired.

Shape legend: B samples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmcore.batch import Batch
from mmcore.data.spec import DatasetSpec
from mmcore.errors import ConfigError, suggest
from mmcore.seeding import derive_seed, generator


@dataclass(frozen=True)
class Condition:
    """What is taken from samples, or added to them, before they are predicted.

    Attributes:
        missing: Share of the samples that lose one modality, in [0, 1]. Which one is drawn evenly from those the sample
            has; a sample never loses its last. Who loses one at a small share loses the same at a larger.
        noise: Modality -> standard deviation of the Gaussian noise added to what the encoder is given, after the
            transforms; at least 0. The data sets' own transforms give pictures and spectrograms a deviation of about
            1, features are as stored. The noise of a larger deviation is that of a smaller, scaled.
        only: The modalities that are left to every sample; None: all.
        seed: Seed of the draws.
    """

    missing: float = 0.0
    noise: Mapping[str, float] = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """What it is called in tables, results and the ledger: `missing 20 %`, `noise image 0.5`, `only image`."""
        parts = [f"missing {100 * self.missing:g} %"] if self.missing else []
        if self.noise:
            parts.append("noise " + ", ".join(f"{modality} {level:g}" for modality, level in self.noise.items()))
        if self.only is not None:
            parts.append("only " + " + ".join(self.only))
        return "; ".join(parts) or "as stored"

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return asdict(self)

    def remove(self, batch: Batch) -> Batch:
        """Returns the batch, on the CPU as the loader gave it, with what is missing marked in `present`."""
        if not self.missing and self.only is None:
            return batch
        present = {name: batch.present.get(name, torch.ones(len(batch.labels), dtype=torch.bool)).clone()
                   for name in batch.inputs}  # fmt: skip
        if self.only is not None:
            for name in set(present) - set(self.only):
                present[name][:] = False
        for row, sample_id in enumerate(batch.sample_ids if self.missing else ()):
            lost = self.lost_modality(sample_id, [name for name, mask in present.items() if mask[row]])
            if lost is not None:
                present[lost][row] = False
        return replace(batch, present=present)

    def lost_modality(self, sample_id: str, modalities: Sequence[str]) -> str | None:
        """Returns which of its modalities a sample loses, or None."""
        is_lost = derive_seed(self.seed, "missing", sample_id) < self.missing * 2**63
        if not is_lost or len(modalities) < 2:
            return None
        return modalities[derive_seed(self.seed, "missing modality", sample_id) % len(modalities)]

    def disturb(self, batch: Batch) -> Batch:
        """Returns the transformed batch with the noise added."""
        noisy = {name: batch.inputs[name] + level * self._noise(name, batch) for name, level in self.noise.items()}
        return batch.with_inputs({**batch.inputs, **noisy})

    def _noise(self, modality: str, batch: Batch) -> Tensor:
        inputs = batch.inputs[modality]
        drawn = [
            torch.randn(inputs.shape[1:], generator=generator(self.seed, "noise", modality, sample_id))
            for sample_id in batch.sample_ids
        ]
        return torch.stack(drawn).to(inputs)


def check_conditions(conditions: Sequence[Condition], spec: DatasetSpec) -> None:
    """Checks conditions against a data set.

    Raises:
        ConfigError: Lists shares and deviations out of range, unknown modalities, and noise on tokens.
    """
    kinds = {modality.name: modality.kind for modality in spec.modalities}
    problems = []
    for condition in conditions:
        if not 0 <= condition.missing <= 1:
            problems.append(f"a share of missing modalities must be in [0, 1], got {condition.missing:g}")
        for name, level in condition.noise.items():
            if name not in kinds:
                problems.append(f"noise: unknown modality '{name}'{suggest(name, kinds)}")
            elif kinds[name] == "tokens":
                problems.append(f"noise: {name} are tokens, to which no noise can be added")
            if not (math.isfinite(level) and level >= 0):
                problems.append(f"noise on {name} must be a deviation of at least 0, got {level:g}")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
