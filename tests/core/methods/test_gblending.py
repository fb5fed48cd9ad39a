"""G-Blending: the weights against a naive loop, trials against plain training of copies, and each ruling."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from stepping import step_gradients, trainer_of
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.methods import FUSED
from mmcore.methods.gblending import blend_weights
from mmcore.methods.step import Place
from mmcore.training.trainer import Trainer

BEFORE = torch.tensor([[1.0, 1.1, 1.2], [1.1, 1.15, 1.3]], dtype=torch.float64)
AFTER = torch.tensor([[0.4, 0.7, 1.0], [0.9, 0.8, 1.2]], dtype=torch.float64)


def naive_weights(before: list[list[float]], after: list[list[float]], gain: str) -> list[float]:
    found = []
    for k in range(len(before[0])):
        change = before[1][k] - after[1][k]
        change = max(change, 0.0) if gain == "positive" else abs(change)
        rise = (after[1][k] - after[0][k]) - (before[1][k] - before[0][k])
        found.append(change / max(rise**2, 1e-6))
    return [value / sum(found) for value in found] if sum(found) else [1 / len(found)] * len(found)


# Weights


@pytest.mark.parametrize("gain", ["positive", "absolute"])
def test_the_weights_are_those_of_the_rule(gain: str) -> None:
    worse = AFTER.clone()
    worse[1, 1] = 1.9  # the second head got worse
    for after in (AFTER, worse):
        found = blend_weights(BEFORE, after, gain)
        assert found.tolist() == pytest.approx(naive_weights(BEFORE.tolist(), after.tolist(), gain))
        assert found.sum().item() == pytest.approx(1)
    assert (blend_weights(BEFORE, worse, gain)[1] == 0) == (gain == "positive")


def test_heads_that_do_alike_weigh_alike_and_units_do_not_matter() -> None:
    before, after = BEFORE[:, :1].expand(2, 4), AFTER[:, :1].expand(2, 4)
    assert blend_weights(before, after, "positive").tolist() == pytest.approx([0.25] * 4)
    scaled = blend_weights(5 * BEFORE, 5 * AFTER, "positive")
    torch.testing.assert_close(scaled, blend_weights(BEFORE, AFTER, "positive"))


def test_where_no_head_gained_all_weigh_the_same() -> None:
    assert blend_weights(AFTER, BEFORE, "positive").tolist() == pytest.approx([1 / 3] * 3)


def test_a_head_that_does_not_overfit_at_all_has_a_finite_weight() -> None:
    after = BEFORE - 0.1
    assert blend_weights(BEFORE, after, "positive").tolist() == pytest.approx([1 / 3] * 3)
    after[1, 0] -= 1e-9
    assert torch.isfinite(blend_weights(BEFORE, after, "positive")).all()


# Trials


def logits_of(method: nn.Module, batch: Batch, name: str) -> Tensor:
    features = method.model.encode(batch)
    return method.fusion(features) if name == FUSED else method.heads[name](features[name])


def losses(trainer: Trainer, method: nn.Module, name: str) -> list[float]:
    method.eval()
    found = []
    for rows in (slice(0, 80), slice(80, 110)):  # train, validation
        batch = trainer.transforms(trainer.loader._data.select(rows.start, rows.stop), training=False)
        with torch.no_grad():
            found.append(F.cross_entropy(logits_of(method, batch, name), batch.labels).item())
    return found


def naive_trial(trainer: Trainer, name: str, num_epochs: int) -> list[float]:
    """A copy, with the momentum it has, trained by plain SGD on one head's loss."""
    settings, epoch = trainer.config.optimizer, trainer.progress.epoch
    with trainer.method.model.unheard():  # without the probes
        method = copy.deepcopy(trainer.method).train()
    own = [*(method.fusion if name == FUSED else method.heads[name]).parameters()]
    for modality in method.context.modalities if name == FUSED else [name]:
        own += method.model.encoders[modality].parameters()
    optimizer = torch.optim.SGD(own, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    held = {key: trainer.engine.optimizer.state.get(value) for key, value in trainer.method.named_parameters()}
    for key, value in method.named_parameters():
        if held[key]:
            optimizer.state[value]["momentum_buffer"] = held[key]["momentum_buffer"].clone()
    for number in range(epoch, epoch + num_epochs):
        for batch in trainer.loader.train_batches(number):
            batch = trainer.transforms(batch, training=True)
            optimizer.zero_grad()
            F.cross_entropy(logits_of(method, batch, name), batch.labels).backward()
            optimizer.step()
    return losses(trainer, method, name)


@pytest.mark.parametrize("count", [2, 3])
def test_a_trial_is_the_training_of_a_copy_on_one_heads_loss(count: int) -> None:
    trainer = trainer_of("gblending", count, method__super_epoch=2, optimizer__weight_decay=0.01)
    for epoch in (0, 2):  # at the second, momentum goes on from the run's
        assert trainer.progress.epoch == epoch
        names = trainer.method.names
        before = [losses(trainer, trainer.method, name) for name in names]
        after = [naive_trial(trainer, name, 2) for name in names]
        expected = naive_weights([*zip(*before, strict=True)], [*zip(*after, strict=True)], "positive")
        trainer._begin_epoch()
        assert trainer.method.weights.tolist() == pytest.approx(expected, rel=1e-8)
        trainer.fit(until=epoch + 2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"method__super_epoch": 2}, [(0, 2), (2, 2), (4, 1)]),
        ({"method__super_epoch": 10}, [(0, 5)]),
        ({"method__super_epoch": 1}, [(epoch, 1) for epoch in range(5)]),
        ({"method__mode": "offline", "method__super_epoch": 2}, [(0, 5)]),
    ],
)
def test_when_and_for_how_long_heads_are_tried(values: dict[str, object], expected: list[tuple[int, int]]) -> None:
    trainer = trainer_of("gblending", trainer__max_epochs=5, **values)
    found = []
    ahead = trainer.engine.ahead

    def recording(num_epochs: int) -> object:
        found.append((trainer.engine.place.epoch, num_epochs))
        return ahead(num_epochs)

    trainer.engine.ahead = recording
    trainer.fit()
    assert found[::3] == expected
    assert all(found[index] == found[index + 1] == found[index + 2] for index in range(0, len(found), 3))


def test_a_trial_changes_nothing_but_the_weights() -> None:
    trainer = trainer_of("gblending", 3, method__super_epoch=2)
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    trainer._begin_epoch()
    after = trainer.method.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"weights"}
    assert not trainer.engine.optimizer.state


def test_a_step_is_that_of_the_weighted_losses() -> None:
    own, plain = trainer_of("gblending", 3), trainer_of("joint_unimodal", 3)
    weights = torch.tensor([0.5, 0.2, 0.3, 0.0], dtype=torch.float64)
    own.method.weights.copy_(weights)
    found = step_gradients(own)
    batch = plain.transforms(next(iter(plain.loader.train_batches(0))), training=True)
    terms = plain.method.losses(batch, "joint", plain.engine)
    loss = sum(weight * term for weight, term in zip(weights, terms.values(), strict=True))
    expected = torch.autograd.grad(loss, list(plain.method.parameters()))
    for (name, _), gradient in zip(plain.method.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-15)


def test_losses_are_of_the_samples_that_have_the_modality() -> None:
    trainer = trainer_of("gblending")
    has = torch.arange(140) % 4 > 0
    trainer.loader._data.present = {"quiet": has}
    trainer.engine.place = Place(0, 0, 5)
    (train, val) = trainer.method._measured(["quiet"], trainer.engine)[:, 0].tolist()
    kept = {split: has[rows] for split, rows in (("train", slice(0, 80)), ("val", slice(80, 110)))}
    for split, found, first in (("train", train, 0), ("val", val, 80)):
        batch = trainer.transforms(trainer.loader._data.select(first, first + len(kept[split])), training=False)
        logits = logits_of(trainer.method, batch, "quiet")[kept[split]]
        assert found == pytest.approx(F.cross_entropy(logits, batch.labels[kept[split]]).item())


def test_the_weights_are_logged() -> None:
    trainer = trainer_of("gblending", trainer__max_epochs=1)
    row = trainer.fit().last_row
    assert sum(row[f"method/weight/{name}"] for name in (FUSED, "loud", "quiet")) == pytest.approx(1)
