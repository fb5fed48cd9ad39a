"""k workers on their shares of a batch equal one worker on the whole of it, for every method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from processes import run_processes
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore import distributed
from mmcore.methods import METHODS

EPOCHS = 7
MIN_STEPS = 20
TOLERANCE = 1e-6
# 37 samples in batches of 16: the last has 5, shards are unequal. 33 in 16: the last has 1, all but rank 0 are empty.
SIZES = {"unequal": 37, "empty": 33}
BUCKET_BYTES = 1000
"""Size of a bucket of gradients here, so that most methods fill several buckets."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        method: Its name.
        count: Modalities.
        size: Key of `SIZES`.
        values: Further settings, as `make_config` takes them.
    """

    method: str
    count: int
    size: str
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method}-{self.count}-{self.size} {self.values}"


BATCH_NORM = {"model__batch_norm": "synchronised"}
WEIGHTED = {"trainer__class_weights": [1.0, 4.0, 0.5]}
# What takes another path through the engine than the defaults.
VARIANTS = [
    ("aug", {"method__update": "alternating"}),
    ("aug", {"method__added_classifiers": "frozen", "method__growth": "ratio", "method__check_first_epoch": True}),
    ("iprm", {"method__pair_heads": "single"}),
    ("iprm", {"method__passes": "one", "method__inference_weight": "next"}),
    ("iprm", {"method__passes": "one", "method__pair_heads": "single", "trainer__accumulate": 3}),
    ("joint_unimodal", {"optimizer__name": "adam", "optimizer__lr": 0.002}),
]
QUICK = [
    *(Case(method, 3, list(SIZES)[index % 2]) for index, method in enumerate(METHODS.names())),
    Case("aug", 3, "empty", VARIANTS[0][1]),
    Case("iprm", 2, "empty", BATCH_NORM),
    # In micro-batches, which mix with their own λ̂ in two passes but not in one: λ itself is of the whole step.
    Case("iprm", 3, "unequal", {"method__passes": "one", "trainer__accumulate": 3}),
    *(Case(method, 3, "unequal", WEIGHTED) for method in METHODS.names()),
]
NAMES = tuple(METHODS.names())
# Each method with three modalities in the size that QUICK has not, and with four; with two where statistics are shared.
TWO = [
    *(Case(method, 3, list(SIZES)[(index + 1) % 2]) for index, method in enumerate(NAMES)),
    *(Case(method, 4, list(SIZES)[index % 2]) for index, method in enumerate(NAMES)),
    *(Case(method, 3, size, values) for method, values in VARIANTS for size in SIZES),
    *(Case(method, 2, list(SIZES)[index % 2], BATCH_NORM) for index, method in enumerate(NAMES)),
]
# A third worker adds ranks without a sample, and sums of three: each method with one number of modalities.
THREE = [
    *(Case(method, 2 + index % 3, "empty") for index, method in enumerate(NAMES)),
    *(Case(method, 2 + index % 3, "unequal") for index, method in enumerate(NAMES) if index % 3 == 0),
    *(Case(method, 3, "empty", values) for method, values in VARIANTS),
    *(Case(method, 2, "unequal", BATCH_NORM) for index, method in enumerate(NAMES) if index % 3 == 1),
]


def train(case: Case, rank: int, world_size: int) -> dict[str, Tensor]:
    """Runs a case; returns weights and state at the end, and what was seen in every single step."""
    spec = make_spec(case.count)
    values = {"trainer__precision": "float64", "trainer__max_epochs": EPOCHS, "optimizer__clip_norm": 2, **case.values}
    if values.get("model__batch_norm"):
        values |= {f"model__encoders__{name}__batch_norm": True for name in spec.modality_names}
    config = make_config(case.method, spec, **values)
    trainer = make_trainer(config, spec, num_train=SIZES[case.size], rank=rank, world_size=world_size)
    gradients: list[Tensor] = []
    states: list[Tensor] = []  # λ, divergences, scores (none yet: -1), numbers of classifiers
    step = trainer.engine.step

    def recording_step() -> None:
        gradients.extend(p.grad.flatten().clone() for p in trainer.method.parameters() if p.grad is not None)
        states.extend(value.double().nan_to_num(-1) for value in trainer.method.diagnostics().values())
        step()

    trainer.engine.step = recording_step
    trainer.fit()
    assert trainer.engine.step_index >= MIN_STEPS
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in trainer.reporter.rows]
    if case.method == "aug" and case.count > 2:
        assert sum(trainer.method.structure()["classifiers"].values()) > case.count  # it did grow
    return {
        **trainer.method.state_dict(),
        **{f"probe/{name}": value for name, value in trainer.probes.state_dict().items()},
        "gradients": torch.cat(gradients),
        "states": torch.stack(states) if states else torch.zeros(0),
        "rows": torch.tensor([row[key] for row in rows for key in sorted(row)], dtype=torch.float64),
    }


def train_all(rank: int, world_size: int, cases: list[Case]) -> list[dict[str, Tensor]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(distributed, "BUCKET_BYTES", BUCKET_BYTES)
        return [train(case, rank, world_size) for case in cases]


@pytest.mark.parametrize(
    ("world_size", "cases"),
    [
        pytest.param(2, QUICK, id="2-quick"),
        pytest.param(2, TWO, id="2", marks=pytest.mark.slow),
        pytest.param(3, THREE, id="3", marks=pytest.mark.slow),
    ],
)
def test_k_workers_equal_one(world_size: int, cases: list[Case]) -> None:
    alone = train_all(0, 1, cases)
    together = run_processes(train_all, world_size, world_size, cases)
    for rank, results in enumerate(together):
        for case, expected, found in zip(cases, alone, results, strict=True):
            assert found.keys() == expected.keys(), f"{case} on rank {rank}"
            for name, value in found.items():
                assert value.shape == expected[name].shape, f"{case}: {name} on rank {rank}"
                difference = (value.double() - expected[name].double()).abs()
                worst = difference.max() if value.numel() else 0.0
                assert worst < TOLERANCE, f"{case}: {name} differs by {worst} on rank {rank}"
