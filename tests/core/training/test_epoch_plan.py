"""An epoch that a method plans: repeated samples, dropped modalities, batches of one part; resume, workers, loaders."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_processes
from stepping import interrupt_at
from synthetic import make_config, make_loader, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.data.epoch_plan import EpochPlan
from mmcore.data.feeding.loader import Uniforms
from mmcore.data.feeding.order import planned_order, step_bounds
from mmcore.errors import TrainingError
from mmcore.methods import METHODS
from mmcore.methods.base import FUSED
from mmcore.methods.joint import Joint
from mmcore.methods.joint_unimodal import JointUnimodal
from mmcore.training.engine import Engine
from mmcore.training.sample_tables import SampleTables
from mmcore.training.trainer import Trainer


class Planning(JointUnimodal):
    """Repeats what it gets wrong with its weaker modality alone; from the second epoch on, in parts."""

    def begin_epoch(self, engine: Engine) -> None:
        engine.samples.forget("wrong")
        for batch in engine.passes("train"):
            with torch.no_grad():
                wrong = self.predict(batch)[FUSED].argmax(dim=1) != batch.labels
            engine.samples.add("wrong", batch, 1.0 + wrong)

    def plan_epoch(self, engine: Engine) -> EpochPlan | None:
        if engine.place.epoch == 0:
            return None
        wrong = (engine.samples.values("wrong") > 1.5).nonzero().flatten()
        drawn = torch.randperm(33, generator=engine.generator("plan"))[:5]
        rows = torch.cat([torch.arange(33), wrong, wrong, drawn])
        is_copy = torch.arange(len(rows)) >= 33
        return EpochPlan(rows=rows, dropped={"loud": is_copy}, parts=is_copy.long() if engine.place.epoch > 1 else None)


class registered:
    """A context in which a class stands for `joint_unimodal`."""

    def __init__(self, method: type = Planning):
        self.method = method

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setitem(METHODS._entries, "joint_unimodal", self.method)

    def __exit__(self, *exception: object) -> None:
        self.patch.undo()


def trainer_of(run_dir: Path | None = None, rank: int = 0, world_size: int = 1, **values: object) -> Trainer:
    spec = make_spec(2)
    values = {"trainer__precision": "float64", "optimizer__lr": 0.005, "trainer__max_epochs": 3, **values}
    config = make_config("joint_unimodal", spec, **values)
    return make_trainer(config, spec, run_dir, num_train=33, rank=rank, world_size=world_size)


def recorded(trainer: Trainer) -> list[Batch]:
    """The batches that a trainer's steps are given from now on."""
    seen: list[Batch] = []
    step = trainer.train_step

    def recording(batch: Batch) -> None:
        seen.append(batch)
        step(batch)

    trainer.train_step = recording
    return seen


def rows_of(trainer: Trainer) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in trainer.reporter.rows]


# The plan and its order


def naive_batches(plan: EpochPlan, batch_size: int) -> list[tuple[int, int]]:
    """The batches' sizes by part, in the parts' order."""
    parts = [0] * len(plan) if plan.parts is None else plan.parts.tolist()
    sizes = []
    for part in sorted(set(parts)):
        left = parts.count(part)
        while left:
            sizes.append((part, min(left, batch_size)))
            left -= sizes[-1][1]
    return sizes


@pytest.mark.parametrize("parts", [None, [0, 0, 1, 1, 1, 7, 1, 0, 7, 1]])
@pytest.mark.parametrize("mixed", [True, False])
def test_every_entry_comes_once_and_a_batch_is_of_one_part(parts: list[int] | None, mixed: bool) -> None:
    rows = torch.tensor([3, 3, 0, 5, 5, 5, 1, 2, 9, 9])
    plan = EpochPlan(rows=rows, parts=None if parts is None else torch.tensor(parts), mixed=mixed)
    order, bounds = planned_order(plan, 3, 0, 1), step_bounds(99, 3, plan, 0, 1)
    assert sorted(order) == list(range(10))
    assert len(bounds) - 1 == plan.num_steps(3)
    number = np.zeros(10, int) if parts is None else np.array(parts)
    found = []
    for first, last in itertools.pairwise(bounds):
        assert len(set(number[order[first:last]])) == 1
        found.append((number[order[first]], last - first))
    expected = naive_batches(plan, 3)
    assert Counter(found) == Counter(expected)
    if not mixed:
        assert found == expected
    assert planned_order(plan, 3, 0, 1).tolist() == order.tolist()
    for seed, epoch in ((0, 2), (1, 1)):
        assert planned_order(plan, 3, seed, epoch).tolist() != order.tolist()


def test_batches_of_parts_are_mixed_where_the_plan_says_so() -> None:
    plan = EpochPlan(rows=torch.arange(60), parts=torch.arange(60) // 30)
    orders = {tuple(planned_order(plan, 3, 0, epoch)[::3] // 30) for epoch in range(5)}
    assert len(orders) == 5


def test_a_plan_of_every_sample_once_is_the_epoch_as_it_is() -> None:
    loader = make_loader(make_spec(2), 16, 33)
    plan = EpochPlan(rows=torch.arange(33))
    for plain, planned in zip(loader.train_batches(4), loader.train_batches(4, 0, plan), strict=True):
        assert plain.sample_ids == planned.sample_ids
        assert torch.equal(plain.uniforms, planned.uniforms)
        assert plain.present == planned.present == {}


def test_batches_hold_the_planned_samples_without_what_is_dropped_from_any_step_on() -> None:
    loader = make_loader(make_spec(2), 4, 33)
    loader._data.present = {"quiet": torch.arange(93) % 3 > 0}
    rows = torch.tensor([0, 0, 0, 7, 7, 31, 2, 4, 5, 6])
    dropped = {"loud": torch.arange(10) % 2 == 1, "quiet": torch.arange(10) == 3}
    plan = EpochPlan(rows=rows, dropped=dropped, parts=torch.tensor([1] * 5 + [0] * 5))
    whole = list(loader.train_batches(2, 0, plan))
    assert [batch.num_samples for batch in whole] in ([4, 1, 4, 1], [4, 4, 1, 1], [1, 4, 4, 1], [1, 1, 4, 4],
                                                      [4, 1, 1, 4], [1, 4, 1, 4])  # fmt: skip
    order = planned_order(plan, 4, 0, 2)
    given = [(int(row), *map(bool, there)) for batch in whole for row, *there in
             zip(batch.rows, batch.present["loud"], batch.present["quiet"], strict=True)]  # fmt: skip
    assert given == [(int(rows[e]), e % 2 == 0, bool(e != 3 and rows[e] % 3 > 0)) for e in order]
    assert [name for batch in whole for name in batch.sample_ids] == [f"s{rows[e]}" for e in order]
    uniforms = Uniforms(0, 2).draw(10)
    assert torch.equal(torch.cat([batch.uniforms for batch in whole]), uniforms)
    for batch, expected in zip(loader.train_batches(2, 2, plan), whole[2:], strict=True):
        assert batch.sample_ids == expected.sample_ids
        assert torch.equal(batch.uniforms, expected.uniforms)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"rows": []}, "an epoch without samples"),
        ({"rows": [0, 33]}, "rows from 0 to 33; training has 0 to 32"),
        ({"rows": [-1, 3]}, "rows from -1 to 3"),
        ({"rows": [1], "dropped": {"other": [True]}}, "drops other; the method has loud, quiet"),
        ({"rows": [1], "dropped": {"loud": [True, False]}}, r"1 rows, but dropped\['loud'\] of shape \(2,\)"),
        ({"rows": [1], "parts": [0, 0]}, r"1 rows, but parts of shape \(2,\)"),
        ({"rows": [1, 2], "dropped": {"loud": [True, False], "quiet": [True, True]}}, "drops every modality"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(plan: dict[str, Any], message: str) -> None:
    class Wrong(Joint):
        def plan_epoch(self, engine: Engine) -> EpochPlan:
            dropped = {name: torch.tensor(mask) for name, mask in plan.get("dropped", {}).items()}
            parts = torch.tensor(plan["parts"]) if "parts" in plan else None
            return EpochPlan(rows=torch.tensor(plan["rows"]), dropped=dropped, parts=parts)

    with registered(Wrong), pytest.raises(TrainingError, match=message):
        trainer_of().fit()


def test_a_plan_may_drop_both_modalities_of_different_samples() -> None:
    mask = torch.tensor([True, False])
    EpochPlan(rows=torch.tensor([0, 1]), dropped={"loud": mask, "quiet": ~mask}).check(2, ("loud", "quiet"))


# Tables


def test_a_table_that_is_forgotten_begins_anew() -> None:
    tables = SampleTables(3, torch.device("cpu"), torch.float32)
    batch = Batch({}, torch.zeros(1), rows=torch.tensor([1]))
    tables.add("a", batch, torch.ones(1)), tables.merge()
    tables.add("a", batch, torch.ones(1)), tables.forget("a")
    assert tables.values("a").tolist() == [0, 0, 0]
    tables.add("a", batch, torch.full((1,), 5.0)), tables.merge()
    assert tables.values("a").tolist() == [0, 5, 0]


# Runs


@pytest.fixture
def _planning() -> Iterator[None]:
    with registered():
        yield


@pytest.mark.usefixtures("_planning")
def test_a_run_trains_on_what_is_planned_and_counts_it() -> None:
    trainer = trainer_of()
    seen = recorded(trainer)
    trainer.fit()
    rows = trainer.reporter.rows
    assert "train/samples" not in rows[0]
    counts = [int(row["train/samples"]) for row in rows[1:]]
    assert all(count >= 38 for count in counts)
    assert max(counts) > 42  # it was wrong somewhere
    assert sum(batch.num_samples for batch in seen) == 33 + sum(counts)
    assert all("loud" not in batch.present for batch in seen[:3])
    second, third = seen[3 : 3 + -(-counts[0] // 16)], seen[3 + -(-counts[0] // 16) :]
    lacking = [int((~batch.present["loud"]).sum()) for batch in second]
    assert sum(lacking) == counts[0] - 33
    assert any(0 < number < batch.num_samples for number, batch in zip(lacking, second, strict=True))
    pure = [len(batch.present["loud"].unique()) for batch in third]
    assert pure == [1] * len(third)
    assert len(third) == 3 + -(-(counts[1] - 33) // 16)


@pytest.mark.usefixtures("_planning")
def test_a_step_knows_how_many_its_epoch_has() -> None:
    trainer = trainer_of()
    places = []
    losses = trainer.method.losses

    def looking(batch: Batch, phase: str, engine: Engine) -> dict[str, Tensor]:
        places.append(engine.place)
        return losses(batch, phase, engine)

    trainer.method.losses = looking
    trainer.fit()
    for epoch in range(3):
        own = [place for place in places if place.epoch == epoch]
        assert [place.step for place in own] == list(range(len(own)))
        assert {place.num_steps for place in own} == {len(own)}


@pytest.mark.usefixtures("_planning")
@pytest.mark.parametrize("stopped_at", [3, 5, 6, 8])
def test_a_run_resumed_inside_a_planned_epoch_equals_the_uninterrupted_one(stopped_at: int, tmp_path: Path) -> None:
    values = {"trainer__checkpoint_every_steps": 1}
    whole = trainer_of(**values)
    whole.fit()
    cut = trainer_of(tmp_path, **values)
    interrupt_at(cut, stopped_at)
    with pytest.raises(InterruptedError):
        cut.fit()
    resumed = trainer_of(tmp_path, **values)
    plan_epoch, planned = resumed.method.plan_epoch, []

    def noting(engine: Engine) -> EpochPlan | None:
        planned.append(engine.place.epoch)
        return plan_epoch(engine)

    resumed.method.plan_epoch = noting
    resumed.resume()
    begun = resumed.progress.epoch + (resumed.progress.step_in_epoch > 0)
    resumed.fit()
    assert planned == list(range(begun, 3))
    expected = whole.method.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.method.state_dict().items())
    assert rows_of(whole)[-1] == rows_of(resumed)[-1]
    assert torch.equal(whole.engine.samples.values("wrong"), resumed.engine.samples.values("wrong"))


def test_planning_every_sample_once_changes_nothing() -> None:
    class Once(JointUnimodal):
        def plan_epoch(self, engine: Engine) -> EpochPlan:
            return EpochPlan(rows=torch.arange(33, dtype=torch.int32), dropped={"loud": torch.zeros(33)})

    plain = trainer_of()
    with registered(Once):
        planned = trainer_of()
        seen = recorded(planned)
        planned.fit()
    plain.fit()
    assert seen[0].present["loud"].all()
    for name, value in plain.method.state_dict().items():  # to rounding: its losses are means over masks
        torch.testing.assert_close(planned.method.state_dict()[name], value, rtol=1e-12, atol=1e-13)


def test_a_checkpoint_from_before_there_were_plans_is_read(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.fit(2)
    state, _ = trainer._checkpoints.newest_resume_point()
    del state["progress"]["plan"]
    again = trainer_of(tmp_path)
    again._checkpoints = type("Old", (), {"newest_resume_point": lambda self, device: (state, [])})()
    assert again.resume()
    assert (again.progress.epoch, again.progress.plan) == (2, None)


# Workers


def runs(rank: int, world_size: int, folder: str) -> list[dict[str, Tensor]]:
    """A whole run, and one that is stopped inside its second epoch and goes on."""
    values = {"trainer__checkpoint_every_steps": 2}
    with registered():
        whole = trainer_of(None, rank, world_size, **values)
        whole.fit()
        cut = trainer_of(Path(folder), rank, world_size, **values)
        interrupt_at(cut, 6)
        with pytest.raises(InterruptedError):
            cut.fit()
        resumed = trainer_of(Path(folder), rank, world_size, **values)
        resumed.fit()
    samples = torch.tensor([row.get("train/samples", 0.0) for row in whole.reporter.rows])
    return [{**trainer.method.state_dict(), "samples": samples} for trainer in (whole, resumed)]


class Disagreeing(JointUnimodal):
    """Plans by the rank."""

    def plan_epoch(self, engine: Engine) -> EpochPlan:
        return EpochPlan(rows=torch.arange(4) + torch.distributed.get_rank())


def disagree(rank: int, world_size: int) -> str:
    with registered(Disagreeing), pytest.raises(TrainingError) as raised:
        trainer_of(None, rank, world_size).fit()
    return str(raised.value)


def all_of_it(rank: int, world_size: int, folder: str) -> tuple[list[dict[str, Tensor]], str]:
    return runs(rank, world_size, folder), disagree(rank, world_size)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [3])
def test_k_workers_train_on_one_plan_and_say_where_they_disagree(world_size: int, tmp_path: Path) -> None:
    expected = runs(0, 1, str(tmp_path / "one"))
    for found, message in run_processes(all_of_it, world_size, world_size, str(tmp_path / "many")):
        assert "the workers planned different epochs" in message
        for own, other in zip(found, expected, strict=True):
            for name, value in other.items():
                torch.testing.assert_close(own[name], value, rtol=1e-10, atol=1e-12)
