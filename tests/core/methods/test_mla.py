"""MLA: its equations against naive loops, a whole run against the rule written out, each ruling, and its invariants."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_same_state, trainer_of
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.mla import entropy_logits, step_alpha, updated_projector
from mmcore.methods.step import Place
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

SIZE = 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "mla", *shape), dtype=torch.float64)


def symmetric() -> Tensor:
    root = drawn(SIZE, SIZE)
    return root @ root.T / SIZE


def naive_projector(p: list[list[float]], r: list[float], alpha: float, elementwise: bool, norm: bool) -> Tensor:
    size = range(len(r))
    q = [sum(p[i][j] * r[j] for j in size) for i in size]
    inner = sum(r[i] * q[i] for i in size)
    new = [[p[i][j] - q[i] * q[j] / (alpha + (q[i] * r[j] if elementwise else inner)) for j in size] for i in size]
    length = math.sqrt(sum(value**2 for row in new for value in row)) if norm else 1.0
    return torch.tensor([[value / length for value in row] for row in new], dtype=torch.float64)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("denominator", ["scalar", "elementwise"])
def test_the_projector_is_that_of_the_equation(denominator: str, norm: bool) -> None:
    p, r = symmetric(), drawn(SIZE)
    expected = naive_projector(p.tolist(), r.tolist(), 0.07, denominator == "elementwise", norm)
    torch.testing.assert_close(
        updated_projector(p, r, 0.07, denominator, normalise=norm), expected, rtol=1e-12, atol=1e-12
    )


def test_alpha_falls_within_an_epoch_and_starts_anew() -> None:
    found = [step_alpha(0.1, step, 4) for step in range(4)]
    assert found == pytest.approx([0.1, 0.1**1.25, 0.1**1.5, 0.1**1.75])


def test_the_projector_stays_symmetric_without_negative_directions_and_shrinks_what_it_took_up() -> None:
    p = torch.eye(SIZE, dtype=torch.float64)
    for step in range(50):
        r = drawn(50, SIZE)[step]
        alpha = step_alpha(0.1, step % 5, 5)
        before, shrunk = p @ r, updated_projector(p, r, alpha, "scalar", normalise=False)
        torch.testing.assert_close(shrunk @ r, before * alpha / (alpha + r @ before), rtol=1e-9, atol=1e-12)
        p = updated_projector(p, r, alpha, "scalar", normalise=True)
        torch.testing.assert_close(p, p.T, rtol=1e-10, atol=1e-12)
        assert torch.linalg.eigvalsh(p).min() > -1e-12
        assert p.norm().item() == pytest.approx(1)


def test_with_a_large_alpha_nothing_is_projected_away() -> None:
    p = updated_projector(torch.eye(SIZE, dtype=torch.float64), drawn(SIZE), 1e12, "scalar", normalise=False)
    torch.testing.assert_close(p, torch.eye(SIZE, dtype=torch.float64))


def naive_fused(logits: dict[str, Tensor], present: dict[str, list[bool]], sample: int) -> list[float]:
    weights, rows = [], []
    for name, values in logits.items():
        if not present[name][sample]:
            continue
        row = values[sample].tolist()
        total = sum(math.exp(value) for value in row)
        probabilities = [math.exp(value) / total for value in row]
        weights.append(math.exp(sum(p * math.log(p) for p in probabilities)))
        rows.append(row)
    parts = zip(weights, rows, strict=True)
    scaled = [[weight / sum(weights) * value for value in row] for weight, row in parts]
    return [sum(column) for column in zip(*scaled, strict=True)] if scaled else [0.0] * 3


@pytest.mark.parametrize("has_missing", [False, True])
def test_fused_logits_are_weighed_by_each_samples_own_entropies(has_missing: bool) -> None:
    logits = {"loud": 3 * drawn(4, 3), "quiet": drawn(4, 3) * 0.2, "faint": -drawn(4, 3)}
    present = {name: [True] * 4 for name in logits}
    if has_missing:
        for name, missing in {"loud": [1, 2], "quiet": [2, 3], "faint": [2, 3]}.items():
            present[name] = [sample not in missing for sample in range(4)]
    masks = {name: torch.tensor(mask) for name, mask in present.items()} if has_missing else {}
    found = entropy_logits(logits, Batch({}, torch.zeros(4, dtype=torch.int64), present=masks))
    for sample in range(4):
        assert found[sample].tolist() == pytest.approx(naive_fused(logits, present, sample), rel=1e-12)
        own = slice(sample, sample + 1)
        batch = Batch({}, torch.zeros(1), present={name: mask[own] for name, mask in masks.items()})
        alone = entropy_logits({name: values[own] for name, values in logits.items()}, batch)
        assert torch.equal(alone[0], found[sample])  # whoever else is asked


def test_a_modality_that_is_sure_counts_more() -> None:
    sure, unsure = torch.tensor([[9.0, 0, 0]]), torch.tensor([[0, 0.1, 0]])
    found = entropy_logits({"a": sure, "b": unsure}, Batch({}, torch.zeros(1)))
    assert found[0, 0] > (sure + unsure)[0, 0] / 2


# Whole steps


@dataclass
class Rule:
    """The rule of a run, written out: encoders once per batch, then the turns, by plain momentum SGD."""

    trainer: Trainer
    settings: dict[str, object]
    momentum: dict[str, Tensor] = field(default_factory=dict)
    turns: int = 0
    previous: Tensor = field(default_factory=lambda: torch.zeros(6, dtype=torch.float64))

    def __post_init__(self) -> None:
        self.weights = {k: v.detach().clone() for k, v in self.trainer.method.named_parameters()}
        self.p = torch.eye(6, dtype=torch.float64).tolist()

    def features(self, batch: Batch, name: str) -> Tensor:
        weight, bias = (self.weights[f"model.encoders.{name}.layer.{part}"] for part in ("weight", "bias"))
        return torch.tanh(batch.inputs[name].double() @ weight.T + bias)

    def step(self, batch: Batch, step: int, num_steps: int) -> None:
        for parameter in self.weights.values():
            parameter.requires_grad_()
        encoded = {name: self.features(batch, name) for name in self.trainer.method.context.modalities}
        for name, features in encoded.items():
            head = {key: self.weights[key].detach().clone().requires_grad_() for key in ("head.weight", "head.bias")}
            loss = F.cross_entropy(features @ head["head.weight"].T + head["head.bias"], batch.labels)
            own = {key: value for key, value in self.weights.items() if f".{name}." in key}
            parameters = {**own, **head}
            gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            self.project(gradients, features.detach(), 0.1 ** (1 + step / num_steps))
            for key, gradient in gradients.items():
                self.update(key, gradient)

    def project(self, gradients: dict[str, Tensor], features: Tensor, alpha: float) -> None:
        if self.settings.get("method__projection") is False:
            return
        mean = features.mean(dim=0)
        taken = mean if self.settings.get("method__project_on") != "previous" else self.previous
        if self.turns:
            elementwise = self.settings.get("method__denominator") == "elementwise"
            norm = self.settings.get("method__normalise") is not False
            self.p = naive_projector(self.p, taken.tolist(), alpha, elementwise, norm).tolist()
            gradients["head.weight"] = gradients["head.weight"] @ torch.tensor(self.p, dtype=torch.float64).T
        self.previous = mean
        self.turns += 1

    def update(self, key: str, gradient: Tensor) -> None:
        optimizer = self.trainer.config.optimizer
        weight = self.weights[key].detach()
        gradient = gradient + optimizer.weight_decay * weight
        before = self.momentum.get(key)
        self.momentum[key] = gradient if before is None else optimizer.momentum * before + gradient
        self.weights[key] = weight - optimizer.lr * self.momentum[key]


SETTINGS = [
    {},
    {"method__projection": False},
    {"method__normalise": False},
    {"method__project_on": "previous"},
    {"method__denominator": "elementwise"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("count", [2, 3])
def test_a_run_is_the_rule_written_out(count: int, settings: dict[str, object]) -> None:
    # That encoders run in their own turns here, and all before the first turn there, makes no difference.
    trainer = trainer_of("mla", count, optimizer__weight_decay=0.01, schedule__name="constant", **settings)
    rule = Rule(trainer, settings)
    for epoch in range(2):
        for step, batch in enumerate(trainer.loader.train_batches(epoch)):
            trainer.progress.epoch, trainer.progress.step_in_epoch = epoch, step
            trainer.train_step(batch)
            rule.step(batch, step, trainer.loader.num_steps)
    # Divisors near 0, which `elementwise` meets, enlarge rounding.
    bounds = {"rtol": 1e-4, "atol": 1e-5} if "method__denominator" in settings else {"rtol": 1e-7, "atol": 1e-9}
    for name, value in trainer.method.named_parameters():
        torch.testing.assert_close(value.detach(), rule.weights[name].detach(), **bounds)
    if settings.get("method__projection") is not False:
        torch.testing.assert_close(trainer.method.projector, torch.tensor(rule.p, dtype=torch.float64), **bounds)


@pytest.mark.parametrize("turns", [0, 5])
def test_all_but_the_first_turn_project_the_weights_gradient_and_never_the_bias(turns: int) -> None:
    own, plain = trainer_of("mla"), trainer_of("mla", method__projection=False)
    own.method.turns.fill_(turns)
    batch = own.transforms(next(iter(own.loader.train_batches(0))), training=True)
    for trainer in (own, plain):
        engine, method = trainer.engine, trainer.method
        engine.backward(method.losses(batch, "loud", engine), "loud")
        engine.reduce_gradients("loud")
        method.adjust_gradients(batch, "loud", engine)
    first, second = own.method.head, plain.method.head
    assert torch.equal(first.weight.grad, second.weight.grad) == (turns == 0)
    assert torch.equal(own.method.projector, torch.eye(6, dtype=torch.float64)) == (turns == 0)
    assert torch.equal(first.bias.grad, second.bias.grad)
    assert own.method.turns == turns + 1
    expected = first.weight.grad.norm() / second.weight.grad.norm()
    torch.testing.assert_close(own.method.kept[0], expected)


def test_one_modality_without_projection_is_unimodal() -> None:
    settings = {"trainer__precision": "float64"}
    spec = make_spec(1)
    own = make_trainer(make_config("mla", spec, method__projection=False, **settings), spec)
    alone = make_trainer(make_config("unimodal", spec, **settings), spec)
    own.fit(), alone.fit()
    state = own.method.state_dict()
    for name, value in alone.method.state_dict().items():
        assert torch.equal(state[name.replace("heads.loud", "head")], value), name


def test_in_micro_batches_the_mean_features_are_the_steps() -> None:
    whole, parts = trainer_of("mla", 3), trainer_of("mla", 3, trainer__accumulate=3)
    whole.fit(), parts.fit()
    for name, value in whole.method.state_dict().items():
        torch.testing.assert_close(parts.method.state_dict()[name], value, rtol=1e-8, atol=1e-10)


def masked_step(trainer: Trainer, present: dict[str, Tensor]) -> None:
    batch = next(iter(trainer.loader.train_batches(0)))
    batch.present = present
    trainer.train_step(batch)


def test_mean_features_are_over_the_samples_that_have_the_modality() -> None:
    trainer = trainer_of("mla")
    has = torch.arange(16) % 3 > 0
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)
    # Its encoder moves after its own turn alone.
    expected = trainer.method.model.encode(batch)["quiet"][has].mean(dim=0)
    masked_step(trainer, {"quiet": has})
    torch.testing.assert_close(trainer.method.mean, expected)


def test_a_turn_that_no_sample_has_changes_neither_the_projector_nor_weights() -> None:
    trainer = trainer_of("mla", optimizer__weight_decay=0.0)
    masked_step(trainer, {})
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    trainer.engine.optimizer.state.clear()  # what momentum moves is no matter of this turn
    masked_step(trainer, dict.fromkeys(("loud", "quiet"), torch.zeros(16, dtype=torch.bool)))
    after = trainer.method.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"turns", "kept"}


def test_static_weights_are_a_fixed_mean() -> None:
    weights = {"loud": 1.0, "quiet": 3.0}
    trainer = trainer_of("mla", method__predict="static", method__weights=weights)
    batch = trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=False)
    found = trainer.method.predict(batch)
    torch.testing.assert_close(found[FUSED], 0.25 * found["loud"] + 0.75 * found["quiet"])
    with pytest.raises(ConfigError, match=r"method.weights must have a weight for each of loud, quiet"):
        trainer_of("mla", method__weights={"loud": 1.0})
    with pytest.raises(ConfigError, match=r"method.weights must not all be 0"):
        trainer_of("mla", method__weights={"loud": 0.0, "quiet": 0.0})


def test_the_released_weights_are_those_of_its_three_modalities() -> None:
    variants = trainer_of("mla").method.variants
    weights = variants(("audio", "image", "text"))["released"]["method.weights"]
    assert weights == {"audio": 0.35, "image": 0.25, "text": 0.4}
    assert "method.weights" not in variants(("audio", "image"))["released"]


def test_the_kept_length_is_logged() -> None:
    trainer = trainer_of("mla", 3)
    rows = trainer.fit() and trainer.reporter.rows
    assert all(0 < row[f"method/kept_gradient/{name}"] < 1 for row in rows for name in ("loud", "quiet", "faint"))
    assert not trainer_of("mla", method__projection=False).method.diagnostics()


# What the engine tells: the place in the run


@pytest.mark.parametrize("stopped", [False, True])
def test_the_place_is_told_in_every_step_also_after_a_resume(stopped: bool, tmp_path) -> None:
    values = {"trainer__max_epochs": 2, "trainer__checkpoint_every_steps": 2}
    trainer = trainer_of("joint", 2, tmp_path, **values)
    seen: list[Place] = []

    def record(one: Trainer) -> None:
        losses = one.method.losses

        def recording(batch: Batch, phase: str, engine: object) -> dict[str, Tensor]:
            seen.append(engine.place)
            if stopped and len(seen) == 8:  # epoch 1 was last saved after its second step
                raise InterruptedError
            return losses(batch, phase, engine)

        one.method.losses = recording

    record(trainer)
    if stopped:
        with pytest.raises(InterruptedError):
            trainer.fit()
        seen.clear()
        trainer = trainer_of("joint", 2, tmp_path, **values)
        record(trainer)
    trainer.fit()
    expected = [Place(epoch, step, 5) for epoch in range(2) for step in range(5)]
    assert seen == (expected[7:] if stopped else expected)


def test_equal_seeds_give_equal_runs_whatever_is_predicted() -> None:
    own, static = trainer_of("mla"), trainer_of("mla", method__predict="static")
    own.fit(), static.fit()
    assert_same_state(own, static)
