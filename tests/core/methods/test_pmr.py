"""PMR: each equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_equal_runs, step_gradients, trainer_of
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.pmr import class_sums, prototype_logits, updated_prototypes
from mmcore.methods.step import Place
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "pmr", *shape), dtype=torch.float64)


def begun(method: str = "pmr", count: int = 2, **values: object) -> tuple[Trainer, Batch]:
    """A trainer whose first epoch has begun, and the epoch's first batch."""
    trainer = trainer_of(method, count, **values)
    trainer._begin_epoch()
    trainer.method.train()
    return trainer, trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)


# Equations


def test_logits_are_minus_the_distances_to_the_prototypes() -> None:
    features, prototypes = drawn(5, 4), drawn(3, 4)
    found = prototype_logits(features, prototypes, torch.tensor([True, True, False]))
    for i, feature in enumerate(features.tolist()):
        for k, prototype in enumerate(prototypes.tolist()[:2]):
            assert found[i, k].item() == pytest.approx(-math.dist(feature, prototype), rel=1e-12)
    assert found.softmax(dim=1)[:, 2].count_nonzero() == 0  # a class without a prototype is left out


def test_the_distance_has_a_finite_gradient_at_a_prototype_itself() -> None:
    features = torch.ones(2, 4, requires_grad=True)
    loss = F.cross_entropy(prototype_logits(features, torch.eye(3, 4) * 0 + 1, torch.ones(3, dtype=torch.bool)),
                           torch.tensor([0, 1]))  # fmt: skip
    loss.backward()
    assert torch.equal(features.grad, torch.zeros(2, 4))


@pytest.mark.parametrize("has_missing", [False, True])
def test_class_sums_are_those_of_a_loop(has_missing: bool) -> None:
    features, labels = drawn(7, 4), torch.tensor([0, 2, 2, 0, 3, 2, 0])
    mask = torch.tensor([True, False, True, True, False, True, False]) if has_missing else None
    sums, counts = class_sums(features, labels, mask, 5)
    for k in range(5):
        rows = [i for i in range(7) if labels[i] == k and (mask is None or mask[i])]
        assert counts[k] == len(rows)
        expected = [sum(features[i, d].item() for i in rows) for d in range(4)]
        assert sums[k].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_prototypes_remember_by_class() -> None:
    old, sums, counts = drawn(4, 3), 5 * drawn(4, 3), torch.tensor([2.0, 0, 4, 0], dtype=torch.float64)
    seen = torch.tensor([True, True, False, False])
    found, now_seen = updated_prototypes(old, seen, sums, counts, 0.2)
    torch.testing.assert_close(found[0], 0.8 * sums[0] / 2 + 0.2 * old[0])
    torch.testing.assert_close(found[2], sums[2] / 4)  # its first: no memory
    assert torch.equal(found[1], old[1])
    assert torch.equal(found[3], old[3])
    assert now_seen.tolist() == [True, True, True, False]


def naive_terms(trainer: Trainer, batch: Batch) -> dict[str, float]:
    """The rule, sample by sample."""
    method, names = trainer.method, trainer.method.context.modalities
    features = method.model.encode(batch)
    prototypes = dict(zip(names, method._split(method.prototypes), strict=True))
    scores, losses = {}, {}
    for name in names:
        probabilities = []
        for i, feature in enumerate(features[name].tolist()):
            exponentials = [math.exp(-math.dist(feature, row)) for row in prototypes[name].tolist()]
            probabilities.append(exponentials[int(batch.labels[i])] / sum(exponentials))
        scores[name] = sum(probabilities) / len(probabilities)
        losses[name] = -sum(math.log(p) for p in probabilities) / len(probabilities)
    terms = {FUSED: F.cross_entropy(method.fusion(features), batch.labels).item()}
    for name in names:
        others = [scores[other] for other in names if other != name]
        is_weak = scores[name] < sum(others) / len(others)
        terms[f"prototype/{name}"] = method.config.alpha * losses[name] * is_weak
    return terms


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_loss_is_that_of_the_rule(count: int, fusion: str) -> None:
    trainer, batch = begun(count=count, method__alpha=0.7, method__fusion=fusion)
    found = trainer.method.losses(batch, "joint", trainer.engine)
    expected = naive_terms(trainer, batch)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-9)
    weak = [name for name, value in expected.items() if name != FUSED and value]
    assert 1 <= len(weak) < count
    assert count > 2 or len(weak) == 1


def test_equal_scores_pull_none() -> None:
    trainer, batch = begun()
    batch = batch.with_inputs(dict(batch.inputs))
    method = trainer.method
    method.prototypes.zero_()  # all classes alike, for both modalities
    terms = method.losses(batch, "joint", trainer.engine)
    assert terms["prototype/loud"] == terms["prototype/quiet"] == 0
    assert method.ratios.tolist() == [1, 1]


# The method


@pytest.mark.parametrize("count", [2, 3])
def test_without_the_prototypes_loss_it_is_joint_bit_for_bit(count: int) -> None:
    own = trainer_of("pmr", count, method__alpha=0.0, trainer__precision="float32")
    assert_equal_runs(own, trainer_of("joint", count, trainer__precision="float32"))


def test_outside_the_window_it_is_joint_bit_for_bit() -> None:
    settings = {"trainer__max_epochs": 3}
    own = trainer_of("pmr", 2, method__start_epoch=149, method__end_epoch=150, method__schedule_epochs=100, **settings)
    assert own.method.window == (4, 4)
    assert_equal_runs(own, trainer_of("joint", 2, **settings))


def test_the_window_is_in_the_papers_epochs_and_both_ends_are_inside() -> None:
    trainer = trainer_of("pmr", 2, method__start_epoch=1, method__end_epoch=2, method__schedule_epochs=4)
    trainer.fit()
    pulled = ["train/prototype/loud/loss" in row for row in trainer.reporter.rows]
    assert pulled == [False, True, True, False]


def test_the_weaker_encoder_alone_feels_the_prototypes_loss() -> None:
    own, _ = begun()
    joint = trainer_of("joint")
    found, plain = step_gradients(own), step_gradients(joint)
    weak = min(("loud", "quiet"), key=lambda name: own.method.diagnostics()[f"ratio/{name}"].item())
    different = {name for name, value in plain.items() if not torch.equal(found[name], value)}
    assert different == {f"model.encoders.{weak}.layer.{part}" for part in ("weight", "bias")}


def test_the_names_of_classes_do_not_matter() -> None:
    trainer, batch = begun()
    method, order = trainer.method, torch.tensor([2, 0, 1])
    before = {name: term.item() for name, term in method.losses(batch, "joint", trainer.engine).items()}
    method.prototypes.copy_(method.prototypes[order])
    batch.labels = torch.argsort(order)[batch.labels]
    after = method.losses(batch, "joint", trainer.engine)
    for name in ("prototype/loud", "prototype/quiet"):
        assert after[name].item() == pytest.approx(before[name], rel=1e-12)


def test_a_class_never_seen_costs_nothing_and_is_no_answer() -> None:
    trainer, batch = begun()
    trainer.method.seen[:, 1] = False
    trainer.method.prototypes[1] = 1e6  # whatever stands there
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    kept = batch.labels != 1
    rows = Batch({name: x[kept] for name, x in batch.inputs.items()}, batch.labels[kept])
    expected = trainer.method.losses(rows, "joint", trainer.engine)
    for name in ("prototype/loud", "prototype/quiet"):
        torch.testing.assert_close(terms[name], expected[name])
    torch.autograd.backward(list(terms.values()))
    assert all(torch.isfinite(p.grad).all() for p in trainer.method.parameters())


# Prototypes


def all_features(trainer: Trainer, name: str) -> tuple[Tensor, Tensor]:
    data = trainer.loader._data.select(0, 80)
    trainer.method.eval()
    batch = trainer.transforms(data, training=False)
    with torch.no_grad():
        return trainer.method.model.encode(batch)[name], data.labels


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([features[labels == k].mean(dim=0) for k in range(3)])


def test_prototypes_are_class_means_of_training_and_remember_from_the_third_epoch_on() -> None:
    trainer = trainer_of("pmr", method__fraction=1.0, method__momentum=0.25, trainer__max_epochs=4)
    means, held = [], []
    begin = trainer.method.begin_epoch

    def recording(engine: object) -> None:
        begin(engine)
        means.append(torch.cat([class_means(*all_features(trainer, name)) for name in ("loud", "quiet")], dim=1))
        held.append(trainer.method.prototypes.clone())

    trainer.method.begin_epoch = recording
    trainer.fit()
    expected = [means[0], means[1], 0.75 * means[2] + 0.25 * means[1]]
    expected.append(0.75 * means[3] + 0.25 * expected[2])
    for found, value in zip(held, expected, strict=True):
        torch.testing.assert_close(found, value)


def test_prototypes_are_not_made_after_the_window() -> None:
    trainer = trainer_of("pmr", method__end_epoch=1, method__schedule_epochs=4)
    epochs = []
    passes = trainer.engine.passes

    def recording(split: str, fraction: float) -> object:
        epochs.append((split, fraction, trainer.engine.place.epoch))
        return passes(split, fraction)

    trainer.engine.passes = recording
    trainer.fit()
    assert epochs == [("train", 0.1, 0), ("train", 0.1, 1)]


def test_prototypes_are_of_the_samples_that_have_the_modality() -> None:
    trainer = trainer_of("pmr", method__fraction=1.0)
    has = torch.arange(140) % 4 > 0
    trainer.loader._data.present = {"quiet": has}
    trainer._begin_epoch()
    features, labels = all_features(trainer, "quiet")
    _, quiet = trainer.method._split(trainer.method.prototypes)
    torch.testing.assert_close(quiet, class_means(features[has[:80]], labels[has[:80]]))


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method.end_epoch must be at least method.start_epoch \(5\), got 4"):
        trainer_of("pmr", method__start_epoch=5, method__end_epoch=4)


def test_the_place_is_told_before_an_epoch_begins() -> None:
    trainer = trainer_of("pmr", trainer__max_epochs=2)
    places = []
    begin = trainer.method.begin_epoch

    def recording(engine: object) -> None:
        places.append(engine.place)
        begin(engine)

    trainer.method.begin_epoch = recording
    trainer.fit()
    assert places == [Place(0, 0, 5), Place(1, 0, 5)]
