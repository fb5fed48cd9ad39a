"""SimBaMM: the transformer against a naive loop, its invariants and its settings."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.simbamm import SimBaMMConfig, TokenFusion
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

SIZES = {"a": 3, "b": 2, "c": 4}
CONFIG = SimBaMMConfig(width=8, layers=2, hidden=5, attention_heads=2, dropout=0.0)
NOBODY = dict.fromkeys(SIZES)


def fusion() -> TokenFusion:
    torch.manual_seed(0)
    return TokenFusion(SIZES, CONFIG, 4).double()


def features_of(num_samples: int = 5) -> dict[str, Tensor]:
    draw = generator(0, "features")
    return {m: torch.randn(num_samples, size, generator=draw, dtype=torch.float64) for m, size in SIZES.items()}


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def naive_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean = x.mean()
    return (x - mean) / ((x - mean).square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def naive_layer(tokens: list[Tensor], layer: nn.TransformerEncoderLayer) -> list[Tensor]:
    """Post-norm, token by token and head by head."""
    q, k, v = layer.self_attn.in_proj_weight.chunk(3)
    bq, bk, bv = layer.self_attn.in_proj_bias.chunk(3)
    found = []
    for token in tokens:
        mixed = []
        for head in (slice(0, 4), slice(4, 8)):
            query = (q @ token + bq)[head]
            shares = softmax([(query @ (k @ other + bk)[head]).item() / 2 for other in tokens])
            mixed.append(sum(share * (v @ other + bv)[head] for share, other in zip(shares, tokens, strict=True)))
        x = naive_norm(token + layer.self_attn.out_proj(torch.cat(mixed)), layer.norm1)
        found.append(naive_norm(x + layer.linear2(layer.linear1(x).relu()), layer.norm2))
    return found


@torch.no_grad()
@pytest.mark.parametrize("is_training", [True, False])
def test_logits_are_those_of_a_naive_loop(is_training: bool) -> None:
    model, features = fusion().train(is_training), features_of()
    found = model(features, NOBODY)
    for i in range(5):
        tokens = [model.class_token + model.positions["class"]]
        tokens += [model.projections[m](values[i]) + model.positions[m] for m, values in features.items()]
        for layer in model.layers:
            tokens = naive_layer(tokens, layer)
        torch.testing.assert_close(found[i], model.head(tokens[0]), rtol=1e-9, atol=1e-10)


def test_the_order_of_modalities_does_not_matter() -> None:
    model, features = fusion(), features_of()
    turned = {name: features[name] for name in ("c", "a", "b")}
    torch.testing.assert_close(model(features, NOBODY), model(turned, NOBODY), rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("left", [["a"], ["c"], ["a", "b"], ["b", "c"]], ids="+".join)
def test_masking_a_modality_equals_removing_it(left: list[str], is_training: bool) -> None:
    model, features = fusion().train(is_training), features_of()
    present = {name: torch.full((5,), name in left) for name in SIZES}
    found = model(features, present)
    removed = {name: features[name] for name in left}
    torch.testing.assert_close(found, model(removed, NOBODY), rtol=1e-10, atol=1e-12)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found, model(features, NOBODY))


def test_with_no_modality_left_logits_are_finite() -> None:
    model = fusion()
    assert torch.isfinite(model(features_of(), {name: torch.zeros(5, dtype=torch.bool) for name in SIZES})).all()


def test_every_layer_is_drawn_by_itself() -> None:
    model = fusion()
    first, second = (layer.linear1.weight for layer in model.layers)
    assert not torch.equal(first, second)


def trainer_of(count: int = 2, **values: object) -> Trainer:
    spec = make_spec(count)
    return make_trainer(make_config("simbamm", spec, **{"trainer__precision": "float64", **values}), spec)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_loss_is_the_fused_cross_entropy_alone(count: int) -> None:
    trainer = trainer_of(count, method__dropout=0.0)
    trainer.method.train()
    raw: Batch = next(iter(trainer.loader.train_batches(0)))
    batch = trainer.transforms(raw, training=True)
    predicted = trainer.method.predict(batch)
    assert list(predicted) == [FUSED]
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    assert list(terms) == [FUSED]
    torch.testing.assert_close(terms[FUSED], F.cross_entropy(predicted[FUSED], batch.labels))


def test_dropout_is_of_training_alone() -> None:
    trainer = trainer_of(method__dropout=0.5)
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    trainer.method.train()
    draws = [trainer.method.predict(batch)[FUSED] for _ in range(2)]
    assert not torch.equal(*draws)
    trainer.method.eval()
    assert torch.equal(trainer.method.predict(batch)[FUSED], trainer.method.predict(batch)[FUSED])


def test_a_width_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.width must be a multiple of method\.attention_heads \(4\), got 30"):
        trainer_of(method__width=30)
