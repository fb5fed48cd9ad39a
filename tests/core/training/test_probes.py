"""Linear probes: their gradient and their optimizer by hand, their lack of any effect, what they reach."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from synthetic import make_config, make_spec, make_trainer

from mmcore.batch import Batch
from mmcore.seeding import generator
from mmcore.training.probes import Probes

NUM_CLASSES = 4


SIZES = {"image": 5, "audio": 3}


def make_batch(
    num_samples: int, purpose: str = "data", sizes: Mapping[str, int] = SIZES
) -> tuple[dict[str, torch.Tensor], Batch]:
    draws = generator(0, purpose)
    labels = torch.randint(NUM_CLASSES, (num_samples,), generator=draws)
    features = {name: torch.randn(num_samples, size, generator=draws) for name, size in sizes.items()}
    return features, Batch(features, labels)


def reference_step(weight: torch.nn.Parameter, optimizer: torch.optim.Adam, inputs: torch.Tensor, y: torch.Tensor):
    """Autograd and torch's Adam on the summed cross-entropy."""
    optimizer.zero_grad()
    ones = torch.ones(len(y), 1, dtype=inputs.dtype)
    F.cross_entropy(torch.cat([inputs, ones], dim=1) @ weight.T, y, reduction="sum").backward()
    optimizer.step()


@pytest.mark.parametrize("sizes", [{"image": 5, "audio": 3}, {"image": 4, "audio": 4, "text": 4}], ids=str)
def test_a_probe_learns_as_autograd_and_adam_would_teach_it(sizes: dict[str, int]) -> None:
    probes = Probes(sizes, NUM_CLASSES, torch.float64).train()
    with torch.no_grad():
        for name, weight in probes.weights.items():
            weight.copy_(torch.randn(weight.shape, dtype=torch.float64, generator=generator(0, name)))
    expected = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in probes.weights.items()}
    optimizers = {name: torch.optim.Adam([weight], lr=0.01) for name, weight in expected.items()}
    for step, count in enumerate([9, 2, 7, 9]):  # a mean instead of a sum would show where sizes differ
        features, batch = make_batch(count, f"step {step}", sizes)
        for part in (slice(0, count // 2), slice(count // 2, count)):  # two micro-batches of one step
            probes.observe({name: x[part] for name, x in features.items()}, batch.select(part.start, part.stop))
        probes.step()
        for name, weight in expected.items():
            reference_step(weight, optimizers[name], features[name].double(), batch.labels)
    for name, weight in expected.items():
        torch.testing.assert_close(probes.weights[name], weight.detach(), rtol=0, atol=1e-9, check_device=False)


def test_a_placeholder_and_a_modality_not_seen_count_for_nothing() -> None:
    probes = Probes(SIZES, NUM_CLASSES).train()
    features, batch = make_batch(4)
    batch.is_placeholder = True
    probes.observe(features, batch)
    batch.is_placeholder = False
    probes.observe({"image": features["image"]}, batch)
    probes.step()
    assert probes.weights["image"].any()
    assert not probes.weights["audio"].any()


def test_in_evaluation_it_predicts_and_learns_nothing() -> None:
    probes = Probes(SIZES, NUM_CLASSES).eval()
    with torch.no_grad():
        probes.weights["image"].copy_(torch.randn(NUM_CLASSES, 6, generator=generator(0, "weights")))
    features, batch = make_batch(4)
    probes.observe(features, batch)
    weight = probes.weights["image"].detach()
    torch.testing.assert_close(probes.logits["image"], features["image"] @ weight[:, :-1].T + weight[:, -1])
    before = weight.clone()
    probes.step()
    assert torch.equal(probes.weights["image"], before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_model_is_the_same_with_and_without_probes(precision: str) -> None:
    spec, states = make_spec(2), []
    for probes in (True, False):
        trainer = make_trainer(make_config("joint", spec, trainer__probes=probes, trainer__precision=precision), spec)
        trainer.train_epoch()
        states.append(trainer.method.state_dict())
        assert trainer.method.model.listener is None or probes
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert states[0].keys() == states[1].keys()


def test_a_probe_reaches_logistic_regression_on_an_easy_set() -> None:
    draws = generator(0, "easy")
    labels = torch.arange(600) % NUM_CLASSES
    means = 1.2 * torch.randn(NUM_CLASSES, 8, generator=draws)
    features = means[labels] + torch.randn(600, 8, generator=draws)
    train, test = slice(0, 400), slice(400, 600)
    reference = LogisticRegression().fit(features[train], labels[train]).score(features[test], labels[test])
    probes = Probes({"image": 8}, NUM_CLASSES).train()
    for _ in range(15):
        for part in torch.randperm(400, generator=draws).split(40):
            probes.observe({"image": features[part]}, Batch({}, labels[part]))
            probes.step()
    probes.eval()
    probes.observe({"image": features[test]}, Batch({}, labels[test]))
    reached = (probes.logits["image"].argmax(dim=1) == labels[test]).double().mean().item()
    assert 0.8 < reference < 0.99
    assert reached >= reference - 0.02


def test_weights_and_momenta_are_restored() -> None:
    first, second = (Probes(SIZES, NUM_CLASSES).train() for _ in range(2))
    for purpose in ("one", "two"):
        first.observe(*make_batch(6, purpose))
        first.step()
    second.load_full_state(copy.deepcopy(first.full_state()))
    for probes in (first, second):
        probes.observe(*make_batch(6, "three"))
        probes.step()
    assert torch.equal(first.weights["image"], second.weights["image"])
