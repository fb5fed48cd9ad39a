"""What is remembered of each training sample: exact resume, k workers as one, and what a method may rely on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import run_processes
from stepping import interrupt_at
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import TrainingError
from mmcore.methods import METHODS
from mmcore.methods.base import FUSED, cross_entropy
from mmcore.methods.joint import Joint
from mmcore.training.sample_tables import SampleTables
from mmcore.training.trainer import Trainer


class Remembering(Joint):
    """Weighs a sample's loss by what it has cost so far, and remembers what it costs now."""

    def losses(self, batch: Batch, phase: str, engine: object) -> dict[str, Tensor]:
        each = cross_entropy(self.predict(batch)[FUSED], batch.labels, engine, average=False)
        weights = 1 / (1 + engine.samples.values("cost")[batch.rows])
        engine.samples.add("cost", batch, each.detach())
        engine.samples.add("visits", batch, torch.ones_like(each))
        return {FUSED: (weights * each).mean()}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


class registered:
    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setitem(METHODS._entries, "joint", Remembering)

    def __exit__(self, *exception: object) -> None:
        self.patch.undo()


def trainer_of(run_dir: Path | None = None, rank: int = 0, world_size: int = 1, **values: object) -> Trainer:
    spec = make_spec(2)
    config = make_config("joint", spec, trainer__precision="float64", **values)
    return make_trainer(config, spec, run_dir, num_train=33, rank=rank, world_size=world_size)


def everything(trainer: Trainer) -> dict[str, Tensor]:
    tables = {name: trainer.engine.samples.values(name) for name in ("cost", "visits")}
    return {**trainer.method.state_dict(), **tables}


def test_every_sample_is_remembered_once_an_epoch_and_is_read_as_the_epoch_found_it() -> None:
    trainer = trainer_of(trainer__max_epochs=3)
    seen = []
    step = trainer.train_step

    def recording(batch: Batch) -> None:
        step(batch)
        seen.append(trainer.engine.samples.values("visits").unique().tolist())

    trainer.train_step = recording
    trainer.fit()
    assert seen == [[0.0]] * 3 + [[1.0]] * 3 + [[2.0]] * 3
    assert trainer.engine.samples.values("visits").tolist() == [3] * 33
    assert trainer.engine.samples.values("cost").min() > 0
    assert trainer.engine.samples.values("never").tolist() == [0] * 33


@pytest.mark.parametrize("stopped_at", [3, 4, 5, 7])
def test_a_resumed_run_remembers_what_the_uninterrupted_one_does(stopped_at: int, tmp_path: Path) -> None:
    values = {"trainer__max_epochs": 3, "trainer__checkpoint_every_steps": 1}
    whole = trainer_of(**values)
    whole.fit()
    cut = trainer_of(tmp_path, **values)
    interrupt_at(cut, stopped_at)
    with pytest.raises(InterruptedError):
        cut.fit()
    resumed = trainer_of(tmp_path, **values)
    resumed.fit()
    expected = everything(whole)
    assert all(torch.equal(expected[name], value) for name, value in everything(resumed).items())


def test_a_rehearsal_is_not_remembered() -> None:
    trainer = trainer_of()
    batch = next(iter(trainer.loader.train_batches(0)))
    trainer.engine.samples.add("cost", batch, torch.ones(16))
    with trainer.engine.rehearsal():
        trainer.engine.samples.add("cost", batch, torch.ones(16))
        trainer.engine.samples.add("other", batch, torch.ones(16))
    trainer.engine.samples.merge()
    assert trainer.engine.samples.values("cost").sum() == 16
    assert trainer.engine.samples.values("other").sum() == 0


def test_a_batch_without_rows_is_refused_and_a_placeholder_adds_nothing() -> None:
    tables = SampleTables(4, torch.device("cpu"), torch.float32)
    with pytest.raises(TrainingError, match="samples cannot be remembered as 'cost'"):
        tables.add("cost", Batch({}, torch.zeros(2)), torch.ones(2))
    tables.add("cost", Batch({}, torch.zeros(1), rows=torch.tensor([2]), is_placeholder=True), torch.ones(1))
    tables.add("cost", Batch({}, torch.zeros(2), rows=torch.tensor([1, 1])), torch.tensor([1.0, 2.0]))
    assert tables.values("cost").tolist() == [0, 0, 0, 0]
    tables.merge()
    assert tables.values("cost").tolist() == [0, 3, 0, 0]


def test_a_checkpoint_from_before_there_were_tables_is_read() -> None:
    trainer = trainer_of()
    state = trainer.engine.state_dict()
    del state["samples"]
    trainer.engine.load_state_dict(state)
    assert trainer.engine.samples.values("cost").shape == (33,)


# Workers


def runs(rank: int, world_size: int, folder: str) -> list[dict[str, Tensor]]:
    """A whole run, and one that is stopped inside its second epoch and goes on."""
    values = {"trainer__max_epochs": 3, "trainer__checkpoint_every_steps": 2}
    with registered():
        whole = trainer_of(None, rank, world_size, **values)
        whole.fit()
        cut = trainer_of(Path(folder), rank, world_size, **values)
        interrupt_at(cut, 5)
        with pytest.raises(InterruptedError):
            cut.fit()
        resumed = trainer_of(Path(folder), rank, world_size, **values)
        resumed.fit()
        return [everything(whole), everything(resumed)]


def test_k_workers_remember_what_one_does_also_after_a_resume(tmp_path: Path) -> None:
    expected = runs(0, 1, str(tmp_path / "one"))
    for found in run_processes(runs, 2, 2, str(tmp_path / "two")):
        for own, other in zip(found, expected, strict=True):
            for name, value in other.items():
                torch.testing.assert_close(own[name], value, rtol=1e-10, atol=1e-12)
