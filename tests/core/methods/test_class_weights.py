"""Class weights: the numbers themselves, and the losses of every method against loops over the samples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from synthetic import make_config, make_data, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED, METHODS
from mmcore.methods.base import EpochStats
from mmcore.methods.iprm import normalise, slerp
from mmcore.training.class_weights import sample_weights
from mmcore.training.trainer import Trainer

GIVEN = [1.0, 4.0, 0.5]
LABELS = torch.tensor([0, 0, 0, 1, 0, 2, 0, 1])


class TestWeights:
    def test_balanced_classes_count_alike_and_the_mean_is_one(self) -> None:
        weights = sample_weights("balanced", LABELS, 3)
        assert weights is not None
        assert weights.tolist() == pytest.approx([8 / 15, 8 / 6, 8 / 3])
        per_sample = weights[LABELS]
        assert per_sample.mean() == pytest.approx(1)
        assert [per_sample[label == LABELS].sum().item() for label in range(3)] == pytest.approx([8 / 3] * 3)

    def test_a_class_without_samples_changes_nothing(self) -> None:
        weights = sample_weights("balanced", LABELS, 5)
        assert weights is not None
        assert weights[:3].tolist() == pytest.approx([8 / 15, 8 / 6, 8 / 3])
        assert torch.isfinite(weights).all()

    @pytest.mark.parametrize("factor", [1, 7])
    def test_of_given_weights_only_the_ratios_matter(self, factor: float) -> None:
        weights = sample_weights([factor * weight for weight in GIVEN], LABELS, 3)
        mean = sum(GIVEN[label] for label in LABELS.tolist()) / 8
        assert weights is not None
        assert weights.tolist() == pytest.approx([weight / mean for weight in GIVEN])

    def test_none(self) -> None:
        assert sample_weights("none", LABELS, 3) is None


def trainer(method: str, count: int = 2, **values: Any) -> Trainer:
    spec = make_spec(count)
    settings = {"trainer__class_weights": GIVEN, "trainer__precision": "float64", "trainer__probes": False, **values}
    return make_trainer(make_config(method, spec, **settings), spec)


def batch(count: int = 2) -> Batch:
    data = make_data(make_spec(count), 9)
    data.inputs = {name: values.double() for name, values in data.inputs.items()}
    data.labels = torch.tensor([0, 0, 1, 2, 2, 2, 1, 0, 2])
    return data


def weighted(logits: Tensor, labels: Tensor, factors: list[float] | None = None, mask: Tensor | None = None) -> float:
    """Mean over the (masked) samples of w_y times factor times -log softmax_y, in a loop. 80 training samples."""
    mean = sum(GIVEN[sample % 3] for sample in range(80)) / 80
    total, number = 0.0, 0
    for index, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        if mask is None or mask[index]:
            loss = math.log(sum(map(math.exp, row))) - row[label]
            total += GIVEN[label] / mean * loss * (1 if factors is None else factors[index])
            number += 1
    return total / number


def losses(trained: Trainer, data: Batch) -> dict[str, float]:
    terms: dict[str, float] = {}
    for phase in trained.method.phases():
        next(iter(trained.engine.micro_batches(data)))
        terms |= {name: term.item() for name, term in trained.method.losses(data, phase, trained.engine).items()}
    return terms


@pytest.mark.parametrize("method", ["unimodal", "ensemble", "joint", "joint_unimodal"])
def test_methods_with_a_head_for_each_loss(method: str) -> None:
    trained, data = trainer(method), batch()
    logits = trained.method.predict(data)
    expected = {name: weighted(values, data.labels) for name, values in logits.items()}
    found = losses(trained, data)
    assert found == pytest.approx({name: expected[name] for name in found})
    if method.startswith("joint"):
        assert FUSED in found


def test_samples_that_lack_a_modality_are_left_out_of_the_mean_weights_and_all() -> None:
    trained, data = trainer("ensemble"), batch()
    data.present = {"quiet": torch.tensor([True, False, True, True, False, True, False, True, True])}
    logits = trained.method.predict(data)["quiet"]
    assert losses(trained, data)["quiet"] == pytest.approx(weighted(logits, data.labels, mask=data.present["quiet"]))


def test_iprm_weights_cross_entropies_and_not_divergences() -> None:
    trained, data = trainer("iprm", 3), batch(3)
    plain = trainer("iprm", 3, trainer__class_weights="none")
    features = trained.method.model.encode(data)
    found = losses(trained, data)
    losses(plain, data)
    assert torch.equal(trained.method.next_weight, plain.method.next_weight)
    method: Any = trained.method
    for name, values in features.items():
        assert found[name] == pytest.approx(weighted(method.heads[name](values), data.labels))
    for index, (first, second) in enumerate(itertools.combinations(features, 2)):
        divergences = method.divergence[index]
        share = divergences[1] / divergences.sum()
        mixed = slerp(normalise(features[first]), normalise(features[second]), share)
        logits = method.mixed_heads[f"{first}+{second}"](mixed)
        assert found[f"mixed/{first}+{second}"] == pytest.approx(weighted(logits, data.labels))


@pytest.mark.parametrize("residual", ["soft", "literal"])
def test_aug_weights_the_residual_term_too_and_not_its_scores(residual: str) -> None:
    values = {"method__initial_classifiers": 3, "method__residual_weight": 0.4, "method__residual": residual}
    trained, data = trainer("aug", **values), batch()
    plain = trainer("aug", trainer__class_weights="none", **values)
    method: Any = trained.method
    found = losses(trained, data)
    losses(plain, data)
    assert torch.equal(method.score_sum, plain.method.score_sum)
    for name, features in method.model.encode(data).items():
        each = [method.second_layers["shared"](layer(features).relu()) for layer in method.first_layers[name]]
        previous = each[0] + each[1]
        labels = data.labels.tolist()
        if residual == "soft":
            known = [row.softmax(0)[label].item() for row, label in zip(previous, labels, strict=True)]
        else:
            rows = zip(*each[:2], labels, strict=True)
            known = [(one.softmax(0)[label] + two.softmax(0)[label]).item() for one, two, label in rows]
        factors = [max(0.0, 1 - 0.4 * share) for share in known]
        expected = weighted(previous + each[2], data.labels) + weighted(previous, data.labels)
        assert found[name] == pytest.approx(expected + weighted(each[2], data.labels, factors))


@pytest.mark.parametrize(("first_loss", "factor"), [("single", 1), ("double", 2)])
def test_aug_with_one_classifier(first_loss: str, factor: int) -> None:
    trained, data = trainer("aug", method__first_loss=first_loss), batch()
    logits = trained.method.predict(data)
    found = losses(trained, data)
    assert found == pytest.approx({name: factor * weighted(logits[name], data.labels) for name in found})


def test_aug_with_weighted_terms_instead_of_classifiers() -> None:
    trained, data = trainer("aug", method__added_classifiers="none", method__residual_weight=0.4), batch()
    method: Any = trained.method
    method.boosted[1] = 1
    logits = method.predict(data)["quiet"]
    known = [row.softmax(0)[label].item() for row, label in zip(logits, data.labels.tolist(), strict=True)]
    factors = [1 + 1 + 1 - 0.4 * share for share in known]
    assert losses(trained, data)["quiet"] == pytest.approx(weighted(logits, data.labels, factors))


@pytest.mark.parametrize("method", METHODS.names())
def test_equal_weights_change_nothing_and_others_do(method: str) -> None:
    states = []
    for setting in ("none", [2.0, 2.0, 2.0], GIVEN):
        trained = trainer(method, trainer__class_weights=setting, trainer__max_epochs=1)
        trained.train_epoch()
        trained.method.end_epoch(EpochStats(0), trained.engine)
        states.append(torch.cat([parameter.detach().flatten() for parameter in trained.method.parameters()]))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-12)
    assert (states[0] - states[2]).abs().max() > 1e-4


def test_metrics_and_validation_loss_have_no_weights() -> None:
    evaluations = [trainer("joint", trainer__class_weights=setting).evaluate("val") for setting in ("none", GIVEN)]
    assert evaluations[0].metrics == evaluations[1].metrics
    assert {f"fused/class_{index}/accuracy" for index in range(3)} < evaluations[0].metrics.keys()


def test_balanced_weights_are_those_of_the_training_split_in_the_runs_precision() -> None:
    weights = trainer("joint", trainer__class_weights="balanced", trainer__precision="float32").engine.class_weights
    assert weights is not None
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([80 / (3 * count) for count in (27, 27, 26)])
    assert trainer("joint", trainer__class_weights="none").engine.class_weights is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("balance", "trainer.class_weights must be 'none' or 'balanced', or .*got 'balance'"),
        ([1.0, 0.0, 1.0], r"trainer.class_weights must be .* greater than 0, got 0"),
        ([1.0, 2.0], "trainer.class_weights must have a weight for each of 3 classes, got 2"),
    ],
)
def test_wrong_settings(setting: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer("joint", trainer__class_weights=setting)
