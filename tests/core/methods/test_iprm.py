"""IPRM against loops written from the paper's equations (1)-(4) and Algorithm 1, and its numerical traps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from naive_iprm import NaiveIprm, batches, iprm_trainer, naive_share
from torch import Tensor

from mmcore.methods import FUSED, iprm
from mmcore.methods.iprm import (
    great_circle,
    mean_divergence,
    normalise,
    pair_key,
    point_on,
    rebalanced_weight,
    running_weight,
    slerp,
)
from mmcore.seeding import generator

ANGLES = {"same": 0.0, "near": 1e-4, "right": math.pi / 2, "opposite": math.pi}
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def unit_pair(angle: float, size: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two unit vectors `angle` apart, in general position."""
    basis = torch.linalg.qr(torch.randn(size, 2, dtype=torch.float64, generator=generator(0, "pair"))).Q
    first, side = basis[:, 0], basis[:, 1]
    return first.to(dtype), (math.cos(angle) * first + math.sin(angle) * side).to(dtype)


def naive_slerp(first: list[float], second: list[float], weight: float) -> list[float]:
    """Equation (1), letter by letter."""
    theta = math.acos(sum(a * b for a, b in zip(first, second, strict=True)))
    x_share, y_share = math.sin(weight * theta) / math.sin(theta), math.sin((1 - weight) * theta) / math.sin(theta)
    return [x_share * a + y_share * b for a, b in zip(first, second, strict=True)]


# Equation (1)


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.83, 1.0])
def test_slerp_is_equation_1(weight: float) -> None:
    pairs = [unit_pair(angle) for angle in (0.1, 0.7, 1.3, 2.0, 3.0)]
    first, second = (torch.stack(vectors) for vectors in zip(*pairs, strict=True))
    mixed = slerp(first, second, torch.tensor(weight, dtype=torch.float64))
    expected = [naive_slerp(x.tolist(), y.tolist(), weight) for x, y in pairs]
    torch.testing.assert_close(mixed, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@both_types
@pytest.mark.parametrize("angle", [*ANGLES.values(), 2e-4, 3.0, math.pi - 2e-4], ids=lambda angle: f"{angle:.4f}")
def test_slerp_ends_symmetry_and_norm(angle: float, dtype: torch.dtype) -> None:
    first, second = unit_pair(angle, dtype=dtype)
    tolerance = {"rtol": 0, "atol": 2e-3 if angle > 3.1 and dtype == torch.float32 else 2e-5}
    for weight in torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=dtype):
        mixed = slerp(first, second, weight)
        torch.testing.assert_close(mixed.norm(), torch.ones((), dtype=dtype), **tolerance)
        if angle < math.pi:  # at π the path is one of many, and starts from the first
            torch.testing.assert_close(mixed, slerp(second, first, 1 - weight), **tolerance)
    torch.testing.assert_close(slerp(first, second, torch.ones((), dtype=dtype)), first, **tolerance)
    torch.testing.assert_close(slerp(first, second, torch.zeros((), dtype=dtype)), second, **tolerance)


@both_types
def test_slerp_of_opposite_vectors_is_a_continuous_unit_path_from_second_to_first(dtype: torch.dtype) -> None:
    first, second = unit_pair(math.pi, dtype=dtype)
    weights = torch.linspace(0, 1, 201, dtype=dtype)[:, None]
    path = slerp(first.expand(201, -1), second.expand(201, -1), weights)
    torch.testing.assert_close(path.norm(dim=1), torch.ones(201, dtype=dtype), rtol=0, atol=1e-5)
    steps = (path[1:] - path[:-1]).norm(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, math.pi / 200), rtol=1e-2, atol=0)
    torch.testing.assert_close(path[[0, -1]], torch.stack([second, first]), rtol=0, atol=1e-5)


@both_types
@pytest.mark.parametrize("case", [*ANGLES, "first zero", "second zero", "both zero"])
def test_values_and_gradients_stay_finite(case: str, dtype: torch.dtype) -> None:
    first, second = unit_pair(ANGLES.get(case, 1.0), size=16, dtype=dtype)
    first = torch.zeros_like(first) if case in {"first zero", "both zero"} else first
    second = torch.zeros_like(second) if case in {"second zero", "both zero"} else second
    inputs = [vector.clone().requires_grad_() for vector in (first, second)]
    for weight in torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=dtype):
        mixed = slerp(*[normalise(vector) for vector in inputs], weight)
        assert torch.isfinite(mixed).all()
        for index in range(0, 16, 5):  # no sum of entries, which could cancel
            for gradient in torch.autograd.grad(mixed[index], inputs, retain_graph=True):
                assert torch.isfinite(gradient).all()
                assert gradient.abs().max() < 1e5


def test_normalise_scales_to_norm_one_and_leaves_zero_at_zero() -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-300.0, 400.0]], dtype=torch.float64)
    torch.testing.assert_close(
        normalise(values), torch.tensor([[0.6, 0.8], [0, 0], [-0.6, 0.8]], dtype=torch.float64), rtol=0, atol=1e-8
    )


# Equations (2)-(4)


def test_mean_divergence_is_the_mean_of_kl_own_to_mixed() -> None:
    own, mixed = torch.randn(2, 5, 4, dtype=torch.float64, generator=generator(0, "logits")).unbind()
    expected = 0.0
    for own_row, mixed_row in zip(own.tolist(), mixed.tolist(), strict=True):
        p = [math.exp(value) / sum(map(math.exp, own_row)) for value in own_row]
        q = [math.exp(value) / sum(map(math.exp, mixed_row)) for value in mixed_row]
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 5
    assert mean_divergence(own, mixed).item() == pytest.approx(expected, abs=1e-12)
    assert mean_divergence(mixed, own).item() != pytest.approx(expected, rel=1e-2)


def test_mean_divergence_of_nearly_equal_predictions_is_never_negative() -> None:
    own = torch.randn(10_000, 8, 6, generator=generator(0, "logits"))
    mixed = own + 1e-4 * torch.randn(own.shape, generator=generator(0, "change"))
    log_p, log_q = own.log_softmax(dim=2), mixed.log_softmax(dim=2)
    rounded = (log_p.exp() * (log_p - log_q)).sum(dim=2).mean(dim=1)
    assert (rounded < 0).sum() > 1000  # what it would be without care
    found = torch.vmap(mean_divergence)(own, mixed)
    assert (found >= 0).all()


def test_the_modality_nearer_to_the_mixed_prediction_gets_the_larger_weight() -> None:
    near, far = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    assert rebalanced_weight(near, far).item() == pytest.approx(0.75)
    assert rebalanced_weight(far, near).item() == pytest.approx(0.25)


@both_types
def test_rebalanced_weight_stays_in_range_and_is_one_half_at_zero(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1e-30, 1e-13, 1e-6, 0.2, 1e6], dtype=dtype)
    for first, second in itertools.product(values, values):
        share = rebalanced_weight(first, second)
        assert 0 <= share <= 1
        torch.testing.assert_close(share + rebalanced_weight(second, first), torch.ones((), dtype=dtype))
    assert rebalanced_weight(values[0], values[0]) == 0.5
    assert rebalanced_weight(values[0], values[4]) == 1
    assert rebalanced_weight(values[4], values[0]) == 0


def test_running_weight_over_a_thousand_steps_is_the_closed_form() -> None:
    shares = torch.rand(1000, dtype=torch.float64, generator=generator(0, "shares"))
    weight = torch.tensor(0.5, dtype=torch.float64)
    for share in shares:
        weight = running_weight(weight, share, 0.8)
    expected = 0.8**1000 * 0.5 + sum(0.2 * 0.8 ** (999 - t) * share for t, share in enumerate(shares.tolist()))
    assert weight.item() == pytest.approx(expected, abs=1e-13)
    assert running_weight(torch.tensor(0.2), torch.tensor(1.0), 1.0) == pytest.approx(0.2)
    assert running_weight(torch.tensor(0.2), torch.tensor(1.0), 0.0) == 1


# Algorithm 1, whole


CASES = {
    "paper": {},
    "no average": {"alpha": 0.0},
    "linear": {"mixing": "linear"},
    "one pass": {"passes": "one"},
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_training_follows_algorithm_1(case: str, count: int, monkeypatch) -> None:
    settings = CASES[case]
    trainer = iprm_trainer(count, **settings)
    naive = NaiveIprm(trainer, **settings)
    method, used = trainer.method, []
    mix = "linear_mix" if case == "linear" else "point_on"
    original = getattr(iprm, mix)

    def recording_mix(*path_and_weight) -> Tensor:
        used.append(path_and_weight[-1].item())
        return original(*path_and_weight)

    monkeypatch.setattr(iprm, mix, recording_mix)
    num_pairs = len(naive.pairs)
    for step, batch in enumerate(batches(trainer, 4)):
        used.clear()
        terms = {name: term.item() for name, term in method.train_step(batch, trainer.engine).items()}
        assert terms == pytest.approx(naive.step(batch), abs=1e-7)
        probed = [naive.probed[pair][step] for pair in naive.pairs]
        rebalanced = [naive.rebalanced[pair][step] for pair in naive.pairs]
        learned = rebalanced if naive.passes == "two" else probed
        assert used == pytest.approx([*probed, *learned], abs=1e-7)  # two passes and no third
        assert method.weight.tolist() == pytest.approx(probed, abs=1e-7)
    assert len(used) == 2 * num_pairs
    assert all(abs(share - 0.5) > 0.01 for share in rebalanced)  # else this would show nothing
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter, naive.parameters[name], rtol=0, atol=1e-7, msg=name)
    batch = batches(trainer, 1)[0]
    torch.testing.assert_close(method.eval().predict(batch)[FUSED], naive.predict(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"passes": "one"}, {"pair_heads": "single"}], ids=str)
def test_in_micro_batches_the_average_advances_once_a_step(settings: dict[str, str], monkeypatch) -> None:
    trainer, used = iprm_trainer(3, trainer__accumulate=3, **settings), []
    method, draws = trainer.method, generator(trainer.config.seed, "engine", "pairs")
    monkeypatch.setattr(iprm, "point_on", lambda arc, weight: used.append(weight.item()) or point_on(arc, weight))
    running = dict.fromkeys(method.pairs, 0.5)
    for batch in batches(trainer, 6):
        naive = NaiveIprm(trainer)
        if settings.get("pair_heads") == "single":
            pairs = [method.pairs[int(torch.randint(3, (), generator=draws))]]  # one draw a step
            for pair in method.pairs:
                for kind in ("weight", "bias"):
                    own = naive.parameters[f"mixed_heads.any.{kind}"]
                    naive.parameters[f"mixed_heads.{pair_key(*pair)}.{kind}"] = own
        else:
            pairs = method.pairs
        samples = naive.features(batch)
        expected = []
        for part in (samples[:6], samples[6:11], samples[11:]):  # 16 in three
            probed = [running[pair] for pair in pairs]
            shares = [naive_share(naive, pair, part, running[pair]) for pair in pairs]
            expected += [*probed, *(probed if settings.get("passes") == "one" else shares)]
        before = dict(running)
        for pair in pairs:
            running[pair] = 0.8 * before[pair] + 0.2 * naive_share(naive, pair, samples, before[pair])
        used.clear()
        method.train_step(batch, trainer.engine)
        assert used == pytest.approx(expected, abs=1e-7)
        assert method.next_weight.tolist() == pytest.approx([running[pair] for pair in method.pairs], abs=1e-7)
        for pair in pairs:
            row = method.pairs.index(pair)
            assert method.weight[row].item() == pytest.approx(before[pair], abs=1e-7)
            total = naive.divergences(pair, samples, before[pair])
            means = [total[name] / len(samples) for name in pair]
            assert method.divergence[row].tolist() == pytest.approx(means, abs=1e-7)
    assert max(abs(weight - 0.5) for weight in running.values()) > 0.01  # else this would show nothing


def test_no_gradient_flows_through_the_rebalanced_weight() -> None:
    trainer = iprm_trainer(2)
    method, batch = trainer.method, batches(trainer, 1)[0]
    terms = method.losses(batch, "joint", trainer.engine)
    parameters = list(method.parameters())
    found = torch.autograd.grad(sum(terms.values()), parameters)
    share = ((method.next_weight[0] - 0.8 * method.weight[0]) / 0.2).item()
    features = method.model.encode(batch)
    mixed = slerp(normalise(features["loud"]), normalise(features["quiet"]), torch.tensor(share, dtype=torch.float64))
    loss = F.cross_entropy(method.mixed_heads["loud+quiet"](mixed), batch.labels)
    loss += sum(F.cross_entropy(method.heads[name](values), batch.labels) for name, values in features.items())
    for gradient, expected in zip(found, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


def test_each_encoder_runs_once_a_step() -> None:
    trainer = iprm_trainer(3)
    calls: list[str] = []
    for name, encoder in trainer.method.model.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: calls.append(name))
    trainer.method.train_step(batches(trainer, 1)[0], trainer.engine)
    assert sorted(calls) == ["faint", "loud", "quiet"]


def test_three_modalities_have_a_head_each_and_one_per_pair() -> None:
    method = iprm_trainer(3).method
    assert list(method.heads) == ["loud", "quiet", "faint"]
    assert list(method.mixed_heads) == ["loud+quiet", "loud+faint", "quiet+faint"]


# Switches


def test_a_fixed_weight_mixes_with_it_in_training_and_at_inference(monkeypatch) -> None:
    trainer = iprm_trainer(2, fixed_weight=0.3)
    used: list[float] = []
    monkeypatch.setattr(iprm, "point_on", lambda arc, weight: used.append(weight.item()) or point_on(arc, weight))
    for batch in batches(trainer, 3):
        trainer.method.train_step(batch, trainer.engine)
    trainer.method.predict(batches(trainer, 1)[0])
    assert used == pytest.approx([0.3] * 7)
    assert trainer.method.diagnostics()["lambda/loud+quiet"].item() == pytest.approx(0.3)


def test_a_single_mixed_head_serves_one_pair_a_step_drawn_from_the_engines_generator() -> None:
    trainer = iprm_trainer(3, pair_heads="single")
    method = trainer.method
    assert list(method.mixed_heads) == ["any"]
    draws = generator(trainer.config.seed, "engine", "pairs")
    seen = set()
    for batch in batches(trainer, 6):
        before = method.next_weight.clone()
        torch.manual_seed(7)  # the process's own state must not matter
        terms = method.train_step(batch, trainer.engine)
        index = int(torch.randint(3, (), generator=draws))
        key = pair_key(*method.pairs[index])
        assert set(terms) == {"loud", "quiet", "faint", f"mixed/{key}"}
        changed = (method.next_weight != before).nonzero().flatten().tolist()
        assert changed == [index]  # the others stay as they were
        seen.add(index)
    assert len(seen) > 1


def test_a_single_head_averages_all_pairs_at_inference() -> None:
    trainer = iprm_trainer(3, pair_heads="single")
    method, batch = trainer.method, batches(trainer, 1)[0]
    features = method.model.encode(batch)
    directions = {name: normalise(values) for name, values in features.items()}
    half = torch.tensor(0.5, dtype=torch.float64)
    mixed = [method.mixed_heads["any"](slerp(directions[a], directions[b], half)) for a, b in method.pairs]
    own = sum(method.heads[name](values) for name, values in features.items())
    torch.testing.assert_close(method.predict(batch)[FUSED], own + sum(mixed) / 3)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_shared_third_head_is_the_seconds(count: int) -> None:
    trainer = iprm_trainer(count, third_head="shared")
    method, batch = trainer.method, batches(trainer, 1)[0]
    names = method.context.modalities
    assert list(method.heads) == [name for name in names if name != "faint"]
    features, logits = method.model.encode(batch), method.predict(batch)
    for name in names:
        head = method.heads["quiet" if name == "faint" else name]
        torch.testing.assert_close(logits[name], head(features[name]))
    assert set(method.losses(batch, "joint", trainer.engine)) >= set(names)


@pytest.mark.parametrize(("setting", "expected"), [("last", 0.3), ("next", 0.6), (0.25, 0.25), (0, 0.0), (1, 1.0)])
def test_the_weight_at_inference(setting: object, expected: float) -> None:
    trainer = iprm_trainer(2, inference_weight=setting)
    method, batch = trainer.method, batches(trainer, 1)[0]
    method.weight.fill_(0.3)
    method.next_weight.fill_(0.6)
    features = method.model.encode(batch)
    weight = torch.tensor(expected, dtype=torch.float64)
    mixed = slerp(normalise(features["loud"]), normalise(features["quiet"]), weight)
    fused = method.mixed_heads["loud+quiet"](mixed) + sum(method.heads[n](z) for n, z in features.items())
    torch.testing.assert_close(method.predict(batch)[FUSED], fused)


def test_predict_mixed_leaves_the_own_heads_out_of_the_fused_logits() -> None:
    default, alone = iprm_trainer(3), iprm_trainer(3, predict="mixed")
    batch = batches(default, 1)[0]
    everything, mixed = default.method.predict(batch), alone.method.predict(batch)
    own = sum(everything[name] for name in default.method.context.modalities)
    torch.testing.assert_close(mixed[FUSED], everything[FUSED] - own)
    torch.testing.assert_close(mixed["quiet"], everything["quiet"])


def test_half_precision_mixes_in_full_precision(monkeypatch) -> None:
    trainer = iprm_trainer(2, trainer__precision="bfloat16")
    seen: list[torch.dtype] = []
    trainer.method.to(torch.float32)
    batch = next(iter(trainer.loader.train_batches(0)))
    monkeypatch.setattr(
        iprm, "great_circle", lambda first, second: seen.append(first.dtype) or great_circle(first, second)
    )
    terms = trainer.method.train_step(batch, trainer.engine)
    assert seen == [torch.float32]
    assert all(torch.isfinite(term) for term in terms.values())
