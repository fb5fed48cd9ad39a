"""CML: chains, confidences and losses against naive loops, each ruling, and its invariants."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import get_args

import pytest
import torch
from stepping import step_gradients, trainer_of
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.cml import CALIBRATION, MOST_MODALITIES, Cml, all_chains, chain, rising_confidence
from mmcore.methods.fusion import FusionName
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

NAMES = ("a", "b", "c", "d")
LABELS = torch.arange(40) % 3


def logits_of(name: str) -> Tensor:
    return 2 * torch.randn(40, 3, generator=generator(0, name), dtype=torch.float64)


def first_batch(trainer: Trainer) -> Batch:
    return trainer.transforms(next(iter(trainer.loader.train_batches(0))), training=True)


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def naive_rising(larger: list[float], smaller: list[float], label: int) -> float:
    before, after = softmax(larger), softmax(smaller)
    if after.index(max(after)) == label and before.index(max(before)) != label:
        return 0.0
    return max(0.0, max(after) - max(before))


# Equations


def test_the_rise_of_a_confidence_is_that_of_a_naive_loop() -> None:
    larger, smaller = logits_of("larger"), logits_of("smaller")
    found = rising_confidence(larger, smaller, LABELS)
    rows = zip(larger.tolist(), smaller.tolist(), LABELS.tolist(), strict=True)
    assert found.tolist() == pytest.approx([naive_rising(*row) for row in rows], rel=1e-12)
    assert 5 < found.count_nonzero() < 35


def test_both_answers_learn_and_an_excused_sample_teaches_neither() -> None:
    larger, smaller = (logits_of(name).requires_grad_() for name in ("larger", "smaller"))
    rising = rising_confidence(larger, smaller, LABELS)
    rising.sum().backward()
    excused = (smaller.argmax(dim=1) == LABELS) & (larger.argmax(dim=1) != LABELS)
    is_surer = smaller.softmax(1).amax(1) > larger.softmax(1).amax(1)
    assert (excused & is_surer).any() and (~excused & ~is_surer).any()  # noqa: PT018
    for answer in (larger, smaller):
        moves = answer.grad.abs().sum(dim=1) > 0
        assert torch.equal(moves, is_surer & ~excused)
    rows = torch.arange(40)[is_surer & ~excused]
    assert (larger.grad[rows, larger[rows].argmax(1)] < 0).all()  # downhill, the larger set becomes surer
    assert (smaller.grad[rows, smaller[rows].argmax(1)] > 0).all()


def test_confidences_that_do_not_rise_cost_nothing() -> None:
    answer = logits_of("larger")
    assert rising_confidence(answer, answer, LABELS).count_nonzero() == 0
    assert rising_confidence(2 * answer, answer, LABELS).count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_confidences_of_half_precision_are_compared_in_float32(dtype: torch.dtype) -> None:
    larger, smaller = logits_of("larger").to(dtype), logits_of("smaller").to(dtype)
    found = rising_confidence(larger, smaller, LABELS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rising_confidence(larger.double(), smaller.double(), LABELS))


def test_a_chain_loses_one_modality_after_the_other() -> None:
    sets, pairs = chain(["b", "c", "a"])
    assert sets == {frozenset("abc"): 1 / 3, frozenset("ac"): 1 / 3, frozenset("a"): 1 / 3}
    assert pairs == {(frozenset("abc"), frozenset("ac")): 1.0, (frozenset("ac"), frozenset("a")): 1.0}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_chains_weigh_sets_and_pairs_as_the_orders_do_on_average(count: int) -> None:
    expected: tuple[Counter, Counter] = Counter(), Counter()
    for order in itertools.permutations(NAMES[:count]):
        for total, part in zip(expected, chain(order), strict=True):
            total.update({key: weight / math.factorial(count) for key, weight in part.items()})
    for found, weights in zip(all_chains(NAMES[:count]), expected, strict=True):
        assert found == pytest.approx(dict(weights))
    assert next(iter(all_chains(NAMES[:count])[0])) == frozenset(NAMES[:count])


# Losses


def naive_losses(method: Cml, batch: Batch, order: list[str], weight: float, average: str) -> dict[str, float]:
    """The loss of one order, sample by sample, of a `concat` head; modalities that a sample lacks are left out."""
    features, head = method.model.encode(batch), method.fusion.head
    weights = dict(zip(features, head.weight.split([x.shape[1] for x in features.values()], dim=1), strict=True))
    sets = [order[index:] for index in range(len(order))]
    answers = [sum(features[name] @ weights[name].T for name in chosen) + head.bias for chosen in sets]
    has = {name: (batch.has(name) if name in batch.present else batch.labels >= 0).tolist() for name in features}
    found = {}
    for index, (chosen, answer) in enumerate(zip(sets, answers, strict=True)):
        counted = [i for i in range(len(batch.labels)) if index == 0 or any(has[name][i] for name in chosen)]
        key = FUSED if index == 0 else "+".join(name for name in features if name in chosen)
        costs = [-math.log(softmax(answer[i].tolist())[batch.labels[i].item()]) for i in counted]
        found[key] = sum(costs) / len(costs) / len(order)
    total = 0.0
    for index in range(len(order) - 1):
        left = sets[index + 1]
        counted = [i for i in range(len(batch.labels)) if has[order[index]][i] and any(has[name][i] for name in left)]
        rises = [
            naive_rising(answers[index][i].tolist(), answers[index + 1][i].tolist(), batch.labels[i].item())
            for i in counted
        ]
        total += sum(rises) / (1 if average == "sum" else len(rises))
    return {**found, CALIBRATION: weight * total}


def losses_of(trainer: Trainer, batch: Batch) -> dict[str, float]:
    trainer.method._step_samples = torch.tensor(float(len(batch.labels)))
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize("is_missing", [False, True])
@pytest.mark.parametrize("average", ["mean", "sum"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_terms_are_those_of_a_naive_loop(count: int, average: str, is_missing: bool) -> None:
    trainer = trainer_of("cml", count, method__average=average, method__weight=0.7)
    batch, method = first_batch(trainer), trainer.method
    if is_missing:
        places = torch.arange(16)
        batch.present = {"loud": places % 3 > 0, "quiet": places % 4 != 1}
    with torch.no_grad():
        method.fusion.head.weight.mul_(8)  # so sure that confidences rise in every pair
    order = list(reversed(method.context.modalities))
    method._drawn_order = lambda engine: order
    found = losses_of(trainer, batch)
    assert found == pytest.approx(naive_losses(method, batch, order, 0.7, average), rel=1e-9)
    assert found[CALIBRATION] > 0


@pytest.mark.parametrize("count", [2, 3])
def test_all_pairs_at_once_are_the_mean_of_the_drawn_chains(count: int) -> None:
    trainer, drawn = trainer_of("cml", count, method__chain="pairwise"), trainer_of("cml", count)
    batch = first_batch(trainer)
    found = losses_of(trainer, batch)
    expected: Counter = Counter()
    orders = list(itertools.permutations(drawn.method.context.modalities))
    for order in orders:
        drawn.method._drawn_order = lambda engine, order=order: list(order)
        expected.update({name: value / len(orders) for name, value in losses_of(drawn, batch).items()})
    assert found == pytest.approx(dict(expected))


def test_without_weight_it_is_the_mean_of_the_chains_cross_entropies() -> None:
    trainer = trainer_of("cml", 3, method__weight=0.0)
    batch, method = first_batch(trainer), trainer.method
    method._drawn_order = lambda engine: ["quiet", "loud", "faint"]
    terms = losses_of(trainer, batch)
    assert terms.pop(CALIBRATION) == 0
    assert list(terms) == [FUSED, "loud+faint", "faint"]
    whole, one = method.predict(batch)[FUSED], method.predict(batch)["faint"]
    costs = [torch.nn.functional.cross_entropy(answer, batch.labels).item() for answer in (whole, one)]
    assert [3 * terms[FUSED], 3 * terms["faint"]] == pytest.approx(costs)


@pytest.mark.parametrize("fusion", get_args(FusionName))
def test_one_modality_alone_is_answered_as_if_the_others_were_missing(fusion: str) -> None:
    trainer = trainer_of("cml", 3, method__fusion=fusion)
    batch = first_batch(trainer)
    expected = trainer.method.predict(batch)
    batch.present = {name: torch.zeros(16, dtype=torch.bool) for name in ("loud", "faint")}
    torch.testing.assert_close(trainer.method.predict(batch)[FUSED], expected["quiet"], rtol=0, atol=0)


# Steps


def test_each_step_draws_an_order_and_every_order_comes() -> None:
    trainer, again = trainer_of("cml", 3), trainer_of("cml", 3)
    drawn = [tuple(trainer.method._drawn_order(trainer.engine)) for _ in range(120)]
    assert drawn == [tuple(again.method._drawn_order(again.engine)) for _ in range(120)]
    assert len(set(drawn)) == 6
    assert min(Counter(drawn).values()) > 8  # 20 on average


@pytest.mark.parametrize("average", ["mean", "sum"])
def test_micro_batches_share_the_order_and_add_up_to_the_whole_step(average: str) -> None:
    values = {"method__weight": 0.7, "method__average": average}
    whole, parts = (trainer_of("cml", 3, trainer__accumulate=count, **values) for count in (1, 3))
    expected, found = step_gradients(whole), step_gradients(parts)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_the_released_sum_is_the_mean_times_the_steps_samples() -> None:
    mean, total, none = (
        step_gradients(trainer_of("cml", 2, **values))
        for values in ({}, {"method__average": "sum"}, {"method__weight": 0.0})
    )
    for name, gradient in none.items():
        torch.testing.assert_close(total[name] - gradient, 16 * (mean[name] - gradient))
    assert any(not torch.equal(mean[name], gradient) for name, gradient in none.items())


def test_all_pairs_of_five_modalities_are_refused() -> None:
    trainer = trainer_of("cml", 4, method__chain="pairwise")
    context = trainer.method.context
    more = type(context)((*context.modalities, "fifth"), context.num_classes, context.max_epochs)
    expected = rf"method\.chain must be random, got 'pairwise', .* it takes at most {MOST_MODALITIES}, got 5"
    with pytest.raises(ConfigError, match=expected):
        Cml(trainer.method.model, trainer.method.config, more)
