"""MMCosine: the cosine logits against a naive loop, and its invariants."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from synthetic import NUM_CLASSES, make_config, make_spec, make_trainer

from mmcore.batch import Batch
from mmcore.methods import FUSED
from mmcore.methods.mmcosine import cosine_logits, unit
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

DRAW = generator(0, "mmcosine")
FEATURES = torch.randn(5, 4, generator=DRAW, dtype=torch.float64)
WEIGHT = torch.randn(3, 4, generator=DRAW, dtype=torch.float64)


def trainer_of(count: int = 2, **values: object) -> Trainer:
    spec = make_spec(count)
    trainer = make_trainer(make_config("mmcosine", spec, **{"trainer__precision": "float64", **values}), spec)
    trainer.method.train()
    return trainer


def first_batch(trainer: Trainer) -> Batch:
    return trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)


def test_logits_are_s_times_the_cosine() -> None:
    found = cosine_logits(FEATURES, WEIGHT, 10.0)
    for i, feature in enumerate(FEATURES.tolist()):
        for k, row in enumerate(WEIGHT.tolist()):
            product = sum(a * b for a, b in zip(feature, row, strict=True))
            expected = 10 * product / math.hypot(*feature) / math.hypot(*row)
            assert found[i, k].item() == pytest.approx(expected, rel=1e-10)
    assert found.abs().max() <= 10


def test_sizes_of_features_and_of_a_class_s_weights_do_not_matter() -> None:
    expected = cosine_logits(FEATURES, WEIGHT, 10.0)
    scales = torch.tensor([0.1, 1.0, 2.0, 30.0, 400.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(cosine_logits(FEATURES * scales, WEIGHT * scales[:3], 10.0), expected)


def test_the_gradient_is_orthogonal_to_the_features() -> None:
    features = FEATURES.clone().requires_grad_()
    F.cross_entropy(cosine_logits(features, WEIGHT, 10.0), torch.tensor([0, 1, 2, 0, 1])).backward()
    assert features.grad.norm() > 0.1
    torch.testing.assert_close((features.grad * FEATURES).sum(1), torch.zeros(5, dtype=torch.float64))


def test_features_of_zero_give_0_and_a_finite_gradient() -> None:
    features = torch.zeros(2, 4, requires_grad=True)
    logits = cosine_logits(features, WEIGHT.float(), 10.0)
    logits.sum().backward()
    assert logits.count_nonzero() == 0
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lengths_are_taken_in_float32(dtype: torch.dtype) -> None:
    vectors = 100 * FEATURES.to(dtype)  # squares overflow float16
    found = unit(vectors)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double().norm(dim=1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_training_and_prediction_use_the_same_summed_logits(count: int) -> None:
    trainer = trainer_of(count)
    batch = first_batch(trainer)
    predicted = trainer.method.predict(batch)
    assert list(predicted) == [FUSED, *trainer.method.context.modalities]
    torch.testing.assert_close(predicted[FUSED], sum(predicted[m] for m in trainer.method.context.modalities))
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    assert list(terms) == [FUSED]
    torch.testing.assert_close(terms[FUSED], F.cross_entropy(predicted[FUSED], batch.labels))
    assert not [name for name, _ in trainer.method.named_parameters() if "heads" in name and "bias" in name]


def test_a_missing_modality_adds_nothing() -> None:
    trainer = trainer_of(3)
    batch = first_batch(trainer)
    batch.present = {"quiet": torch.zeros(16, dtype=torch.bool)}
    predicted = trainer.method.predict(batch)
    torch.testing.assert_close(predicted[FUSED], predicted["loud"] + predicted["faint"])


def test_at_a_scale_of_0_all_classes_are_alike() -> None:
    trainer = trainer_of(method__scale=0.0)
    terms = trainer.method.losses(first_batch(trainer), "joint", trainer.engine)
    assert terms[FUSED].item() == pytest.approx(math.log(NUM_CLASSES))


def test_the_released_prediction_is_the_raw_head_with_a_bias_that_nothing_trains() -> None:
    trainer, own = trainer_of(method__predict="linear"), trainer_of()
    bias = trainer.method.bias.clone()
    trainer.fit(), own.fit()
    for name, value in own.method.state_dict().items():  # trained alike
        assert torch.equal(trainer.method.state_dict()[name], value), name
    assert bias.count_nonzero() == NUM_CLASSES
    assert torch.equal(trainer.method.bias, bias)
    trainer.method.eval()
    batch = first_batch(trainer)
    features = trainer.method.model.encode(batch)
    expected = sum(values @ trainer.method.heads[name].weight.T for name, values in features.items()) + bias
    torch.testing.assert_close(trainer.method.predict(batch)[FUSED], expected)
