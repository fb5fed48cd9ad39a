"""UMT: its equation against a naive loop, each ruling, and where the method is joint training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_equal_runs, assert_same_state, batch_of, step_gradients, trainer_of

from mmcore.batch import Batch
from mmcore.errors import TrainingError
from mmcore.methods import FUSED, METHODS, Need
from mmcore.methods.umt import UmtConfig, feature_errors
from mmcore.seeding import generator


def test_the_error_is_the_mean_square_of_a_samples_entries() -> None:
    own, taught = (torch.randn(4, 3, generator=generator(0, name), dtype=torch.float64) for name in "ab")
    found = feature_errors(own, taught).tolist()
    for i, error in enumerate(found):
        assert error == pytest.approx(sum((own[i, d] - taught[i, d]).item() ** 2 for d in range(3)) / 3, rel=1e-12)
    assert feature_errors(own.bfloat16(), taught.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated", "weight"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_loss_is_that_of_the_rule(count: int, fusion: str) -> None:
    trainer = trainer_of("umt", count, method__weight=7.0, method__fusion=fusion)
    batch, method = batch_of(trainer), trainer.method
    found = method.losses(batch, "joint", trainer.engine)
    features = method.model.encode(batch)
    expected = {FUSED: F.cross_entropy(method.fusion(features), batch.labels).item()}
    for name, teacher in method.context.teachers.items():
        pairs = zip(features[name].flatten().tolist(), teacher(batch).features.flatten().tolist(), strict=True)
        expected[f"teacher/{name}"] = 7 * sum((a - b) ** 2 for a, b in pairs) / (16 * 6)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-9)
    assert len(expected) == count + 1
    assert min(expected.values()) > 0


def test_a_sample_that_lacks_a_modality_has_no_part_in_its_distance() -> None:
    trainer = trainer_of("umt")
    batch = batch_of(trainer, missing=True)
    found = trainer.method.losses(batch, "joint", trainer.engine)["teacher/quiet"]
    kept = batch.present["quiet"]
    whole = Batch({name: values[kept] for name, values in batch.inputs.items()}, batch.labels[kept])
    torch.testing.assert_close(found, trainer.method.losses(whole, "joint", trainer.engine)["teacher/quiet"])
    batch.present["quiet"] = torch.zeros_like(kept)
    assert trainer.method.losses(batch, "joint", trainer.engine)["teacher/quiet"] == 0


@pytest.mark.parametrize("fusion", ["concat", "film"])
@pytest.mark.parametrize("count", [2, 3])
def test_without_weight_it_is_joint_bit_for_bit_and_asks_for_no_teachers(count: int, fusion: str) -> None:
    settings = {"method__fusion": fusion, "trainer__precision": "float32"}
    own = trainer_of("umt", count, method__weight=0.0, **settings)
    assert own.method.context.teachers == {}
    assert_equal_runs(own, trainer_of("joint", count, **settings))


def test_what_it_needs() -> None:
    needs = METHODS.get("umt").needs
    assert needs(UmtConfig()) == {Need.TEACHERS}
    assert needs(UmtConfig(weight=0.0)) == set()
    assert needs(UmtConfig(fusion="weight")) == {Need.TEACHERS, Need.EQUAL_FEATURES}


def test_a_teacher_teaches_its_modalitys_encoder_alone() -> None:
    own, plain = trainer_of("umt"), trainer_of("umt")
    plain.method.context.teachers["loud"] = plain.method.context.teachers["quiet"]
    found, expected = step_gradients(own), step_gradients(plain)
    different = {name for name, value in expected.items() if not torch.equal(found[name], value)}
    assert different == {f"model.encoders.loud.layer.{part}" for part in ("weight", "bias")}


def test_features_come_near_the_teachers_the_more_the_larger_the_weight() -> None:
    distances = []
    for weight in (0.1, 10.0):
        trainer = trainer_of("umt", method__weight=weight)
        trainer.fit()
        batch = batch_of(trainer)
        terms = trainer.method.losses(batch, "joint", trainer.engine)
        distances.append((terms["teacher/loud"] + terms["teacher/quiet"]).item() / weight)
    assert distances[1] < distances[0] / 2


def test_in_micro_batches_the_step_is_the_same() -> None:
    whole, parts = trainer_of("umt", 3), trainer_of("umt", 3, trainer__accumulate=3)
    expected, found = step_gradients(whole), step_gradients(parts)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_a_teacher_of_another_size_is_refused_before_an_epoch_begins() -> None:
    trainer = trainer_of("umt")
    trainer.method.context.teachers["quiet"].num_features = 8
    with pytest.raises(TrainingError, match=r"they are of quiet 6 \(the teacher's 8\): choose a method.fusion"):
        trainer.fit()


def test_teachers_draw_none_of_the_runs_random_numbers() -> None:
    first, second = trainer_of("umt"), trainer_of("joint")
    assert_same_state(first, second)  # as built: the same initial weights
