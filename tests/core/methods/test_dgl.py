"""DGL: which loss moves which weights, against naive loops and autograd, and its invariants."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stepping import step_gradients, trainer_of
from torch import Tensor

from mmcore.assembly.config import variant_settings, variants_of, with_values
from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.fusion import build_fusion
from mmcore.methods.unimodal_scores import head_slices, lone_logits
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

SIZES = {"a": 3, "b": 2, "c": 4}
both_fusions = pytest.mark.parametrize("fusion", ["concat", "sum"])
every_count = pytest.mark.parametrize("count", [2, 3, 4])


def features_of() -> dict[str, Tensor]:
    draw = generator(0, "dgl")
    return {m: torch.randn(5, size, generator=draw, dtype=torch.float64) for m, size in SIZES.items()}


def first_batch(trainer: Trainer) -> Batch:
    return trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)


def naive_loss(logits: Tensor, labels: Tensor) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total += math.log(sum(map(math.exp, row))) - row[label]
    return total / len(labels)


@both_fusions
def test_one_modality_alone_has_its_weights_and_its_bias_or_all_of_it(fusion: str) -> None:
    head, features = build_fusion(fusion, SIZES, 4).double(), features_of()
    found, start = lone_logits(head, features), 0
    for name, values in features.items():
        layer = head.heads[name] if fusion == "sum" else head.head
        columns = layer.weight if fusion == "sum" else layer.weight[:, start : start + SIZES[name]]
        for i in range(5):
            for k in range(4):
                products = [w * f for w, f in zip(columns[k].tolist(), values[i].tolist(), strict=True)]
                assert found[name][i, k].item() == pytest.approx(sum(products) + layer.bias[k].item(), rel=1e-12)
        start += SIZES[name]


@pytest.mark.parametrize("fusion", ["film", "gated", "weight"])
def test_a_head_that_is_no_sum_of_parts_is_refused(fusion: str) -> None:
    with pytest.raises(TypeError, match="cannot be taken apart by modality: use the concat or sum fusion"):
        head_slices(build_fusion(fusion, dict.fromkeys(SIZES, 3), 4), dict.fromkeys(SIZES, 3))


@both_fusions
def test_a_frozen_head_gets_no_gradient_and_features_the_same_one(fusion: str) -> None:
    head, found = build_fusion(fusion, SIZES, 4).double(), {}
    for frozen in (False, True):
        features = {name: values.requires_grad_() for name, values in features_of().items()}
        torch.stack(list(lone_logits(head, features, frozen=frozen).values())).square().sum().backward()
        found[frozen] = {name: values.grad for name, values in features.items()}
        assert all((parameter.grad is None) == frozen for parameter in head.parameters())
        head.zero_grad()
    assert all(torch.equal(found[True][name], found[False][name]) for name in SIZES)


@both_fusions
@every_count
def test_the_terms_are_those_of_naive_loops(count: int, fusion: str) -> None:
    trainer = trainer_of("dgl", count, method__fusion=fusion)
    batch = first_batch(trainer)
    terms, logits = trainer.method.losses(batch, "joint", trainer.engine), trainer.method.predict(batch)
    assert list(terms) == list(logits) == [FUSED, *trainer.method.context.modalities]
    for name, term in terms.items():
        assert term.item() == pytest.approx((1 if name == FUSED else 4) * naive_loss(logits[name], batch.labels))


@both_fusions
@every_count
def test_the_head_moves_by_the_fused_loss_alone_and_encoders_by_their_own(count: int, fusion: str) -> None:
    own = trainer_of("dgl", count, method__fusion=fusion)
    joint = trainer_of("joint", count, method__fusion=fusion)
    found, plain = step_gradients(own), step_gradients(joint)
    again = trainer_of("dgl", count, method__fusion=fusion)
    batch, method = first_batch(again), again.method
    logits = method.predict(batch)
    for name, parameter in method.named_parameters():
        modality = next((m for m in method.context.modalities if f"encoders.{m}." in name), None)
        if modality is None:
            assert torch.equal(found[name], plain[name]), name  # joint training's, bit for bit
        else:
            loss = 4 * F.cross_entropy(logits[modality], batch.labels)
            (expected,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-15)
            assert not torch.allclose(found[name], plain[name])


@both_fusions
def test_the_factor_multiplies_the_encoders_gradients_and_leaves_the_heads(fusion: str) -> None:
    one, eight, none = (
        step_gradients(trainer_of("dgl", 3, method__fusion=fusion, method__alpha=alpha)) for alpha in (1.0, 8.0, 0.0)
    )
    for name, gradient in one.items():
        is_encoder = "encoders." in name
        assert torch.equal(eight[name], (8 if is_encoder else 1) * gradient), name
        assert torch.equal(none[name], (0 if is_encoder else 1) * gradient), name


def test_without_the_factor_and_decay_encoders_stay_and_the_head_learns() -> None:
    trainer = trainer_of("dgl", 2, method__alpha=0.0, optimizer__weight_decay=0.0)
    before = {name: value.clone() for name, value in trainer.method.named_parameters()}
    trainer.fit()
    for name, value in trainer.method.named_parameters():
        assert torch.equal(value, before[name]) == ("encoders." in name), name


def test_in_micro_batches_gradients_are_those_of_the_whole_step() -> None:
    whole, parts = (step_gradients(trainer_of("dgl", 3, trainer__accumulate=count)) for count in (1, 3))
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient)


def test_an_own_loss_is_over_the_samples_that_have_the_modality_and_the_fused_one_over_all() -> None:
    trainer = trainer_of("dgl", 3)
    batch = first_batch(trainer)
    has = torch.arange(16) % 3 > 0
    batch.present = {"quiet": has}
    terms, logits = trainer.method.losses(batch, "joint", trainer.engine), trainer.method.predict(batch)
    assert terms["quiet"].item() == pytest.approx(4 * naive_loss(logits["quiet"][has], batch.labels[has]))
    assert terms["loud"].item() == pytest.approx(4 * naive_loss(logits["loud"], batch.labels))
    features = trainer.method.model.encode(batch)
    assert features["quiet"][~has].count_nonzero() == 0
    assert terms[FUSED].item() == pytest.approx(naive_loss(trainer.method.fusion(features), batch.labels))


def test_the_released_code_clips_at_40() -> None:
    settings = variant_settings("dgl", "released", ("loud", "quiet"))
    assert settings == {"optimizer.clip_norm": 40.0}
    config = with_values(trainer_of("dgl").config, settings)
    assert "released" in variants_of(config, ("loud", "quiet"))


@pytest.mark.parametrize("fusion", ["film", "gated", "weight"])
def test_a_fusion_that_cannot_be_taken_apart_is_refused(fusion: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.fusion must be .*concat.*sum"):
        trainer_of("dgl", method__fusion=fusion)
