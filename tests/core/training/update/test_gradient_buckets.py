"""Averaging gradients while backward runs: what is sent when, and that ranks which differ in that still agree."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import run_processes
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor, nn

from mmcore import distributed
from mmcore.errors import TrainingError
from mmcore.layers.batchnorm import convert
from mmcore.training.trainer import Trainer
from mmcore.training.update.gradient_buckets import GradientAverager

WEIGHTS = (3.0, 1.0)
FEW_BYTES = 400
"""Size of a bucket here, so that a small network fills several."""


class Network(nn.Module):
    """Batch norms whose own messages fall between the buckets', and a head that one rank does not use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unused = nn.Linear(3, 7)
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
        )
        self.head = nn.Linear(16, 5)
        self.double().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, with_head: bool) -> Tensor:
        features = self.body(x)
        return self.head(features).square().mean() if with_head else features.square().mean()


def _data(rank: int, step: int) -> Tensor:
    return torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(10 * step + rank), dtype=torch.float64)


class SendLog:
    """Notes in which order tensors of what size are sent, and whether backward was still running."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, averager: GradientAverager):
        self.sent: list[tuple[int, bool]] = []
        self.in_backward = False
        send = dist.all_reduce

        def logging_send(tensor: Tensor, *args: Any, **options: Any) -> Any:
            if options.get("group") is averager._group:
                self.sent.append((tensor.numel(), self.in_backward))
            return send(tensor, *args, **options)

        monkeypatch.setattr(dist, "all_reduce", logging_send)


def _steps(rank: int) -> dict[str, Any]:
    """Three steps, overlapped; and the same gradients, averaged in the plainest way."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(distributed, "BUCKET_BYTES", FEW_BYTES)
        network, averager = convert(Network()), GradientAverager()
        log = SendLog(monkeypatch, averager)
        parameters, found, expected = list(network.parameters()), [], []
        for parameter in parameters:  # whoever is late here or there must not matter
            parameter.register_post_accumulate_grad_hook(lambda _: time.sleep(random.uniform(0, 0.004)))
        for step in range(3):
            x, with_head = _data(rank, step), (rank + step) % 2 == 0
            own = torch.autograd.grad(WEIGHTS[rank] * network(x, with_head), parameters, allow_unused=True)
            summed = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, own, strict=True)]
            for gradient in summed:
                gradient = gradient.contiguous()
                dist.all_reduce(gradient)
                expected.append(gradient / sum(WEIGHTS))
            averager.begin("all", parameters, WEIGHTS[rank])
            log.in_backward = True
            (WEIGHTS[rank] * network(x, with_head)).backward()
            log.in_backward = False
            averager.finish("all", parameters, WEIGHTS[rank])
            found += [parameter.grad.clone() for parameter in parameters]
            strides = [parameter.grad.stride() for parameter in parameters]
            network.zero_grad()
        return {
            "found": found,
            "expected": expected,
            "sent": log.sent,
            "strides": strides == [p.stride() for p in parameters],
        }


def _grown(rank: int) -> dict[str, Any]:
    """A parameter joins; another phase has other parameters; a pass too many is refused."""
    averager = GradientAverager()
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    phases = {"a": [first], "b": [first, second]}
    grads = {}
    for phase, loss in (("a", first.sum()), ("b", (first * second.sum()).sum())):
        averager.begin(phase, phases[phase], WEIGHTS[rank])
        (loss * (rank + 1) * WEIGHTS[rank]).backward()
        averager.finish(phase, phases[phase], WEIGHTS[rank])
        grads[phase] = [parameter.grad.clone() for parameter in phases[phase]]
        first.grad = second.grad = None
    averager.forget()
    third = nn.Parameter(torch.ones(4))
    for beginning in (True, False):  # also without overlap
        third.grad = None
        if beginning:
            averager.begin("a", [first, third], WEIGHTS[rank])
        (third * (rank + 1) * WEIGHTS[rank]).sum().backward()
        averager.finish("a", [first, third], WEIGHTS[rank])
        grads[f"grown {beginning}"] = [first.grad.clone(), third.grad.clone()]
    averager.begin("a", [first, third], 1.0)
    third.sum().backward()
    errors = []
    for call in (lambda: third.sum().backward(), lambda: averager.finish("b", [first], 1.0)):
        with pytest.raises(TrainingError) as caught:
            call()
        errors.append(str(caught.value))
    averager.finish("a", [first, third], 1.0)
    return {"grads": grads, "errors": errors}


# Through the engine


def _trainer(rank: int, world_size: int, method: str, **values: object) -> Trainer:
    spec = make_spec(2)
    config = make_config(method, spec, trainer__probes=False, **values)
    trainer = make_trainer(config, spec, rank=rank, world_size=world_size)
    trainer.method.train()
    return trainer


def _overlap(rank: int) -> list[bool]:
    """Whether buckets were sent during backward, of each bucket of a step."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(distributed, "BUCKET_BYTES", 100)
        trainer = _trainer(rank, 2, "ensemble", trainer__accumulate=2)
        log = SendLog(monkeypatch, trainer.engine._averager)
        backward = torch.autograd.backward

        def logging_backward(tensor: Tensor) -> None:
            log.in_backward = True
            backward(tensor)
            log.in_backward = False

        monkeypatch.setattr(torch.autograd, "backward", logging_backward)
        trainer.train_step(next(iter(trainer.loader.train_batches(0))))
        return [early for _, early in log.sent]


def _second_gradients(rank: int, world_size: int) -> list[Tensor]:
    """`Engine.gradients` of two losses of one forward pass, each averaged over ranks."""
    trainer = _trainer(rank, world_size, "ensemble", trainer__precision="float64")
    batch = trainer._on_device(list(trainer.loader.train_batches(0))[-1], training=True)
    parameters = list(trainer.method.parameters())
    for part in trainer.engine.micro_batches(batch):
        terms = trainer.method.losses(part, "joint", trainer.engine)
        found = [g for term in terms.values() for g in trainer.engine.gradients(term, parameters)]
    assert all(parameter.grad is None for parameter in parameters)
    return found


def _half_precision(rank: int) -> dict[str, Any]:
    """A gradient of one rank overflows; then the loss of one rank is not a number."""
    trainer = _trainer(rank, 2, "joint", trainer__precision="float16")
    engine, weight = trainer.engine, trainer.method.fusion.head.weight
    before, scales = weight.detach().clone(), [engine._scaler.get_scale()]

    def step(factor: float) -> None:
        for _ in engine.micro_batches(next(iter(trainer.loader.train_batches(0)))):
            engine.backward({"loss": weight.sum() * factor}, "joint")
        engine.reduce_gradients("joint")
        engine.step()
        scales.append(engine._scaler.get_scale())
        engine.step_index += 1

    step(1e38 if rank == 1 else 1.0)
    skipped = torch.equal(weight, before)
    step(1.0)
    moved = not torch.equal(weight, before)
    engine.check_finite()
    step(float("nan") if rank == 1 else 1.0)
    with pytest.raises(TrainingError) as caught:
        engine.check_finite()
    return {"skipped": skipped, "moved": moved, "scales": scales, "error": str(caught.value), "weight": weight.detach()}


def _everything(rank: int) -> dict[str, Any]:
    return {
        "steps": _steps(rank),
        "grown": _grown(rank),
        "overlap": _overlap(rank),
        "gradients": _second_gradients(rank, 2),
        "half": _half_precision(rank),
    }


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return run_processes(_everything, 2)


def test_ranks_that_use_other_parameters_agree_and_are_right(results) -> None:
    for result in results:
        steps = result["steps"]
        assert len(steps["found"]) == len(steps["expected"]) == 3 * 12
        for got, expected in zip(steps["found"], steps["expected"], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-15)
        assert steps["strides"]
    for first, second in zip(results[0]["steps"]["found"], results[1]["steps"]["found"], strict=True):
        assert torch.equal(first, second)


def test_buckets_are_sent_in_one_order_and_while_backward_runs(results) -> None:
    first, second = (result["steps"]["sent"] for result in results)
    assert [size for size, _ in first] == [size for size, _ in second]
    per_step = len(first) // 3
    assert per_step > 3
    assert len({tuple(size for size, _ in first[i : i + per_step]) for i in range(0, len(first), per_step)}) == 1
    for rank, sent in enumerate((first, second)):
        for step in range(3):
            early = [early for _, early in sent[step * per_step : (step + 1) * per_step]]
            # The head's bucket is the first, that of `unused` the last. A rank that does not use the head sends its
            # zeros, and all that waits behind them, when backward is over.
            uses_head = (rank + step) % 2 == 0
            assert early == [uses_head] * (per_step - 1) + [False]


def test_averages_follow_phases_and_growth(results) -> None:
    # (1·3 + 2·1) / (3 + 1)
    mean = 1.25
    for result in results:
        grads = result["grown"]["grads"]
        assert [g.tolist() for g in grads["a"]] == [[mean] * 2]
        assert [g.tolist() for g in grads["b"]] == [[3 * mean] * 2, [2 * mean] * 3]
        assert [g.tolist() for g in grads["grown True"]] == [[0.0] * 2, [mean] * 4]
        assert grads["grown False"][1].tolist() == [mean] * 4


def test_a_pass_after_the_last_and_a_wrong_phase_are_refused(results) -> None:
    for result in results:
        late, wrong = result["grown"]["errors"]
        assert "a gradient came after it was sent" in late
        assert wrong == "backward was told phase 'a', but reduce_gradients 'b'"


def test_the_engine_overlaps_the_last_micro_batch_alone(results) -> None:
    for result in results:
        # One message for each of the five buckets though there are two micro-batches, none of them after backward.
        assert result["overlap"] == [True] * 5


def test_second_gradients_of_two_processes_equal_one(results) -> None:
    expected = _second_gradients(0, 1)
    for result in results:
        for got, value in zip(result["gradients"], expected, strict=True):
            torch.testing.assert_close(got, value, rtol=0, atol=1e-12)


def test_float16_ranks_skip_and_fail_together(results) -> None:
    for result in results:
        half = result["half"]
        first, *others = half["scales"]
        assert half["skipped"]
        assert half["moved"]
        assert others == [first / 2, first / 2, first / 4]
        assert half["error"].startswith("the loss is not finite at step 2 on worker 1 (loss = nan)")
    assert torch.equal(results[0]["half"]["weight"], results[1]["half"]["weight"])
