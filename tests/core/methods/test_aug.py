"""AUG against loops written from the paper's equations (2)-(6) and §3.3, and the growth of its classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor, nn

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED, EpochStats
from mmcore.methods.aug import (
    AugConfig,
    literal_residual_factor,
    modalities_to_grow,
    residual_factor,
    sample_scores,
    scaled_interval,
)
from mmcore.seeding import generator
from mmcore.training.checkpoint import CheckpointFolder, load_checkpoint
from mmcore.training.trainer import Trainer


def randn(*shape: int, purpose: str = "x") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(0, purpose))


def softmax(row: list[float]) -> list[float]:
    return [math.exp(value) / sum(map(math.exp, row)) for value in row]


# Equation (2)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_the_residual_loss_is_that_of_the_residual_label(weight: float) -> None:
    previous, newest, labels = 3 * randn(7, 4), randn(7, 4, purpose="new"), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    factor = residual_factor(previous, labels, weight)
    expected = [1 - weight * softmax(row)[y] for row, y in zip(previous.tolist(), labels.tolist(), strict=True)]
    assert factor.tolist() == pytest.approx(expected, abs=1e-12)
    residual = F.cross_entropy(newest, labels) - weight * F.cross_entropy(
        newest, F.one_hot(labels, 4) * previous.softmax(dim=1)
    )
    found = (factor * F.cross_entropy(newest, labels, reduction="none")).mean()
    torch.testing.assert_close(found, residual, rtol=0, atol=1e-12)


def test_the_literal_residual_sums_probabilities_and_never_turns_negative() -> None:
    each, labels = randn(5, 3, 4), torch.tensor([0, 1, 2, 3, 0])
    each[4, :, 0] = 40  # three classifiers certain of the label: 1 - 0.5·3 < 0
    expected = [
        max(0.0, 1 - 0.5 * sum(softmax(row)[y] for row in rows))
        for rows, y in zip(each.tolist(), labels.tolist(), strict=True)
    ]
    factor = literal_residual_factor(each, labels, 0.5)
    assert factor.tolist() == pytest.approx(expected, abs=1e-12)
    assert factor[4] == 0
    assert factor[:4].min() > 0


@pytest.mark.parametrize("factor", [residual_factor, literal_residual_factor])
def test_the_residual_label_carries_no_gradient(factor: Callable[..., Tensor]) -> None:
    shape = (2, 3) if factor is residual_factor else (2, 2, 3)
    assert not factor(randn(*shape).requires_grad_(), torch.tensor([0, 1]), 0.5).requires_grad


# A step


def aug_trainer(num_modalities: int = 2, counts: tuple[int, ...] = (), **settings: object) -> Trainer:
    """In float64 with small classifiers; `counts` of them per modality, all with random biases."""
    values = {"trainer__precision": "float64", "trainer__probes": False, "method__hidden": 5}
    settings = {key if "__" in key else f"method__{key}": value for key, value in settings.items()}
    run_dir = settings.pop("method__run_dir", None)
    spec = make_spec(num_modalities)
    trainer = make_trainer(make_config("aug", spec, **{**values, **settings}), spec, run_dir)
    method = trainer.method
    if counts:
        method.rebuild({"classifiers": dict(zip(method.context.modalities, counts, strict=True))})
        trainer = Trainer(trainer.config, method, trainer.loader, trainer.transforms, run_dir=run_dir)
    method.train()
    return trainer


def batches(trainer: Trainer, count: int = 1) -> list[Batch]:
    found = [batch for epoch in range(2) for batch in trainer.loader.train_batches(epoch)][:count]
    return [batch.with_inputs({name: x.double() for name, x in batch.inputs.items()}) for batch in found]


def second_layer(method: nn.Module, name: str) -> nn.Module:
    return method.second_layers[name if name in method.second_layers else "shared"]


def each_logits(method: nn.Module, name: str, features: Tensor) -> list[Tensor]:
    """The classifiers one after another, as the paper has them."""
    second = second_layer(method, name)
    return [second(torch.relu(first(features))) for first in method.first_layers[name]]


@pytest.mark.parametrize("second", ["shared", "private"])
def test_stacked_classifiers_equal_a_loop_over_layers(second: str) -> None:
    method = aug_trainer(3, (1, 2, 4), second_layer=second).method
    batch = batches(aug_trainer(3))[0]
    features, logits = method.model.encode(batch), method.predict(batch)
    for name, values in features.items():
        torch.testing.assert_close(logits[name], sum(each_logits(method, name, values)), rtol=0, atol=1e-12)
    mean = sum(logits[name] for name in features) / 3
    torch.testing.assert_close(logits[FUSED], mean, rtol=0, atol=1e-12)


def naive_loss(logits: list[Tensor], labels: Tensor, config: AugConfig) -> Tensor:
    """Equation (5) with rulings C1-C3, sample by sample; `logits` of every classifier of one modality."""
    total = torch.zeros((), dtype=torch.float64)
    for i, label in enumerate(labels.tolist()):
        rows = [values[i] for values in logits]
        all_loss = -torch.log_softmax(sum(rows), dim=0)[label]
        if len(rows) == 1:
            total = total + (2 if config.first_loss == "double" else 1) * all_loss
            continue
        previous = sum(rows[:-1])
        if config.residual == "soft":
            target = 1 - config.residual_weight * torch.softmax(previous, dim=0)[label].item()
        else:
            target = 1 - config.residual_weight * sum(torch.softmax(row, dim=0)[label].item() for row in rows[:-1])
        residual = -max(target, 0) * torch.log_softmax(rows[-1], dim=0)[label]
        total = total + residual + all_loss - torch.log_softmax(previous, dim=0)[label]
    return total / len(labels)


@pytest.mark.parametrize(
    "settings",
    [{}, {"residual_weight": 0.0}, {"residual_weight": 1.0, "residual": "literal"}, {"first_loss": "double"}],
    ids=str,
)
def test_losses_and_gradients_are_equation_5(settings: dict[str, object]) -> None:
    trainer = aug_trainer(3, (1, 2, 4), **settings)
    method, batch = trainer.method, batches(trainer)[0]
    terms = method.losses(batch, "joint", trainer.engine)
    features = method.model.encode(batch)
    expected = {
        name: naive_loss(each_logits(method, name, values), batch.labels, method.config)
        for name, values in features.items()
    }
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=0, atol=1e-12, msg=name)
    assert terms.keys() == expected.keys()
    parameters = list(method.parameters())
    found = torch.autograd.grad(sum(terms.values()), parameters)
    for gradient, wanted in zip(found, torch.autograd.grad(sum(expected.values()), parameters), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)


# The score and the rule of growth


@pytest.mark.parametrize("score", ["confidence", "entropy", "loss"])
def test_sample_scores(score: str) -> None:
    logits, labels = 2 * randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        value = {"confidence": p[label], "loss": -math.log(p[label]), "entropy": -sum(q * math.log(q) for q in p)}
        expected += value[score] / 6
    found = sample_scores(logits.requires_grad_(), labels, score)
    assert found.mean().item() == pytest.approx(expected, abs=1e-12)
    assert not found.requires_grad
    assert sample_scores(logits.bfloat16(), labels, score).dtype == torch.float32


GROWTH = {
    "the weak one": ([0.8, 0.5], {}, [1]),
    "the weak one, the other way round": ([0.5, 0.8], {}, [0]),
    "inside the dead zone": ([0.505, 0.5], {}, []),
    "exactly at the threshold": ([0.75, 0.5], {"tau": 0.25}, []),
    "just over it": ([0.7501, 0.5], {"tau": 0.25}, [1]),
    "equal": ([0.5, 0.5], {"tau": 0.0}, []),
    "sigma spares the nearly as strong": ([0.6, 0.5], {"sigma": 1.25}, []),
    "sigma, far behind": ([0.8, 0.5], {"sigma": 1.25}, [1]),
    "sigma multiplies the weak score alone": ([0.86, 0.5], {"sigma": 1.25, "tau": 0.2}, [1]),
    "sigma never grows the stronger": ([0.5, 0.6], {"sigma": 1.25}, []),
    "three, one grows": ([0.5, 0.9, 0.4], {}, [2]),
    "three, far apart, still one": ([0.1, 0.9, 0.2], {}, [0]),
    "entropy, largest is weakest": ([0.2, 0.9, 0.5], {"score": "entropy"}, [1]),
    "loss, largest is weakest": ([1.7, 0.3], {"score": "loss"}, [0]),
    "loss, dead zone": ([0.305, 0.3], {"score": "loss"}, []),
    "ratio over": ([0.6, 0.5], {"growth": "ratio"}, [1]),
    "ratio, where the difference is under τ": ([0.0104, 0.01], {"growth": "ratio"}, [1]),
    "ratio, where the difference is over τ": ([0.9, 0.88], {"growth": "ratio", "tau": 0.05, "sigma": 1.0}, []),
    "ratio, loss": ([0.3, 0.5], {"growth": "ratio", "score": "loss"}, [1]),
    "ratio, nothing right": ([0.5, 0.0], {"growth": "ratio"}, [1]),
    "share, none": ([0.6, 0.5], {"growth": "share"}, []),
    "share, one": ([0.8, 0.3], {"growth": "share"}, [1]),
    "share, two of three": ([0.9, 0.2, 0.25], {"growth": "share"}, [1, 2]),
    "share, under 2/5 of the others": ([0.5, 0.5, 0.399], {"growth": "share"}, [2]),
    "share, over 2/5 of the others": ([0.5, 0.5, 0.401], {"growth": "share"}, []),
}


@pytest.mark.parametrize("case", GROWTH)
def test_who_grows(case: str) -> None:
    scores, settings, expected = GROWTH[case]
    assert modalities_to_grow(scores, AugConfig(**settings)) == expected


@pytest.mark.parametrize("score", ["entropy", "loss"])
def test_share_compares_confidences_alone(score: str) -> None:
    with pytest.raises(ConfigError, match=f"method.score must be confidence with method.growth = share, got '{score}'"):
        aug_trainer(2, growth="share", score=score)


@pytest.mark.parametrize(
    ("every", "schedule", "epochs", "expected"),
    [(20, 200, 20, 2), (20, 200, 200, 20), (20, 200, 100, 10), (1, 200, 20, 1), (20, 200, 4, 1), (20, 200, 1, 1),
     (100, 200, 40, 10), (10, 10, 12, 3), (15, 200, 40, 3)],
)  # fmt: skip
def test_the_interval_is_scaled_with_the_run(every: int, schedule: int, epochs: int, expected: int) -> None:
    assert scaled_interval(every, schedule, epochs) == expected


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_score_is_the_mean_over_the_epochs_samples(accumulate: int) -> None:
    trainer = aug_trainer(2, (1, 2), trainer__accumulate=accumulate)
    method, sums, count = trainer.method, {"loud": 0.0, "quiet": 0.0}, 0
    for batch in batches(trainer, 3):
        part = batch.select(0, 16 - 5 * (count > 0))  # batches of unequal size
        for name in sums:
            rows = method.predict(part)[name].tolist()
            sums[name] += sum(softmax(row)[y] for row, y in zip(rows, part.labels.tolist(), strict=True))
        count += part.num_samples
        method.train_step(part, trainer.engine)
    values = method.diagnostics()
    for name, total in sums.items():
        assert values[f"score/{name}"].item() == pytest.approx(total / count, abs=1e-12)
    scores = [total / count for total in sums.values()]
    assert values["score_ratio"].item() == pytest.approx(max(scores) / min(scores))
    assert (values["classifiers/loud"], values["classifiers/quiet"]) == (1, 2)
    method.end_epoch(EpochStats(2), trainer.engine)
    assert (method.score_sum.tolist(), method.score_count.tolist()) == ([0, 0], [0, 0])


# Growth through the engine

ALWAYS = {"tau": 0.0, "check_every_epochs": 1, "schedule_epochs": 1000}


def counts(trainer: Trainer) -> list[int]:
    return list(trainer.method.structure()["classifiers"].values())


def test_a_new_classifier_is_trained_at_the_current_rate_and_checkpointed(tmp_path) -> None:
    trainer = aug_trainer(
        2,
        **ALWAYS,
        run_dir=tmp_path,
        schedule__name="step",
        schedule__step_epochs=1,
        optimizer__momentum=0.0,
        optimizer__weight_decay=0.0,
    )
    method, engine = trainer.method, trainer.engine
    trainer.train_epoch()
    trainer.end_epoch(0.0)
    assert sorted(counts(trainer)) == [1, 2]
    name = next(name for name, layers in method.first_layers.items() if len(layers) == 2)
    new, before = method.first_layers[name][1].weight, method.first_layers[name][1].weight.detach().clone()
    assert engine.learning_rate == pytest.approx(0.002)
    updated = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    assert sum(parameter is new for parameter in updated) == 1
    assert any(parameter is new for parameter in method.parameter_groups()[f"head/{name}"])
    gradients = []
    step = engine.optimizer.step
    engine.optimizer.step = lambda: (gradients.append(new.grad.clone()), step())
    method.train_step(batches(trainer)[0], engine)
    torch.testing.assert_close(new.detach(), before - 0.002 * gradients[0], rtol=0, atol=1e-15)
    assert not torch.equal(new, before)
    folder = CheckpointFolder(tmp_path / "checkpoints")
    state = load_checkpoint(folder.path / "epoch-000001")
    assert torch.equal(state["method"][f"first_layers.{name}.1.weight"], before)
    assert state["structure"]["classifiers"][name] == 2
    assert state["engine"]["lr"] == pytest.approx(0.002)
    assert f"first_layers.{name}.1.weight" not in folder.best()["method"]  # a random head is never the best model


def test_growth_makes_the_plateau_forget_its_best_loss() -> None:
    trainer = aug_trainer(2, schedule__patience_epochs=1)
    trainer.engine.end_epoch(0, 0.1)
    trainer.method.score_sum.copy_(torch.tensor([0.9, 0.5]))
    trainer.method.score_count.fill_(1)
    trainer.method.end_epoch(EpochStats(0), trainer.engine)
    assert counts(trainer) == [1, 2]
    rates = []
    for epoch, loss in ((1, 5.0), (2, 4.0), (3, 4.0), (4, 4.0)):
        trainer.engine.end_epoch(epoch, loss)
        rates.append(trainer.engine.learning_rate)
    assert rates == pytest.approx([0.02, 0.02, 0.02, 0.002])  # 4.0 is better than 5.0, though not than 0.1


def test_a_new_classifiers_momentum_is_checkpointed() -> None:
    trainer = aug_trainer(2, **ALWAYS)
    for _ in range(2):
        trainer.train_epoch()
        trainer.end_epoch(0.0)
    name = next(name for name, layers in trainer.method.first_layers.items() if len(layers) > 1)
    state = trainer.engine.state_dict()["optimizer"]
    assert state[f"first_layers.{name}.1.weight"]["momentum_buffer"].abs().max() > 0


def test_equal_seeds_give_equal_new_classifiers_whatever_the_global_state() -> None:
    layers = []
    for seed, state in ((0, 1), (0, 2), (5, 1)):
        spec = make_spec(2)
        trainer = make_trainer(make_config("aug", spec, seed=seed, method__tau=0.0), spec)
        method = trainer.method
        method.score_sum.copy_(torch.tensor([0.9, 0.5]))
        method.score_count.fill_(1)
        torch.manual_seed(state)
        method.end_epoch(EpochStats(0), trainer.engine)
        assert counts(trainer) == [1, 2]
        layers.append(method.first_layers["quiet"][1])
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(layers[0].bias, layers[1].bias)
    assert not torch.equal(layers[0].weight, layers[2].weight)
    bound = 1 / math.sqrt(6)
    assert 0.8 * bound < layers[0].weight.abs().max() <= bound


def fit_counts(epochs: int, **settings: object) -> list[int]:
    trainer = aug_trainer(2, **{**ALWAYS, **settings}, trainer__max_epochs=epochs)
    trainer.fit()
    return counts(trainer)


def test_growth_happens_at_every_interval_but_never_after_the_last_epoch() -> None:
    assert sum(fit_counts(4)) == 2 + 3
    assert sum(fit_counts(8, check_every_epochs=250)) == 2 + 3  # every 2 of 8, not after the eighth
    assert sum(fit_counts(1, check_first_epoch=True)) == 2


def test_check_first_epoch_adds_a_check_after_the_first() -> None:
    settings = {"check_every_epochs": 500, "schedule_epochs": 1000}
    assert sum(fit_counts(5, **settings)) == 2 + 4  # at most a quarter of 5 epochs: every epoch
    assert sum(fit_counts(8, **settings)) == 2 + 3
    assert sum(fit_counts(8, **settings, check_first_epoch=True)) == 2 + 4


def test_the_cap_holds_and_does_not_pass_the_growth_to_another() -> None:
    assert fit_counts(6, max_classifiers=1) == [1, 1]
    grown = fit_counts(6, max_classifiers=2)
    assert max(grown) == 2


def test_a_frozen_classifier_never_moves_but_passes_gradients_on() -> None:
    trainer = aug_trainer(2, **ALWAYS, added_classifiers="frozen")
    method = trainer.method
    trainer.train_epoch()
    trainer.end_epoch(0.0)
    name = next(name for name, layers in method.first_layers.items() if len(layers) > 1)
    first, new = method.first_layers[name]
    before = {key: value.clone() for key, value in method.state_dict().items()}
    in_optimizer = [id(p) for group in trainer.engine.optimizer.param_groups for p in group["params"]]
    assert id(new.weight) not in in_optimizer
    assert id(first.weight) in in_optimizer
    features = method.model.encode(batches(trainer)[0])[name].detach().requires_grad_()
    gradient = torch.autograd.grad(second_layer(method, name)(torch.relu(new(features))).sum(), features)[0]
    assert gradient.abs().max() > 0
    method.train_step(batches(trainer)[0], trainer.engine)
    after = method.state_dict()
    assert torch.equal(after[f"first_layers.{name}.1.weight"], before[f"first_layers.{name}.1.weight"])
    assert torch.equal(after[f"first_layers.{name}.1.bias"], before[f"first_layers.{name}.1.bias"])
    assert not torch.equal(after[f"first_layers.{name}.0.weight"], before[f"first_layers.{name}.0.weight"])
    torch.testing.assert_close(  # and it counts in the prediction
        method.predict(batches(trainer)[0])[name],
        sum(each_logits(method, name, method.model.encode(batches(trainer)[0])[name])),
    )


# Switches


def test_an_alternating_phase_moves_its_own_modality_and_the_shared_layer_alone() -> None:
    trainer = aug_trainer(2, (2, 3), update="alternating", optimizer__weight_decay=0.1, optimizer__momentum=0.9)
    method, engine = trainer.method, trainer.engine
    moved: list[set[str]] = []
    step = engine.step

    def recording_step() -> None:
        before = {name: value.clone() for name, value in method.named_parameters()}
        step()
        moved.append({name for name, value in method.named_parameters() if not torch.equal(value, before[name])})

    engine.step = recording_step
    for batch in batches(trainer, 3):
        terms = method.train_step(batch, engine)
        assert list(terms) == ["loud", "quiet"]
    names = [name for name, _ in method.named_parameters()]
    for phase, changed in zip(["loud", "quiet"] * 3, moved, strict=True):
        assert changed == {name for name in names if f".{phase}." in name or name.startswith("second_layers.shared")}


def test_alternating_phases_see_the_shared_layer_already_updated() -> None:
    trainer = aug_trainer(2, (1, 2), update="alternating", optimizer__momentum=0.0, optimizer__weight_decay=0.0)
    method, batch = trainer.method, batches(trainer)[0]
    terms = method.train_step(batch, trainer.engine)
    twin = aug_trainer(2, (1, 2), update="alternating")
    twin.method.load_state_dict(aug_trainer(2, (1, 2)).method.state_dict())
    for phase in ("loud", "quiet"):
        loss = twin.method.losses(batch, phase, twin.engine)[phase]
        assert terms[phase].item() == pytest.approx(loss.item(), abs=1e-12)
        parameters = twin.method.phase_parameters(phase)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.02 * gradient


def test_a_private_second_layer_is_of_one_modality() -> None:
    trainer = aug_trainer(2, (2, 2), second_layer="private")
    method, batch = trainer.method, batches(trainer)[0]
    assert list(method.second_layers) == ["loud", "quiet"]
    loss = method.losses(batch, "joint", trainer.engine)["loud"]
    own, other = (method.second_layers[name].weight for name in ("loud", "quiet"))
    gradients = torch.autograd.grad(loss, [own, other], allow_unused=True)
    assert gradients[0].abs().max() > 0
    assert gradients[1] is None


def test_fusion_weights() -> None:
    trainer = aug_trainer(2, (1, 2), fusion_weights={"quiet": 0.6, "loud": 0.4})
    batch = batches(trainer)[0]
    logits = trainer.method.predict(batch)
    torch.testing.assert_close(logits[FUSED], 0.4 * logits["loud"] + 0.6 * logits["quiet"])
    scaled = aug_trainer(2, (1, 2), fusion_weights={"quiet": 3.0, "loud": 2.0})  # relative: the same as 0.6 and 0.4
    torch.testing.assert_close(scaled.method.predict(batch)[FUSED], trainer.method.predict(batch)[FUSED])
    with pytest.raises(ConfigError, match=r"fusion_weights must not all be 0, got \{'loud': 0.0, 'quiet': 0.0\}"):
        aug_trainer(2, fusion_weights={"loud": 0, "quiet": 0})
    with pytest.raises(ConfigError, match=r"fusion_weights\.quiet must be"):
        aug_trainer(2, fusion_weights={"loud": 1, "quiet": -1})
    with pytest.raises(ConfigError, match=r"fusion_weights must have a weight for each of loud, quiet, got \['loud'\]"):
        aug_trainer(2, fusion_weights={"loud": 1.0})
    with pytest.raises(ConfigError, match="loud, quiet, got"):
        aug_trainer(2, fusion_weights={"loud": 0.4, "quite": 0.6})
