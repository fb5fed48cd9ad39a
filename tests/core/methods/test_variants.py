"""The named variants: what each sets, that a run can be recognised by it, and that each trains another model."""

from __future__ import annotations

import pytest
import torch
from synthetic import make_config, make_spec, make_trainer

from mmcore.assembly.config import parse_config, variant_settings, variants_of, with_values
from mmcore.assembly.objects import build_method
from mmcore.errors import UsageError
from mmcore.methods import METHODS, EpochStats
from mmcore.training.trainer import Trainer

NAMES = ("loud", "quiet", "faint")
SCORES = {("aug", "entropy"), ("aug", "loss")}
"""Another score grows another modality only where the scores disagree: tests/core/methods/test_aug.py."""
VARIANTS = [(name, variant) for name in METHODS.names() for variant in METHODS.get(name).variants(NAMES)]
ELSEWHERE = {
    ("amss", "released"), ("dgl", "released"), ("g2d", "released"), ("gblending", "absolute"), ("mmpareto", "released"),
    ("ogm", "released"), ("relearning", "released"),
}  # fmt: skip
"""AMSS, G2D and OGM need convolutions, which tiny encoders lack (tests/core/methods/test_amss.py, ...); DGL
clips where gradients are larger (test_dgl.py); G-Blending differs where a head gets worse (test_gblending.py); the
others are a schedule alone (tests/e2e/test_released.py, test_relearning.py)."""
OWN = {
    "arl": {"method__schedule_epochs": 10},
    "aug": {"method__tau": 0.0, "method__check_every_epochs": 1, "method__schedule_epochs": 1000},
    "gblending": {"method__super_epoch": 2},
}
"""Method -> settings with which each switch has something to do: growth at every epoch, several trials,
a start after the first epoch."""


def trainer_of(method: str, modalities: int = 2, variant: str | None = None, **values: object) -> Trainer:
    spec = make_spec(modalities)
    config = make_config(method, spec, **values)
    if variant:
        config = with_values(config, variant_settings(method, variant, spec.modality_names))
    return make_trainer(config, spec)


def state_after(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer.fit()
    return trainer.method.state_dict()


def test_iprm_and_aug_name_the_released_code_and_every_ablation() -> None:
    assert [variant for name, variant in VARIANTS if name == "iprm"] == [
        "released", "linear", "no_average", "one_pass", "fixed",
    ]  # fmt: skip
    assert [variant for name, variant in VARIANTS if name == "aug"] == [
        "released", "single", "frozen", "from_start", "weighted", "private", "entropy", "loss",
    ]  # fmt: skip


def test_the_released_settings_are_those_of_the_specification() -> None:
    assert variant_settings("aug", "released", ("audio", "image")) == {
        "method.growth": "ratio",
        "method.check_first_epoch": True,
        "method.added_classifiers": "frozen",
        "method.update": "alternating",
        "method.fusion_weights": {"audio": 0.4, "image": 0.6},
        "schedule.name": "step",
        "schedule.step_epochs": 70,
    }
    assert variant_settings("aug", "released", NAMES)["method.fusion_weights"] == {
        "loud": 0.33, "quiet": 0.33, "faint": 0.34,
    }  # fmt: skip
    assert "method.fusion_weights" not in variant_settings("aug", "released", ("image", "text"))
    assert variant_settings("iprm", "released", NAMES) == {
        "method.third_head": "shared", "schedule.name": "step", "schedule.step_epochs": 70,
    }  # fmt: skip


@pytest.mark.parametrize(("method", "variant"), [pair for pair in VARIANTS if pair not in SCORES | ELSEWHERE])
def test_a_variant_is_recognised_and_is_another_run_than_the_default(method: str, variant: str) -> None:
    settings = {"schedule__step_epochs": 70, "trainer__max_epochs": 6, **OWN.get(method, {})}
    own = trainer_of(method, 3, variant, **settings)
    assert variant in variants_of(own.config, NAMES)
    default = trainer_of(method, 3, **settings)
    assert variant not in variants_of(default.config, NAMES)
    first, second = state_after(own), state_after(default)
    same_structure = first.keys() == second.keys() and all(first[name].shape == second[name].shape for name in first)
    evaluations = [trainer.evaluate("val").logits["fused"] for trainer in (own, default)]
    assert not same_structure or not torch.equal(*evaluations)


def test_an_unknown_variant_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown variant of aug 'frozn': did you mean 'frozen'"):
        variant_settings("aug", "frozn", NAMES)


def test_frozen_classifiers_start_as_in_the_released_code_and_stay() -> None:
    trainer = trainer_of("aug", 2, "frozen", model__projection_dim=None)
    method = trainer.method
    method._add_classifier("quiet", trainer.engine)
    layer = method.first_layers["quiet"][1]
    assert layer.bias.count_nonzero() == 0
    deviation = (2 / (layer.in_features + layer.out_features)) ** 0.5
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
    before = layer.weight.clone()
    trainer.train_epoch()
    assert torch.equal(layer.weight, before)


def test_a_weighted_modality_gets_the_loss_of_three_terms_and_no_classifier() -> None:
    trainer = trainer_of("aug", 2, "weighted", trainer__precision="float64")
    method, batch = trainer.method, next(iter(trainer.loader.train_batches(0)))
    batch = trainer.transforms(batch, training=True)
    plain = method.losses(batch, "joint", trainer.engine)
    method._add_classifier("quiet", trainer.engine)
    weighted = method.losses(batch, "joint", trainer.engine)
    assert method.structure() == {"classifiers": {"loud": 1, "quiet": 1}}
    assert weighted["loud"] == plain["loud"]
    logits = method.predict(batch)["quiet"]
    expected = 0.0
    for row, label in zip(logits.tolist(), batch.labels.tolist(), strict=True):
        exponentials = [torch.tensor(value, dtype=torch.float64).exp().item() for value in row]
        probability = exponentials[label] / sum(exponentials)
        expected -= (2 + 1 - 0.5 * probability) * torch.tensor(probability).log().item() / len(batch.labels)
    assert weighted["quiet"].item() == pytest.approx(expected, rel=1e-6)


def test_all_classifiers_from_the_start_are_trained_and_none_is_added() -> None:
    trainer = trainer_of("aug", 2, "from_start", method__tau=0.0, method__check_every_epochs=1)
    method = trainer.method
    before = [layer.weight.clone() for layers in method.first_layers.values() for layer in layers]
    trainer.fit()
    assert method.structure() == {"classifiers": {"loud": 4, "quiet": 4}}
    after = [layer.weight for layers in method.first_layers.values() for layer in layers]
    assert len(before) == 8
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    twin = build_method(parse_config(trainer.config.to_dict()), make_spec(2))
    twin.rebuild(method.structure())
    twin.load_state_dict(method.state_dict())
    method.end_epoch(EpochStats(0), trainer.engine)
    assert method.structure() == twin.structure()
