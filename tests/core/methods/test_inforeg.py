"""InfoReg: each equation against a naive loop, each ruling, and where the method is its parts' losses alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stepping import assert_equal_runs, step_gradients, trainer_of
from torch import Tensor

from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED, METHODS
from mmcore.methods.base import cross_entropy
from mmcore.methods.inforeg import pull_strengths, squared_entries, trace_growth
from mmcore.methods.joint import Joint
from mmcore.methods.unimodal_scores import score_leads
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer

WHOLE = {"method__schedule_epochs": 4}
"""The window as it is: these runs have four epochs."""


def begun(count: int = 2, **values: object) -> Trainer:
    """A trainer whose first epoch has begun."""
    trainer = trainer_of("inforeg", count, **values)
    trainer._begin_epoch()
    trainer.method.train()
    return trainer


def batches(trainer: Trainer) -> list[Batch]:
    return list(trainer.loader.train_batches(0))


# Equations


def naive_growth(traces: list[float], window: int) -> float:
    """The growth k as the released code has it: a list that begins with zeros."""
    listed = [0.0] * window + traces
    now, before = sum(listed[-window:]) / window, sum(listed[-window - 1 : -1]) / window
    return (now - before) / now if now else 0.0


@pytest.mark.parametrize("window", [1, 3, 10])
def test_the_traces_growth_is_that_of_a_list_that_begins_with_zeros(window: int) -> None:
    drawn = torch.rand(14, generator=generator(0, "traces"), dtype=torch.float64).tolist()
    for length in range(1, 15):
        listed = ([0.0] * (window + 1) + drawn[:length])[-window - 1 :]
        found = trace_growth(torch.tensor([listed, [2 * value for value in listed]], dtype=torch.float64))
        assert found.tolist() == pytest.approx([naive_growth(drawn[:length], window)] * 2, rel=1e-12)
    assert naive_growth(drawn[:1], window) == 1


def test_without_any_trace_nothing_grows() -> None:
    assert trace_growth(torch.zeros(2, 4)).tolist() == [0, 0]
    assert trace_growth(torch.tensor([[5.0, 0, 0, 0]])).tolist() == [0]


def test_the_pull_is_that_of_the_equation() -> None:
    leads, growth = [0.01, -0.01, 0.0, 0.3, 0.02], [0.06, 0.9, 0.9, 0.05, 1.0]
    betas = [0.95, 0.1, 0.5, 0.5, 0.2]
    arguments = [torch.tensor(values, dtype=torch.float64) for values in (leads, growth, betas)]
    found = pull_strengths(*arguments, 0.05, 64.0).tolist()
    expected = [
        beta * math.exp(math.tanh(64 * lead)) if lead > 0 and k > 0.05 else 0.0
        for lead, k, beta in zip(leads, growth, betas, strict=True)
    ]
    assert found == pytest.approx(expected, rel=1e-12)
    assert [value > 0 for value in found] == [True, False, False, False, True]


def test_leads_are_over_the_mean_of_the_others() -> None:
    assert score_leads(torch.tensor([6.0, 2.0, 8.0])).tolist() == [0.5, -0.5]
    assert score_leads(torch.tensor([6.0, 2.0, 1.0, 10.0])).tolist() == pytest.approx([0.45, -0.15, -0.3])
    assert score_leads(torch.zeros(4)).tolist() == [0, 0, 0]


def test_the_trace_is_the_sum_of_the_tensors_mean_squares() -> None:
    tensors = [torch.randn(3, 4, generator=generator(0, "a")), torch.randn(5, generator=generator(0, "b"))]
    expected = sum(sum(value**2 for value in tensor.flatten().tolist()) / tensor.numel() for tensor in tensors)
    assert squared_entries(tensors).item() == pytest.approx(expected, rel=1e-6)
    for value in (math.nan, math.inf):
        assert squared_entries([*tensors, torch.tensor([1.0, value])]) == 0


# The method


class Parts(Joint):
    """Joint training plus the cross-entropies of what each modality adds to the joint logits."""

    def losses(self, batch: Batch, phase: str, engine: object) -> dict[str, Tensor]:
        features = self.model.encode(batch)
        fused, names = self.fusion(features), self.context.modalities
        if self.config.fusion == "sum":
            parts = [self.fusion.heads[name](features[name]) for name in names]
        else:
            columns, bias = self.fusion.head.weight.split(6, dim=1), self.fusion.head.bias
            parts = [F.linear(features[m], w, bias / len(names)) for m, w in zip(names, columns, strict=True)]
        terms = [cross_entropy(values, batch.labels, engine) for values in (fused, *parts)]
        return dict(zip([FUSED, *names], terms, strict=True))


@pytest.fixture
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS._entries, "parts", Parts)


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize(("count", "fusion"), [(2, "concat"), (3, "sum"), (4, "concat")])
@pytest.mark.parametrize("switch", [{"method__beta": 0.0}, {"method__threshold": 1.0}])
def test_without_the_pull_it_is_its_parts_losses_alone_bit_for_bit(count: int, fusion: str, switch: dict) -> None:
    plain = {"method__fusion": fusion, "trainer__precision": "float32"}
    assert_equal_runs(trainer_of("inforeg", count, **plain, **switch), trainer_of("parts", count, **plain))


def test_with_the_pull_it_is_another_run() -> None:
    own, off = trainer_of("inforeg"), trainer_of("inforeg", method__beta=0.0)
    own.fit(), off.fit()
    name = "model.encoders.loud.layer.weight"
    assert not torch.equal(own.method.state_dict()[name], off.method.state_dict()[name])


@pytest.mark.usefixtures("_parts")
def test_an_epochs_first_step_is_not_pulled() -> None:
    trainer = begun()
    found, plain = step_gradients(trainer), step_gradients(trainer_of("parts"))
    assert trainer.method.pulls.max() > 0
    assert all(torch.equal(found[name], value) for name, value in plain.items())


def gradients_of_second_step(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Gradients before and after the rule, and how far each weight is from the epoch's start."""
    method, (first, second) = trainer.method, batches(trainer)[:2]
    start = {name: value.detach().clone() for name, value in method.named_parameters()}
    trainer.train_step(first)
    moved = {name: value.detach() - start[name] for name, value in method.named_parameters()}
    before: dict[str, Tensor] = {}
    adjust = method.adjust_gradients

    def recording(*arguments: object) -> None:
        before.update({name: value.grad.clone() for name, value in method.named_parameters()})
        adjust(*arguments)

    method.adjust_gradients = recording
    trainer.train_step(second)
    return before, {name: value.grad.clone() for name, value in method.named_parameters()}, moved


def naive_leads(trainer: Trainer, raw: Batch) -> list[float]:
    method, batch = trainer.method, trainer.transforms(raw, training=True)
    features, head, count = method.model.encode(batch), method.fusion.head, len(method.context.modalities)
    scores = []
    for index, values in enumerate(features.values()):
        logits = values @ head.weight[:, 6 * index : 6 * index + 6].T + head.bias / count
        scores.append(sum(logits[i].softmax(0)[batch.labels[i]].item() for i in range(16)) / 16)
    return [score - (sum(scores) - score) / (count - 1) for score in scores]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_leading_encoders_are_pulled_to_the_epochs_start_and_nothing_else_is_touched(count: int) -> None:
    trainer, twin = begun(count), begun(count)
    twin.train_step(batches(twin)[0])
    leads = dict(zip(twin.method.context.modalities, naive_leads(twin, batches(twin)[1]), strict=True))
    before, after, moved = gradients_of_second_step(trainer)
    assert 1 <= sum(lead > 0 for lead in leads.values()) < count
    for name, gradient in before.items():
        modality = name.split(".")[2] if "encoders." in name else ""
        if (lead := leads.get(modality, -1)) > 0:
            strength = 0.95 * math.exp(math.tanh(64 * lead))
            torch.testing.assert_close(after[name], gradient + strength * moved[name], rtol=1e-9, atol=0)
            assert moved[name].abs().max() > 0
        else:
            assert torch.equal(after[name], gradient)


def test_each_modality_has_its_own_beta() -> None:
    trainer = begun(method__betas={"loud": 0.0, "quiet": 0.3})
    before, after, _ = gradients_of_second_step(trainer)
    assert trainer.method.betas.tolist() == pytest.approx([0, 0.3])
    assert all(torch.equal(after[name], value) for name, value in before.items() if ".loud." in name)


def test_the_scores_difference_does_not_depend_on_the_batchs_size() -> None:
    trainer = begun(method__gap_scale=64.0)
    doubled, raw = begun(method__gap_scale=64.0), batches(trainer)[0]
    trainer.train_step(raw)
    twice = Batch({m: torch.cat([x, x]) for m, x in raw.inputs.items()}, torch.cat([raw.labels, raw.labels]),
                  sample_ids=[*raw.sample_ids, *raw.sample_ids], rows=torch.cat([raw.rows, raw.rows]))  # fmt: skip
    doubled.train_step(twice)
    torch.testing.assert_close(trainer.method.pulls, doubled.method.pulls)


def test_in_micro_batches_scores_are_of_the_whole_step() -> None:
    whole, parts = begun(3), begun(3, trainer__accumulate=3)
    expected, found = gradients_of_second_step(whole), gradients_of_second_step(parts)
    torch.testing.assert_close(whole.method.pulls, parts.method.pulls)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_step_without_a_complete_sample_holds_none() -> None:
    trainer = begun()
    loud = torch.arange(140) % 2 == 0
    trainer.loader._data.present = {"loud": loud, "quiet": ~loud}
    trainer.train_step(batches(trainer)[0])
    assert trainer.method.pulls.tolist() == [0, 0]


def test_a_parts_loss_is_of_the_samples_that_have_it_and_reaches_the_joint_head() -> None:
    trainer = begun()
    batch = trainer.transforms(batches(trainer)[0], training=True)
    batch.present = {"quiet": torch.arange(16) % 4 > 0}
    next(trainer.engine.micro_batches(batch))
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    kept, head = batch.present["quiet"], trainer.method.fusion.head
    features = trainer.method.model.encode(batch)["quiet"][kept]
    logits = features @ head.weight[:, 6:].T + head.bias / 2
    torch.testing.assert_close(terms["quiet"], F.cross_entropy(logits, batch.labels[kept]))
    terms["quiet"].backward()
    assert head.weight.grad[:, 6:].abs().min() > 0
    assert head.weight.grad[:, :6].count_nonzero() == 0
    assert head.bias.grad.abs().min() > 0


# Prime


def recorded_traces(trainer: Trainer) -> list[list[float]]:
    """T of each epoch and modality, summed step by step from what the optimizer is given."""
    found: list[list[float]] = []
    step, names = trainer.engine.step, trainer.method.context.modalities

    def recording() -> None:
        if trainer.engine.place.step == 0:
            found.append([0.0] * len(names))
        for index, name in enumerate(names):
            gradient = trainer.method.model.encoders[name].layer.weight.grad
            found[-1][index] += sum(value**2 for value in gradient.flatten().tolist()) / gradient.numel()
        step()

    trainer.engine.step = recording
    return found


@pytest.mark.parametrize("trace", ["own", "first"])
def test_the_prime_is_found_from_the_gradients_of_the_finished_epochs(trace: str) -> None:
    trainer = trainer_of("inforeg", 2, method__window=2, method__trace=trace, **WHOLE)
    traces = recorded_traces(trainer)
    trainer.fit()
    for epoch, row in enumerate(trainer.reporter.rows):
        for index, name in enumerate(("loud", "quiet")):
            judged = 0 if trace == "first" else index
            known = [values[judged] for values in traces[:epoch]]
            expected = naive_growth(known, 2) if known else 1
            assert row[f"method/growth/{name}"] == pytest.approx(expected, rel=1e-9)
    assert traces[0] != pytest.approx(traces[1])


def test_only_in_its_prime_is_a_modality_held() -> None:
    trainer = begun()
    trainer.method.growth.copy_(torch.tensor([0.04, 0.04]))
    trainer.train_step(batches(trainer)[0])
    assert trainer.method.pulls.tolist() == [0, 0]
    trainer.method.growth.copy_(torch.tensor([0.06, 0.06]))
    trainer.train_step(batches(trainer)[1])
    assert trainer.method.pulls.max() > 0


def test_the_start_is_that_of_the_running_epoch() -> None:
    trainer = trainer_of("inforeg", trainer__max_epochs=2)
    starts = []
    begin = trainer.method.begin_epoch

    def recording(engine: object) -> None:
        starts.append(trainer.method.model.encoders["loud"].layer.weight.detach().clone())
        begin(engine)

    trainer.method.begin_epoch = recording
    trainer.fit()
    assert not torch.equal(*starts)
    assert torch.equal(trainer.method.start_loud_0, starts[1])


@pytest.mark.parametrize(("window", "epochs", "expected"), [(10, 50, 10), (10, 100, 20), (10, 4, 1), (10, 1, 1)])
def test_the_window_is_in_the_papers_epochs(window: int, epochs: int, expected: int) -> None:
    trainer = trainer_of("inforeg", method__window=window, trainer__max_epochs=epochs)
    assert trainer.method.traces.shape == (2, expected + 1)


def test_betas_are_asked_for_each_modality() -> None:
    with pytest.raises(ConfigError, match=r"method\.betas must have a weight for each of loud, quiet, got \['loud'\]"):
        trainer_of("inforeg", method__betas={"loud": 1.0})


def test_the_released_betas_are_those_of_their_modalities() -> None:
    variants = METHODS.get("inforeg").variants
    assert variants(("image", "audio"))["released"]["method.betas"] == {"audio": 0.95, "image": 0.1}
    assert "method.betas" not in variants(("image", "text"))["released"]


@pytest.mark.parametrize("fusion", ["film", "gated", "weight"])
def test_a_fusion_that_cannot_be_taken_apart_is_refused(fusion: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.fusion must be .*concat.*sum"):
        trainer_of("inforeg", method__fusion=fusion)
