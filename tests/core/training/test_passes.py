"""What a method may do before an epoch: passes over parts of train and validation, in evaluation, over all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import run_processes
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import TrainingError
from mmcore.training.engine import Engine
from mmcore.training.trainer import Trainer


def trainer_of(run_dir: Path | None = None, rank: int = 0, world_size: int = 1, **values: object) -> Trainer:
    spec = make_spec(2)
    config = make_config("joint", spec, trainer__precision="float64", **values)
    return make_trainer(config, spec, run_dir, rank=rank, world_size=world_size)


def begin(trainer: Trainer, epoch: int, split: str = "train", fraction: float = 1.0) -> list[Batch]:
    """The batches of a pass at the beginning of an epoch."""
    found: list[Batch] = []
    trainer.progress.epoch = epoch
    trainer.method.begin_epoch = lambda engine: found.extend(engine.passes(split, fraction))
    trainer._begin_epoch()
    return found


def ids(batches: list[Batch]) -> list[str]:
    return [name for batch in batches if not batch.is_placeholder for name in batch.sample_ids]


@pytest.mark.parametrize(("split", "first", "last"), [("train", 0, 80), ("val", 80, 110)])
def test_a_whole_pass_gives_every_sample_once_in_order(split: str, first: int, last: int) -> None:
    found = begin(trainer_of(), 0, split)
    assert ids(found) == [f"s{index}" for index in range(first, last)]
    assert [batch.num_samples for batch in found[:-1]] == [16] * (len(found) - 1)
    assert all(batch.uniforms is None for batch in found)


def test_a_part_is_drawn_anew_for_each_epoch_and_the_same_again() -> None:
    parts = [ids(begin(trainer_of(), epoch, "train", 0.3)) for epoch in (0, 1, 0)]
    assert [len(part) for part in parts] == [24, 24, 24]
    assert parts[0] == parts[2]
    assert parts[0] != parts[1]
    other = ids(begin(trainer_of(seed=1), 0, "train", 0.3))
    assert other != parts[0]
    assert parts[0] == sorted(parts[0], key=lambda name: int(name[1:]))
    assert len(ids(begin(trainer_of(), 0, "train", 0.01))) == 16  # one batch at least
    assert len(ids(begin(trainer_of(trainer__batch_size=500), 0, "val", 0.01))) == 30


def test_a_part_has_no_more_samples_than_asked_for_but_for_a_batch() -> None:
    trainer = trainer_of()
    for fraction, most, expected in ((1.0, 33, 33), (0.5, 33, 33), (0.3, 33, 24), (1.0, 5, 16), (1.0, 500, 80)):
        drawn = list(trainer.engine.passes("train", fraction, most))
        assert sum(batch.num_samples for batch in drawn) == expected


def test_passes_leave_weights_statistics_and_probes_as_they_are_and_the_run_too() -> None:
    values = {f"model__encoders__{name}__batch_norm": True for name in ("loud", "quiet")}
    plain, passing = trainer_of(**values), trainer_of(**values)

    def look(engine: Engine) -> None:
        assert not passing.method.training
        for batch in engine.passes("train"):
            passing.method.predict(batch)
        before.append({name: value.clone() for name, value in passing.method.state_dict().items()})

    before: list[dict[str, Tensor]] = []
    start = {name: value.clone() for name, value in passing.method.state_dict().items()}
    passing.method.begin_epoch = look
    passing.fit(), plain.fit()
    assert all(torch.equal(start[name], value) for name, value in before[0].items())
    for own, other in ((passing.method, plain.method), (passing.probes, plain.probes)):
        expected = other.state_dict()
        assert all(torch.equal(expected[name], value) for name, value in own.state_dict().items())


def test_an_epoch_begins_once_also_where_a_run_resumes_inside_it(tmp_path: Path) -> None:
    values = {"trainer__max_epochs": 3, "trainer__checkpoint_every_steps": 2}
    begun: list[int] = []

    def trainer() -> Trainer:
        made = trainer_of(tmp_path, **values)
        made.method.begin_epoch = lambda engine: begun.append(engine.place.epoch)
        return made

    first = trainer()
    step = first.train_step

    def dying(batch: Batch) -> None:
        if first.engine.step_index == 8:
            raise InterruptedError
        step(batch)

    first.train_step = dying
    with pytest.raises(InterruptedError):
        first.fit()
    trainer().fit()
    assert begun == [0, 1, 2]


def test_an_engine_without_a_loader_says_so() -> None:
    trainer = trainer_of()
    engine = Engine(trainer.method, trainer.config, torch.device("cpu"))
    with pytest.raises(TrainingError, match="need a loader"):
        list(engine.passes("val"))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_rehearsal_leaves_no_trace_in_the_run(optimizer: str) -> None:
    values = {f"model__encoders__{name}__batch_norm": True for name in ("loud", "quiet")}
    values |= {"optimizer__name": optimizer, "trainer__max_epochs": 3, "schedule__name": "cosine"}
    plain, rehearsing = trainer_of(**values), trainer_of(**values)
    seen: list[list[str]] = []

    def rehearse(engine: Engine) -> None:
        draws = engine.generator("draws").get_state()
        start = {name: value.clone() for name, value in rehearsing.method.state_dict().items()}
        with engine.rehearsal():
            for batch in engine.ahead(2 if engine.place.epoch < 2 else 1):
                assert rehearsing.method.training
                seen.append(batch.sample_ids)
                rehearsing.method.train_step(batch, engine)
                torch.rand(1, generator=engine.generator("draws"))
                torch.rand(1, generator=engine.generator("only here"))
            moved = rehearsing.method.state_dict()
            assert all(not torch.equal(start[name], value) for name, value in moved.items())
        assert torch.equal(engine.generator("draws").get_state(), draws)

    rehearsing.method.begin_epoch = rehearse
    rehearsing.fit(), plain.fit()
    for own, other in ((rehearsing.method, plain.method), (rehearsing.probes, plain.probes)):
        expected = other.state_dict()
        assert all(torch.equal(expected[name], value) for name, value in own.state_dict().items())
    first, second = (trainer.engine.state_dict()["optimizer"] for trainer in (rehearsing, plain))
    assert all(torch.equal(first[name][key], value) for name in second for key, value in second[name].items())
    rows = [[{k: v for k, v in row.items() if not k.startswith("time/")} for row in trainer.reporter.rows]
            for trainer in (rehearsing, plain)]  # fmt: skip
    assert rows[0] == rows[1]
    batches = [batch.sample_ids for epoch in (0, 1, 1, 2, 2) for batch in plain.loader.train_batches(epoch)]
    assert seen == batches  # those that the epochs themselves have


# Workers


def shared_gradient(own: Tensor, values: Tensor, engine: Engine) -> Tensor:
    """Of the products of each sample's features with the next one's, on whichever rank: by all samples' features."""
    (gradient,) = torch.autograd.grad((values * values.roll(-1, 0)).sum(), own, retain_graph=True)
    found, is_sample = engine.gather(gradient)
    return found[is_sample]


def statistics(rank: int, world_size: int) -> dict[str, Tensor]:
    """Of a part of train in batches of 16, the last of which has one sample: sums, means and gradients."""
    trainer = trainer_of(rank=rank, world_size=world_size)
    found: dict[str, Tensor] = {}

    def look(engine: Engine) -> None:
        total, means, gradients = torch.zeros(6, dtype=torch.float64), [], []
        gathered, shared = [], []
        for batch in engine.passes("train", 33 / 80):
            features = trainer.method.model.encode(batch)["loud"]
            if not batch.is_placeholder:
                total += features.detach().sum(dim=0)
            means.append(engine.mean(features.detach().mean(dim=0)))
            values, is_sample = engine.gather(features)
            gathered.append(values[is_sample].detach())
            shared.append(shared_gradient(features, values[is_sample], engine))
            weight = trainer.method.model.encoders["loud"].layer.weight
            gradients += engine.gradients(features.square().mean(), [weight])
        found.update(sum=engine.sum(total), means=torch.stack(means), gradients=torch.stack(gradients))
        found.update(gathered=torch.cat(gathered), shared=torch.cat(shared))

    trainer.method.begin_epoch = look
    trainer._begin_epoch()
    return found


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_statistics_of_a_pass_are_over_all_workers_samples(world_size: int) -> None:
    alone = statistics(0, 1)
    assert alone["means"].shape == (3, 6)
    for found in run_processes(statistics, world_size, world_size):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
