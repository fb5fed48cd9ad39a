"""Samples that lack modalities: what each method learns from them and how it predicts them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from processes import run_processes
from synthetic import NUM_CLASSES, QUICKER, make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.batch import Batch
from mmcore.methods import FUSED, METHODS
from mmcore.methods.iprm import Iprm, pair_key
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

every_method = pytest.mark.parametrize("method", METHODS.names())
NAMES = ("loud", "quiet", "faint")


def some_present(num_samples: int, names: tuple[str, ...], always_one: bool = True) -> dict[str, Tensor]:
    """About a third of everything is missing; the first modality is there where nothing else is."""
    draws = torch.rand(len(names), num_samples, generator=generator(0, "present")) < 0.65
    if always_one:
        draws[0] |= ~draws.any(dim=0)
    return dict(zip(names, draws, strict=True))


def trainer_with_missing(method: str, count: int = 3, num_train: int = 80, **values: object) -> Trainer:
    spec = make_spec(count)
    options = {name: values.pop(name) for name in ("rank", "world_size", "run_dir") if name in values}
    config = make_config(method, spec, **{"trainer__precision": "float64", **values})
    trainer = make_trainer(config, spec, num_train=num_train, **options)
    trainer.loader._data.present = some_present(num_train + 60, spec.modality_names)
    return trainer


def first_batch(trainer: Trainer) -> Batch:
    trainer.method.train()
    batch = trainer.transforms(next(trainer.loader.train_batches(0)), training=True)
    next(trainer.engine.micro_batches(batch))
    return batch


def rows(batch: Batch, mask: Tensor) -> Batch:
    """The samples of a mask, all of them complete."""
    return Batch({name: values[mask] for name, values in batch.inputs.items()}, batch.labels[mask])


@every_method
def test_a_prediction_does_not_depend_on_what_is_stored_for_a_modality_that_is_absent(method: str) -> None:
    trainer = trainer_with_missing(method)
    trainer.fit()
    trainer.method.eval()
    batch = first_batch(trainer)
    trainer.method.eval()
    expected = trainer.method.predict(batch)
    for name, mask in batch.present.items():
        changed = dict(batch.inputs)
        changed[name] = torch.where(mask[:, None], batch.inputs[name], torch.nan)
        found = trainer.method.predict(batch.with_inputs(changed))
        assert found.keys() == expected.keys()
        for head, logits in found.items():
            assert torch.equal(logits, expected[head]), f"{head} without {name}"
    complete = trainer.method.predict(Batch(batch.inputs, batch.labels))
    whole = torch.stack([batch.present[name] for name in trainer.method.context.modalities]).all(dim=0)
    assert 0 < whole.sum() < len(whole)
    torch.testing.assert_close(complete[FUSED][whole], expected[FUSED][whole])  # complete samples as ever
    assert not torch.allclose(complete[FUSED][~whole], expected[FUSED][~whole])


@every_method
def test_training_goes_well_with_missing_modalities(method: str) -> None:
    # With ten classifiers AUG diverges at this learning rate.
    few = {"method__max_classifiers": 2} if method == "aug" else QUICKER.get(method, {})
    trainer = trainer_with_missing(method, trainer__max_epochs=12, **few)
    before = trainer.evaluate("train").metrics["fused/loss"]
    trainer.fit()
    after = trainer.evaluate("train").metrics
    assert after["fused/loss"] < 0.8 * before
    assert after["fused/accuracy"] > 0.6


@pytest.mark.parametrize("method", ["unimodal", "ensemble", "joint_unimodal", "iprm", "aug"])
def test_a_modalitys_own_loss_is_the_mean_over_the_samples_that_have_it(method: str) -> None:
    trainer = trainer_with_missing(method)
    batch = first_batch(trainer)
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    for name in trainer.method.context.modalities:
        own = rows(batch, batch.present[name])
        logits = trainer.method.predict(own)[name]
        torch.testing.assert_close(terms[name], F.cross_entropy(logits, own.labels))
    gradients = torch.autograd.grad(sum(terms.values()), list(trainer.method.parameters()), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_a_modality_no_sample_of_a_step_has_costs_and_teaches_nothing() -> None:
    for method in ("ensemble", "iprm", "aug", "joint_unimodal"):
        trainer = trainer_with_missing(method)
        batch = first_batch(trainer)
        batch.present["quiet"] = torch.zeros_like(batch.present["quiet"])
        terms = trainer.method.losses(batch, "joint", trainer.engine)
        assert terms["quiet"].item() == 0
        parameters = list(trainer.method.model.encoders["quiet"].parameters())
        gradients = torch.autograd.grad(terms["quiet"], parameters)
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_iprms_pairs_are_those_of_the_samples_that_have_both() -> None:
    masked, plain = (trainer_with_missing("iprm", 2) for _ in range(2))
    batch = first_batch(masked)
    both = batch.present["loud"] & batch.present["quiet"]
    terms = masked.method.losses(batch, "joint", masked.engine)
    expected = plain.method.losses(rows(batch, both), "joint", plain.engine)
    torch.testing.assert_close(terms["mixed/loud+quiet"], expected["mixed/loud+quiet"])
    for name in ("weight", "next_weight", "divergence"):
        torch.testing.assert_close(getattr(masked.method, name), getattr(plain.method, name))
    assert masked.method.next_weight[0] != 0.5


def test_a_step_without_a_complete_pair_leaves_iprms_weight_as_it_is() -> None:
    trainer = trainer_with_missing("iprm", 2)
    batch = first_batch(trainer)
    trainer.method.losses(batch, "joint", trainer.engine)
    before = trainer.method.next_weight.clone()
    batch.present["quiet"] = ~batch.present["loud"]
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    assert terms["mixed/loud+quiet"].item() == 0
    assert torch.equal(trainer.method.next_weight, before)
    assert before.item() != 0.5


@pytest.mark.parametrize("pair_heads", ["per_pair", "single"])
def test_in_micro_batches_iprms_average_is_of_all_complete_pairs_of_the_step(pair_heads: str) -> None:
    whole, parts = (
        trainer_with_missing("iprm", 3, method__pair_heads=pair_heads, trainer__accumulate=count) for count in (1, 5)
    )
    batch = first_batch(whole)
    assert len({int(batch.has("loud", "quiet")[start : start + 3].sum()) for start in range(0, 15, 3)}) > 1
    for trainer in (whole, parts):
        trainer.method.train().train_step(batch, trainer.engine)
    for name in ("weight", "next_weight", "divergence"):
        torch.testing.assert_close(getattr(parts.method, name), getattr(whole.method, name))
    assert (whole.method.next_weight != 0.5).any()


def naive_iprm(method: Iprm, sample: Batch, has: list[str]) -> Tensor:
    """Own heads of what is there, and the mean over the pairs of it, each from a complete prediction of the pair."""
    features = {name: values[0] for name, values in method.model.encode(sample).items()}
    total = sum(method.heads[name](features[name]) for name in has)
    mixed = []
    for index, (first, second) in enumerate(method.pairs):
        if first in has and second in has:
            a, b = (features[name] / (features[name].square().sum() + 1e-8).sqrt() for name in (first, second))
            angle = torch.acos((a * b).sum() / (a.norm() * b.norm()))
            share = method.weight[index]
            z = (torch.sin(share * angle) * a + torch.sin((1 - share) * angle) * b) / torch.sin(angle)
            mixed.append(method.mixed_heads[pair_key(first, second)](z))
    return total + sum(mixed) / len(mixed) if mixed else total


def subsets() -> list[list[str]]:
    return [list(names) for size in (1, 2, 3) for names in itertools.combinations(NAMES, size)]


@pytest.mark.parametrize("has", subsets(), ids="+".join)
def test_how_each_method_fuses_what_is_there(has: list[str]) -> None:
    def predict(method: str, **values: object) -> tuple[Trainer, Batch, dict[str, Tensor]]:
        trainer = trainer_with_missing(method, trainer__max_epochs=2, **values)
        trainer.fit()
        batch = first_batch(trainer).select(0, 1)
        trainer.method.eval()
        batch.present = {name: torch.tensor([name in has]) for name in NAMES}
        return trainer, Batch(batch.inputs, batch.labels), trainer.method.predict(batch)

    _, _, ensemble = predict("ensemble")
    torch.testing.assert_close(ensemble[FUSED], sum(ensemble[name] for name in has) / len(has))
    _, _, averaged = predict("ensemble", method__average="probabilities")
    expected = sum(averaged[name].softmax(dim=1) for name in has) / len(has)
    torch.testing.assert_close(averaged[FUSED].softmax(dim=1), expected)
    weights = {"loud": 1.0, "quiet": 2.0, "faint": 5.0}
    _, _, aug = predict("aug", method__fusion_weights=weights)
    expected = sum(weights[name] * aug[name] for name in has) / sum(weights[name] for name in has)
    torch.testing.assert_close(aug[FUSED], expected)
    trainer, whole, iprm = predict("iprm")
    torch.testing.assert_close(iprm[FUSED][0], naive_iprm(trainer.method, whole, has), rtol=1e-6, atol=1e-6)
    _, _, mixed = predict("iprm", method__predict="mixed")
    own = sum(iprm[name] for name in has)
    torch.testing.assert_close(mixed[FUSED], own if len(has) == 1 else iprm[FUSED] - own)
    trainer, whole, joint = predict("joint_unimodal", method__predict="sum")
    features = {name: x if name in has else x * 0 for name, x in trainer.method.model.encode(whole).items()}
    torch.testing.assert_close(joint[FUSED], trainer.method.fusion(features) + sum(joint[name] for name in has))


def test_augs_scores_are_those_of_the_samples_that_have_the_modality() -> None:
    trainer, plain = (trainer_with_missing("aug", 2) for _ in range(2))
    batch = first_batch(trainer)
    trainer.method.losses(batch, "joint", trainer.engine)
    for index, name in enumerate(("loud", "quiet")):
        own = rows(batch, batch.present[name])
        plain.engine._num_samples = len(own.labels)
        plain.method.score_sum.zero_()
        plain.method.losses(own, "joint", plain.engine)
        torch.testing.assert_close(trainer.method.score_sum[index], plain.method.score_sum[index])
        assert trainer.method.score_count[index].item() == pytest.approx(len(own.labels))


def test_a_sample_without_a_modality_teaches_its_probe_nothing() -> None:
    masked, plain = (trainer_with_missing("joint", 2) for _ in range(2))
    batch = first_batch(masked)
    both = batch.present["loud"] & batch.present["quiet"]
    for mask in batch.present.values():
        mask.copy_(both)
    for trainer, seen in ((masked, batch), (plain, rows(batch, both))):
        trainer.probes.train()
        trainer.method.model.encode(seen)
        trainer.probes.step()
    for name, weight in masked.probes.weights.items():
        torch.testing.assert_close(weight, plain.probes.weights[name])
        assert weight.abs().max() > 0


def test_own_accuracies_are_over_the_samples_that_have_the_modality() -> None:
    trainer = trainer_with_missing("ensemble")
    trainer.fit()
    evaluation = trainer.evaluate("val")
    for name, mask in evaluation.present.items():
        assert 0 < mask.sum() < len(mask)
        for head, metric in ((name, f"{name}/accuracy"), (f"{name}/probe", f"{name}/probe_accuracy")):
            right = evaluation.logits[head].argmax(dim=1) == evaluation.labels
            assert evaluation.metrics[metric] == pytest.approx(right[mask].double().mean().item())
    right = evaluation.logits[FUSED].argmax(dim=1) == evaluation.labels
    assert evaluation.metrics["fused/accuracy"] == pytest.approx(right.double().mean().item())


@every_method
def test_a_sample_with_nothing_left_is_answered_by_the_classes_frequencies(method: str) -> None:
    trainer = trainer_with_missing(method, num_train=35)  # classes 0 and 1 have 12 samples, class 2 has 11
    trainer.fit()
    for mask in trainer.loader._data.present.values():
        mask[35:45] = False  # the first ten of val
    evaluation = trainer.evaluate("val")
    expected = torch.tensor([13, 13, 12], dtype=torch.float64) / 38
    torch.testing.assert_close(evaluation.logits[FUSED][:10].softmax(dim=1), expected.expand(10, NUM_CLASSES))
    assert not torch.allclose(evaluation.logits[FUSED][10:].softmax(dim=1), expected.expand(20, NUM_CLASSES))
    assert torch.isfinite(evaluation.logits[FUSED]).all()


# Logged losses


@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_of_a_pair_that_is_drawn_now_and_then_is_over_the_samples_it_was_drawn_for(parts: int) -> None:
    spec = make_spec(3)
    config = make_config("iprm", spec, method__pair_heads="single", trainer__accumulate=parts, trainer__max_epochs=1)
    trainer = make_trainer(config, spec, num_train=75)  # the last step has 11 samples
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    losses = trainer.method.losses

    def recording(batch: Batch, phase: str, engine: object) -> dict[str, Tensor]:
        terms = losses(batch, phase, engine)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.item() * len(batch.labels)
            counts[name] = counts.get(name, 0) + len(batch.labels)
        return terms

    trainer.method.losses = recording
    row = trainer.fit().last_row
    pairs = [name for name in counts if name.startswith("mixed/")]
    assert len(pairs) > 1
    assert all(0 < counts[name] < 75 for name in pairs)
    for name, total in sums.items():
        assert row[f"train/{name}/loss"] == pytest.approx(total / counts[name], rel=1e-5), name
    assert row["train/total/loss"] == pytest.approx(sum(sums.values()) / 75, rel=1e-5)


# Workers


def train(method: str, rank: int, world_size: int, count: int = 2, **values: object) -> dict[str, Tensor]:
    trainer = trainer_with_missing(method, count, 33, rank=rank, world_size=world_size, **values)
    trainer.loader._data.present["quiet"][::3] = False  # 33 in batches of 16: the last has one sample, one rank none
    trainer.fit()
    found = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in trainer.reporter.rows]
    values = torch.tensor([row[key] for row in found for key in sorted(row)], dtype=torch.float64)
    probes = {f"probe/{name}": value for name, value in trainer.probes.state_dict().items()}
    return {**trainer.method.state_dict(), **probes, "rows": values}


def train_all(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    return {method: train(method, rank, world_size) for method in METHODS.names()}


BETWEEN_STEPS: list[tuple[str, dict[str, object]]] = [
    ("amss", {"method__plus": True}),
    ("mla", {}),
    ("mla", {"method__project_on": "previous"}),
    ("opm", {"method__probability": 1.0, "method__rate_gradient": True}),
    ("opm", {"method__probability": 1.0, "method__rate_gradient": True, "method__fusion": "sum"}),
    ("pmr", {"method__fraction": 0.6, "method__end_epoch": 120}),
    ("pmr", {"method__fraction": 0.02}),
    ("lfm", {"method__start": 0.5}),
    ("lfm", {"method__pairs": "sum"}),
    ("gblending", {"method__super_epoch": 2}),
    ("mslr", {"method__memory": 2}),
    ("qmf", {}),
    ("qmf", {"method__detach": False}),
    ("relearning", {"method__every_epochs": 1, "method__schedule_epochs": 4}),
    ("gblending", {"method__super_epoch": 3, "method__gain": "absolute"}),
    ("inforeg", {"method__schedule_epochs": 20}),
]
"""Methods that look at samples outside a step, have a state that each step moves, or draw for each sample."""


def train_between_steps(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    return {f"{method} {values}": train(method, rank, world_size, 3, **values) for method, values in BETWEEN_STEPS}


def assert_equal_on_all_ranks(function: Callable[[int, int], dict[str, dict[str, Tensor]]], world_size: int) -> None:
    alone = function(0, 1)
    for rank, results in enumerate(run_processes(function, world_size, world_size)):
        for method, expected in alone.items():
            for name, value in results[method].items():
                difference = (value.double() - expected[name].double()).abs().max()
                assert difference < 1e-6, f"{method}: {name} differs by {difference} on rank {rank}"


def test_k_workers_equal_one_with_missing_modalities() -> None:
    assert_equal_on_all_ranks(train_all, 2)


@pytest.mark.slow
def test_three_workers_find_out_between_steps_what_one_does_with_missing_modalities() -> None:
    assert_equal_on_all_ranks(train_between_steps, 3)
