"""QMF: each equation against a naive loop, and each ruling."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from processes import run_processes
from stepping import assert_same_state, step_gradients, trainer_of
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.methods import FUSED
from mmcore.methods.qmf import confidence, confident_logits, next_counted, ranking_loss, scaled_history
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

OFF = {"method__weight": 0.0}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "qmf", *shape), dtype=torch.float64)


def naive_confidence(row: list[float]) -> float:
    return math.log(sum(math.exp(value) for value in row)) / 10


def naive_ranking(c: list[float], h: list[float]) -> float:
    total = 0.0
    for i in range(len(c)):
        j = (i + 1) % len(c)
        sign = (h[i] > h[j]) - (h[i] < h[j])
        if sign:
            total += max(0.0, sign * (c[i] - c[j] - sign * abs(h[i] - h[j])))
    return total / max(1, len(c))


# Equations


def test_confidence_is_a_tenth_of_the_logsumexp_and_may_be_negative() -> None:
    logits = torch.cat([3 * drawn(5, 4), drawn(1, 4) - 9])
    found = confidence(logits)
    assert found.tolist() == pytest.approx([naive_confidence(row) for row in logits.tolist()], rel=1e-12)
    assert found[-1] < 0
    assert confidence(logits.half()).dtype == torch.float32


def test_fused_logits_are_a_sum_over_what_a_sample_has() -> None:
    logits = {"a": drawn(4, 3), "b": 2 * drawn(4, 3) - 1}
    has = torch.tensor([True, False, True, True])
    batch = Batch({}, torch.zeros(4, dtype=torch.int64), present={"b": has})
    found = confident_logits(logits, batch, detach=True)
    for i in range(4):
        expected = [0.0, 0.0, 0.0]
        for name, values in logits.items():
            if name == "a" or has[i]:
                row = values[i].tolist()
                expected = [x + naive_confidence(row) * value for x, value in zip(expected, row, strict=True)]
        assert found[i].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("detach", [True, False])
def test_confidences_in_the_fused_logits_are_constants_unless_asked_for(detach: bool) -> None:
    logits = drawn(4, 3).requires_grad_()
    batch = Batch({}, torch.zeros(4, dtype=torch.int64))
    (found,) = torch.autograd.grad(confident_logits({"a": logits}, batch, detach=detach).square().sum(), logits)
    z = logits.detach()
    c = confidence(z)[:, None]
    expected = 2 * c * c * z  # of c constant
    if not detach:
        expected = expected + 2 * c * z.square().sum(dim=1, keepdim=True) * z.softmax(dim=1) / 10
    torch.testing.assert_close(found, expected)


def test_a_history_is_scaled_by_its_ends() -> None:
    table = drawn(9).abs()
    low, width = scaled_history(table)
    expected = [(value - min(table.tolist())) / (max(table.tolist()) - min(table.tolist())) for value in table.tolist()]
    assert ((table - low) / width).tolist() == pytest.approx(expected)
    low, width = scaled_history(torch.full((4,), 2.5))
    assert ((torch.full((4,), 2.5) - low) / width).tolist() == [0, 0, 0, 0]


def test_each_counted_sample_is_followed_by_the_next_and_the_last_by_the_first() -> None:
    order, following = next_counted(torch.tensor([False, True, True, False, True]))
    assert order[:3].tolist() == [1, 2, 4]
    assert order[following[:3]].tolist() == [2, 4, 1]


@pytest.mark.parametrize("counted", [[True] * 7, [True, False, True, True, False, False, True], [False] * 7])
def test_the_ranking_loss_is_that_of_a_loop(counted: list[bool]) -> None:
    c = torch.tensor([0.4, 3.6, 2.0, 1.2, 0.8, 3.2, 2.8], dtype=torch.float64)
    h = torch.tensor([0.5, 0.1, 0.55, 0.2, 0.9, 0.3, 0.6], dtype=torch.float64)
    rows = [i for i in range(7) if counted[i]]
    expected = naive_ranking([c[i].item() for i in rows], [h[i].item() for i in rows])
    assert ranking_loss(c, h, torch.tensor(counted)).item() == pytest.approx(expected, rel=1e-12)
    assert bool(rows) == (expected > 0)


def test_the_sample_that_has_cost_more_is_asked_to_be_less_confident() -> None:
    c = torch.tensor([0.9, 0.1], dtype=torch.float64, requires_grad=True)
    ranking_loss(c, torch.tensor([1.0, 0.8], dtype=torch.float64), torch.ones(2, dtype=torch.bool)).backward()
    assert c.grad.tolist() == pytest.approx([1, -1])  # both pairs are of these two
    assert ranking_loss(c, torch.tensor([0.8, 1.0]), torch.ones(2, dtype=torch.bool)) == 0
    assert ranking_loss(c, torch.tensor([0.5, 0.5]), torch.ones(2, dtype=torch.bool)) == 0  # equal: no order
    assert ranking_loss(c, torch.tensor([1.0, 0.0]), torch.ones(2, dtype=torch.bool)) == 0  # a gap of 1 allows .8


# The method


def test_histories_are_the_summed_cross_entropies_of_earlier_epochs() -> None:
    trainer = trainer_of("qmf", 2, trainer__class_weights=[1.0, 4.0, 0.5])
    expected = torch.zeros(80, dtype=torch.float64)
    losses = trainer.method.losses

    def recording(batch: Batch, phase: str, engine: object) -> dict[str, Tensor]:
        logits = trainer.method._logits(batch)["quiet"]
        for row, label, place in zip(logits.tolist(), batch.labels.tolist(), batch.rows.tolist(), strict=True):
            expected[place] += 10 * naive_confidence(row) - row[label]
        return losses(batch, phase, engine)

    trainer.method.losses = recording
    trainer.fit(until=2)
    assert expected.count_nonzero() == 80
    trainer.engine.samples.merge()
    torch.testing.assert_close(trainer.engine.samples.values("quiet"), expected)


def test_in_the_first_epoch_there_is_no_order() -> None:
    for done, is_ordered in ((0, False), (1, True)):
        trainer, batch = begun(done=done)
        terms = trainer.method.losses(batch, "joint", trainer.engine)
        assert (terms["ranking/loud"] > 0) == is_ordered
        assert (terms["ranking/quiet"] > 0) == is_ordered


def begun(count: int = 2, done: int = 2, **values: object) -> tuple[Trainer, Batch]:
    """A trainer after some epochs, with heads that give samples rather different confidences, and its next batch."""
    trainer = trainer_of("qmf", count, **values)
    if done:
        trainer.fit(until=done)
    trainer._begin_epoch()
    trainer.method.train()
    for head in trainer.method.heads.values():
        head.weight.data.mul_(40)
    return trainer, trainer.transforms(next(iter(trainer.loader.train_batches(2))), training=True)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_loss_is_that_of_the_rule(count: int) -> None:
    trainer, batch = begun(count, method__weight=0.7)
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    logits = {name: values.tolist() for name, values in trainer.method._logits(batch).items()}
    fused = torch.zeros(16, 3, dtype=torch.float64)
    expected = {}
    for name, rows in logits.items():
        c = [naive_confidence(row) for row in rows]
        fused += torch.tensor([[c[i] * value for value in rows[i]] for i in range(16)], dtype=torch.float64)
        expected[name] = sum(10 * c[i] - rows[i][batch.labels[i]] for i in range(16)) / 16
        table = trainer.engine.samples.values(name).tolist()
        h = [(table[place] - min(table)) / (max(table) - min(table)) for place in batch.rows.tolist()]
        expected[f"ranking/{name}"] = 0.7 * naive_ranking(c, h)
    expected[FUSED] = F.cross_entropy(fused, batch.labels).item()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert all(expected[f"ranking/{name}"] > 0 for name in logits)
    torch.testing.assert_close(trainer.method.predict(batch)[FUSED], fused)


def test_without_ranking_it_is_the_cross_entropies_alone() -> None:
    trainer = trainer_of("qmf", 3, **OFF)
    twin = trainer_of("qmf", 3, **OFF)
    batch = twin.transforms(next(iter(twin.loader.train_batches(0))), training=True)
    logits = twin.method._logits(batch)
    fused = sum(confidence(z).detach()[:, None] * z for z in logits.values())
    loss = F.cross_entropy(fused, batch.labels) + sum(F.cross_entropy(z, batch.labels) for z in logits.values())
    expected = torch.autograd.grad(loss, list(twin.method.parameters()))
    names = [name for name, _ in twin.method.named_parameters()]
    found = step_gradients(trainer)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)
    assert trainer.engine.samples.state_dict() == {"merged": {}, "waiting": {}}  # nothing is remembered for nothing


def test_in_the_first_epoch_it_is_the_cross_entropies_alone_bit_for_bit() -> None:
    own, off = (trainer_of("qmf", 2, trainer__max_epochs=1, **values) for values in ({}, OFF))
    own.fit(), off.fit()
    assert_same_state(own, off)


def test_pairs_are_among_the_samples_that_have_the_modality() -> None:
    trainer, batch = begun()
    has = torch.arange(16) % 3 > 0
    whole = Batch({name: x[has] for name, x in batch.inputs.items()}, batch.labels[has], rows=batch.rows[has])
    expected = trainer.method.losses(whole, "joint", trainer.engine)["ranking/quiet"]
    batch.present = {"quiet": has}
    trainer.engine._num_samples = 16
    found = trainer.method.losses(batch, "joint", trainer.engine)["ranking/quiet"]
    assert expected > 0
    torch.testing.assert_close(found, expected)


def test_what_a_sample_lacks_costs_it_nothing() -> None:
    trainer = trainer_of("qmf", 2)
    has = torch.arange(140) % 4 > 0
    trainer.loader._data.present = {"quiet": has}
    trainer.fit(until=1)
    trainer.engine.samples.merge()
    assert torch.equal(trainer.engine.samples.values("quiet") > 0, has[:80])
    assert (trainer.engine.samples.values("loud") > 0).all()


# Workers


def ranked(rank: int, world_size: int) -> dict[str, Tensor]:
    """Trains an epoch in which confidences are ranked; 33 in batches of 16: the last leaves ranks without any."""
    spec = make_spec(2)
    config = make_config("qmf", spec, trainer__precision="float64", method__weight=1.0)
    trainer = make_trainer(config, spec, num_train=33, rank=rank, world_size=world_size)
    trainer.loader._data.present = {"quiet": torch.arange(93) % 4 > 0}
    trainer.fit(until=1)
    for head in trainer.method.heads.values():
        head.weight.data.mul_(40)
    terms: list[Tensor] = []
    losses = trainer.method.losses

    def recording(batch: Batch, phase: str, engine: object) -> dict[str, Tensor]:
        found = losses(batch, phase, engine)
        terms.append(torch.stack([found[f"ranking/{name}"].detach() for name in ("loud", "quiet")]))
        return found

    trainer.method.losses = recording
    trainer.train_epoch()
    return {**trainer.method.state_dict(), "ranking": torch.stack(terms)}


@pytest.mark.slow
def test_neighbours_on_different_workers_are_paired() -> None:
    alone = ranked(0, 1)
    assert (alone["ranking"][:2] > 0).all()
    for found in run_processes(ranked, 3, 3):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)
