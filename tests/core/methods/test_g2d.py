"""G2D: each equation against a naive loop, each ruling, and where the method is joint training or UMT."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_equal_runs, assert_same_state, batch_of, step_gradients, trainer_of
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError, TrainingError
from mmcore.methods import FUSED, METHODS, Need, g2d
from mmcore.methods.g2d import G2dConfig, answer_divergences
from mmcore.methods.step import Answer
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

OFF = {"method__distil": 0.0, "method__features": 0.0, "method__prioritise": False}
NAMES = ("loud", "quiet", "faint", "silent")


class Scripted:
    """A teacher that gives the label a set margin, and features of zero."""

    num_features, checksum = 6, "scripted"

    def __init__(self, margin: float):
        self.margin = margin

    def __call__(self, batch: Batch) -> Answer:
        logits = self.margin * F.one_hot(batch.labels, 3).to(torch.float64)
        return Answer(logits, torch.zeros(len(batch.labels), 6, dtype=torch.float64))


def taught(*margins: float, **values: object) -> Trainer:
    """A trainer whose teachers are as good as their margins."""
    trainer = trainer_of("g2d", len(margins), **values)
    trainer.method.context.teachers.update(
        {name: Scripted(margin) for name, margin in zip(NAMES, margins, strict=False)}
    )
    return trainer


def softmax(row: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def naive_divergence(teacher: list[float], own: list[float], temperature: float) -> float:
    pairs = zip(softmax(teacher, temperature), softmax(own, temperature), strict=True)
    return temperature**2 * sum(p * math.log(p / q) for p, q in pairs)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_is_that_of_the_equation(temperature: float) -> None:
    teacher, own = (torch.randn(5, 4, generator=generator(0, name), dtype=torch.float64) for name in "ab")
    expected = [naive_divergence(*rows, temperature) for rows in zip(teacher.tolist(), own.tolist(), strict=True)]
    assert answer_divergences(teacher, own, temperature).tolist() == pytest.approx(expected, rel=1e-10)
    assert answer_divergences(own, own, temperature).abs().max() < 1e-12
    assert answer_divergences(own.bfloat16(), own.bfloat16(), temperature).dtype == torch.float32


@pytest.mark.parametrize(("count", "fusion"), [(2, "concat"), (3, "gated"), (4, "sum")])
def test_the_loss_is_that_of_the_rule(count: int, fusion: str) -> None:
    settings = {"method__distil": 0.6, "method__features": 3.0, "method__temperature": 2.0}
    trainer = trainer_of("g2d", count, method__fusion=fusion, **settings)
    batch, method = batch_of(trainer), trainer.method
    found = method.losses(batch, "joint", trainer.engine)
    features = method.model.encode(batch)
    logits = method.fusion(features)
    expected = {FUSED: F.cross_entropy(logits, batch.labels).item()}
    for name, teacher in method.context.teachers.items():
        answer = teacher(batch)
        rows = zip(answer.logits.tolist(), logits.tolist(), strict=True)
        expected[f"answer/{name}"] = 0.6 * sum(naive_divergence(*row, 2.0) for row in rows) / 16
        pairs = zip(features[name].flatten().tolist(), answer.features.flatten().tolist(), strict=True)
        expected[f"teacher/{name}"] = 3 * sum((a - b) ** 2 for a, b in pairs) / (16 * 6)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-9)
    assert len(expected) == 2 * count + 1


def test_a_sample_that_lacks_a_modality_learns_nothing_from_its_teacher() -> None:
    trainer = trainer_of("g2d")
    batch = batch_of(trainer, missing=True)
    found = trainer.method.losses(batch, "joint", trainer.engine)
    kept = batch.present["quiet"]
    whole = Batch({name: values[kept] for name, values in batch.inputs.items()}, batch.labels[kept])
    expected = trainer.method.losses(whole, "joint", trainer.engine)
    for name in ("answer/quiet", "teacher/quiet"):
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("count", [2, 3])
def test_switched_off_it_is_joint_bit_for_bit_and_asks_for_no_teachers(count: int) -> None:
    own = trainer_of("g2d", count, trainer__precision="float32", **OFF)
    assert own.method.context.teachers == {}
    assert_equal_runs(own, trainer_of("joint", count, trainer__precision="float32"))


@pytest.mark.parametrize("count", [2, 3])
def test_without_answers_and_priority_it_is_umt_bit_for_bit(count: int) -> None:
    off = {"method__distil": 0.0, "method__prioritise": False, "method__features": 10.0}
    own = trainer_of("g2d", count, trainer__precision="float32", **off)
    assert_equal_runs(own, trainer_of("umt", count, trainer__precision="float32"))


def test_what_it_needs() -> None:
    needs = METHODS.get("g2d").needs
    off = G2dConfig(distil=0.0, features=0.0, prioritise=False)
    assert needs(off) == set()
    for switch in ({"distil": 1.0}, {"features": 1.0}, {"prioritise": True}):
        assert needs(off.model_copy(update=switch)) == {Need.TEACHERS}
    assert needs(G2dConfig(fusion="weight")) == {Need.TEACHERS, Need.EQUAL_FEATURES}


# Who waits


@pytest.mark.parametrize(
    ("margins", "learning"),
    [
        ((2.0, 1.0), [0, 1]),
        ((1.0, 2.0), [1, 0]),
        ((1.0, 1.0), [1, 1]),
        ((3.0, 0.1, 0.2), [0, 1, 1]),
        ((3.0, 3.0, 0.1), [0, 0, 1]),
        ((0.1, 3.0, 0.2, 2.9), [1, 0, 1, 0]),
    ],
)
def test_encoders_whose_teachers_do_better_than_the_others_wait(margins: tuple[float, ...], learning: list) -> None:
    own = taught(*margins)
    twin = taught(*margins, method__prioritise=False)
    found, plain = step_gradients(own), step_gradients(twin)
    assert own.method.learning.tolist() == learning
    assert sum(learning) > 0
    for name, gradient in plain.items():
        waits = any(f"encoders.{m}." in name and not value for m, value in zip(NAMES, learning, strict=False))
        assert torch.equal(found[name], torch.zeros_like(gradient) if waits else gradient)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(("momentum", "moves"), [(0.9, True), (0.0, False)])
def test_momentum_still_moves_an_encoder_that_waits(momentum: float, moves: bool) -> None:
    trainer = taught(1.0, 2.0, optimizer__momentum=momentum, optimizer__weight_decay=0.0)
    batches = list(trainer.loader.train_batches(0))
    trainer.train_step(batches[0])
    trainer.method.context.teachers["loud"].margin = 3.0
    before = trainer.method.model.encoders["loud"].layer.weight.detach().clone()
    trainer.train_step(batches[1])
    assert trainer.method.learning.tolist() == [0, 1]
    assert torch.equal(trainer.method.model.encoders["loud"].layer.weight, before) != moves


def test_the_window_is_in_the_papers_epochs_and_both_ends_are_inside() -> None:
    trainer = taught(2.0, 1.0, method__start_epoch=1, method__end_epoch=2, method__schedule_epochs=4)
    trainer.fit()
    assert [row["method/learning/loud"] for row in trainer.reporter.rows] == [1, 0, 0, 1]
    assert trainer_of("g2d", trainer__max_epochs=100).method.window == (0, 50)


def test_a_step_without_a_complete_sample_lets_none_wait() -> None:
    trainer = taught(2.0, 1.0)
    loud = torch.arange(140) % 2 == 0
    trainer.loader._data.present = {"loud": loud, "quiet": ~loud}
    trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    assert trainer.method.learning.tolist() == [1, 1]


def test_in_micro_batches_scores_are_of_the_whole_step() -> None:
    whole, parts = trainer_of("g2d", 3), trainer_of("g2d", 3, trainer__accumulate=3)
    expected, found = step_gradients(whole), step_gradients(parts)
    assert torch.equal(parts.method.learning, whole.method.learning)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_scores_are_summed_over_micro_batches() -> None:
    class Turning(Scripted):
        def __call__(self, batch: Batch) -> Answer:
            self.margin = -self.margin / 3
            return super().__call__(batch)

    trainer = taught(0.0, 0.0, trainer__accumulate=2)
    trainer.method.context.teachers["loud"] = Turning(-9.0)  # 3 in the first part, -1 in the second
    trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    assert trainer.method.learning.tolist() == [0, 1]


# Convolutions, sizes


def test_convolutions_are_refused_where_an_encoder_has_none() -> None:
    expected = r"method\.parameters must be all, got 'convolutions': the encoder of loud, quiet has none"
    with pytest.raises(ConfigError, match=expected):
        trainer_of("g2d", method__parameters="convolutions")


def test_kernels_alone_wait_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, plain = taught(2.0, 1.0), taught(2.0, 1.0, method__prioritise=False)
    object.__setattr__(trainer.method.config, "parameters", "convolutions")
    monkeypatch.setattr(g2d, "convolution_kernels", lambda encoder: [encoder.layer.weight])
    found, expected = step_gradients(trainer), step_gradients(plain)
    different = {name for name, value in expected.items() if not torch.equal(found[name], value)}
    assert different == {"model.encoders.loud.layer.weight"}


def test_a_teacher_of_another_size_is_refused_where_features_are_compared() -> None:
    trainer = trainer_of("g2d")
    trainer.method.context.teachers["quiet"].num_features = 8
    with pytest.raises(TrainingError, match=r"they are of quiet 6 \(the teacher's 8\)"):
        trainer.fit()
    other = trainer_of("g2d", method__features=0.0, trainer__max_epochs=1)
    other.method.context.teachers["quiet"].num_features = 8
    other.fit()


def test_it_starts_from_joints_weights() -> None:
    own: dict[str, Tensor] = trainer_of("g2d").method.state_dict()
    assert own.keys() - trainer_of("joint").method.state_dict().keys() == {"learning"}
    assert_same_state(trainer_of("g2d"), trainer_of("joint"))
