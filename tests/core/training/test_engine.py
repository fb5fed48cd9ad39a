"""The engine: clipping, accumulation, statistics over ranks, NaN, optimizer state, schedules, precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor, nn

from mmcore import distributed, metric_names
from mmcore.batch import Batch
from mmcore.config.schema import ScheduleConfig
from mmcore.errors import CheckpointError, TrainingError
from mmcore.training.engine import Engine
from mmcore.training.growth import Growth
from mmcore.training.lr_schedule import Schedule
from mmcore.training.trainer import Trainer
from mmcore.training.update.optimizer import resolve_precision


def trainer_of(method: str, count: int = 2, **values: object) -> Trainer:
    spec = make_spec(count)
    trainer = make_trainer(make_config(method, spec, trainer__probes=False, **values), spec)
    trainer.method.train()
    return trainer


def batches(trainer: Trainer, count: int = 1, dtype: torch.dtype = torch.float32) -> list[Batch]:
    found = [batch for epoch in range(4) for batch in trainer.loader.train_batches(epoch)][:count]
    return [batch.with_inputs({name: x.to(dtype) for name, x in batch.inputs.items()}) for batch in found]


def gradients_at_step(trainer: Trainer, batch: Batch) -> dict[str, Tensor]:
    """The gradients the optimizer sees."""
    seen: dict[str, Tensor] = {}
    step = trainer.engine.optimizer.step

    def recording_step() -> None:
        seen.update({name: p.grad.clone() for name, p in trainer.method.named_parameters() if p.grad is not None})
        step()

    trainer.engine.optimizer.step = recording_step
    trainer.method.train_step(batch, trainer.engine)
    trainer.engine.optimizer.step = step
    return seen


# Clipping


def test_clipping_is_per_modality_encoder_and_head_together() -> None:
    free = trainer_of("joint_unimodal", 2)
    batch = batches(free)[0]
    gradients = gradients_at_step(free, batch)
    groups = {"loud": [], "quiet": [], "fusion": []}
    for name in gradients:
        groups[next(group for group in groups if group in name)].append(name)
    norms = {
        group: math.sqrt(sum(gradients[n].square().sum().item() for n in names)) for group, names in groups.items()
    }
    limit = sorted(norms.values())[1]  # one group is clipped hard, one just not, one not at all
    clipped = trainer_of("joint_unimodal", 2, optimizer__clip_norm=limit * 0.999)
    found = gradients_at_step(clipped, batch)
    for group, names in groups.items():
        scale = min(1.0, limit * 0.999 / norms[group])
        for name in names:
            torch.testing.assert_close(found[name], gradients[name] * scale, rtol=1e-4, atol=1e-7, msg=name)
    assert min(norms.values()) < limit < max(norms.values())


def test_logged_norms_are_those_before_clipping_of_logged_steps_alone() -> None:
    trainer = trainer_of("ensemble", 2, optimizer__clip_norm=1e-3)
    engine, (first, second) = trainer.engine, batches(trainer, 2)
    engine.log_step = True
    gradients = gradients_at_step(trainer, first)
    assert gradients["heads.loud.weight"].norm() <= 1e-3
    free = gradients_at_step(trainer_of("ensemble", 2), first)
    expected = torch.stack([value.square().sum() for name, value in free.items() if name.startswith("heads.quiet")])
    norms = dict(engine.gradient_norms)
    torch.testing.assert_close(norms["head/quiet"], expected.sum().sqrt())
    engine.log_step = False
    gradients_at_step(trainer, second)
    assert engine.gradient_norms == norms


# Accumulation and statistics


def test_accumulation_equals_no_accumulation_for_joint() -> None:
    values = {"trainer__precision": "float64", "optimizer__clip_norm": 0.7}
    whole, parts = trainer_of("joint", 2, **values), trainer_of("joint", 2, **values, trainer__accumulate=3)
    for batch in batches(whole, 6, torch.float64):
        terms = [trainer.method.train_step(batch, trainer.engine)["fused"] for trainer in (whole, parts)]
        torch.testing.assert_close(terms[1], terms[0], rtol=0, atol=1e-10)
    state = parts.method.state_dict()
    for name, value in whole.method.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-10)
    assert parts.engine.optimizer.state_dict()["state"].keys() == whole.engine.optimizer.state_dict()["state"].keys()


def test_micro_batches_cover_the_batch_once() -> None:
    trainer = trainer_of("joint", 2, trainer__accumulate=5)
    batch = batches(trainer)[0]
    parts = list(trainer.engine.micro_batches(batch))
    assert [part.num_samples for part in parts] == [4, 3, 3, 3, 3]
    assert [name for part in parts for name in part.sample_ids] == batch.sample_ids
    assert [part.num_samples for part in trainer.engine.micro_batches(batch.select(0, 2))] == [1, 1]


def test_every_rank_has_equally_many_micro_batches(monkeypatch) -> None:
    trainer = trainer_of("joint", 2, trainer__accumulate=3)
    batch = batches(trainer)[0]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    placeholder = batch.select(0, 1)
    placeholder.is_placeholder = True
    found = [[p.num_samples for p in trainer.engine.micro_batches(b)] for b in (batch.select(0, 2), placeholder)]
    assert found == [[1, 1, 0], [0, 0, 0]]


def test_statistics_are_averaged_over_the_samples_of_all_ranks(monkeypatch) -> None:
    trainer = trainer_of("joint", 2)
    engine = trainer.engine
    other = torch.tensor([10.0, 0.0, 1.0])  # from another rank: one sample, of statistic (10, 0)
    for _ in engine.micro_batches(batches(trainer)[0].select(0, 3)):
        statistic = torch.tensor([[2.0, 4.0]])
        assert torch.equal(engine.mean(statistic), statistic)
        total, count = engine.total(statistic)
        assert (total.tolist(), count.item()) == ([[6, 12]], 3)
        monkeypatch.setattr(distributed, "is_distributed", lambda: True)
        monkeypatch.setattr(distributed, "all_reduce_sum", lambda tensors: [t.add_(other) for t in tensors])
        assert engine.mean(statistic).tolist() == [[4, 3]]


def test_gradients_are_those_of_the_mean_and_leave_grad_alone() -> None:
    trainer = trainer_of("ensemble", 2)
    method, engine, batch = trainer.method, trainer.engine, batches(trainer)[0]
    parameters = [method.heads["loud"].weight, method.heads["quiet"].weight]
    for micro_batch in engine.micro_batches(batch):
        loss = method.losses(micro_batch, "joint", engine)["loud"]
        found = engine.gradients(loss, parameters)
        again = engine.gradients(2 * loss, parameters)  # the graph was kept
    expected = torch.autograd.grad(loss, parameters[0])[0]
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(again[0], 2 * expected)
    assert torch.equal(found[1], torch.zeros_like(parameters[1]))  # not used by this loss
    assert all(parameter.grad is None for parameter in method.parameters())


def test_parameters_without_a_gradient_get_zeros_not_none() -> None:
    trainer = trainer_of("joint", 2)
    unused = trainer.method.fusion.head.bias
    trainer.engine.backward({"loss": trainer.method.fusion.head.weight.sum()})
    trainer.engine.reduce_gradients("joint")
    assert torch.equal(unused.grad, torch.zeros_like(unused))


# NaN


def test_the_first_step_that_is_not_finite_is_latched_with_its_terms() -> None:
    trainer = trainer_of("ensemble", 2)
    engine = trainer.engine
    parameter = trainer.method.heads["loud"].bias

    def backward(step: int, **terms: float) -> None:
        engine.step_index = step
        engine.backward({name: parameter.sum() * 0 + value for name, value in terms.items()})

    backward(4, loud=1.0, quiet=2.0)
    engine.check_finite()
    backward(5, loud=1.5, quiet=math.inf)
    backward(6, loud=math.nan, quiet=3.0)
    backward(7, loud=1.0, quiet=1.0)
    with pytest.raises(
        TrainingError, match=r"not finite at step 5 \(loud = 1.5, quiet = inf\): a smaller optimizer.lr"
    ):
        engine.check_finite()


def test_the_latch_holds_where_the_phases_of_a_step_have_other_terms() -> None:
    engine = trainer_of("aug", 2, method__update="alternating").engine
    parameter = engine.method.second_layers["shared"].bias
    for step, (loud, quiet) in enumerate([(1.0, 1.0), (1.0, math.nan), (math.nan, math.nan), (2.0, 2.0)]):
        engine.step_index = step
        for name, value in (("loud", loud), ("quiet", quiet)):
            engine.backward({name: parameter.sum() * 0 + value})
    with pytest.raises(TrainingError, match=r"not finite at step 1 \(quiet = nan\)"):
        engine.check_finite()


def test_weights_that_are_not_finite_are_found() -> None:
    trainer = trainer_of("ensemble", 2)
    trainer.engine.step_index = 12
    with torch.no_grad():
        trainer.method.heads["quiet"].bias[1] = math.inf
    with pytest.raises(TrainingError, match=r"the weights are not finite after step 12.*now 0\.02"):
        trainer.engine.check_finite()


# Optimizer state


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizer_state_is_found_by_name_whatever_the_order(optimizer: str) -> None:
    trainer = trainer_of("ensemble", 2, optimizer__name=optimizer, optimizer__lr=0.002)
    for batch in batches(trainer, 3):
        trainer.method.train_step(batch, trainer.engine)
    state = copy.deepcopy(trainer.engine.state_dict())
    twin = trainer_of("ensemble", 2, optimizer__name=optimizer, optimizer__lr=0.002)
    # The two heads have the same shape, so that loading by position would pass unnoticed.
    twin.method.heads = nn.ModuleDict(reversed(twin.method.heads.items()))
    twin.method.load_state_dict(trainer.method.state_dict())
    engine = Engine(twin.method, twin.config, torch.device("cpu"))
    engine.load_state_dict(state)
    for name, parameter in trainer.method.named_parameters():
        expected = trainer.engine.optimizer.state[parameter]
        found = engine.optimizer.state[dict(twin.method.named_parameters())[name]]
        assert found.keys() == expected.keys()
        assert all(torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key])) for key in found), name
    batch = batches(trainer, 4)[3]
    trainer.method.train_step(batch, trainer.engine)
    twin.method.train_step(batch, engine)
    for name, value in trainer.method.state_dict().items():
        assert torch.equal(value, twin.method.state_dict()[name]), name


def test_optimizer_state_of_other_parameters_is_refused() -> None:
    trainer = trainer_of("ensemble", 2)
    trainer.method.train_step(batches(trainer)[0], trainer.engine)
    state = trainer.engine.state_dict()
    state["optimizer"]["heads.smell.weight"] = state["optimizer"].pop("heads.loud.weight")
    with pytest.raises(CheckpointError, match=r"optimizer names parameters the model lacks: \['heads.smell.weight'\]"):
        trainer.engine.load_state_dict(state)


def test_generators_and_rate_are_part_of_the_state() -> None:
    trainer = trainer_of("ensemble", 2, schedule={"name": "step", "step_epochs": 1})
    assert trainer.engine.learning_rate == 0.02
    trainer.engine.end_epoch(0, 1.0)
    rate = trainer.engine.learning_rate
    torch.rand(3, generator=trainer.engine.generator("pairs"))
    state = trainer.engine.state_dict()
    expected = torch.rand(3, generator=trainer.engine.generator("pairs"))
    twin = trainer_of("ensemble", 2, schedule={"name": "step", "step_epochs": 1}).engine
    twin.load_state_dict(state)
    assert torch.equal(torch.rand(3, generator=twin.generator("pairs")), expected)
    assert twin.learning_rate == rate == pytest.approx(0.002)
    assert not torch.equal(torch.rand(3, generator=twin.generator("growth")), expected)


# Schedules


def factors(config: ScheduleConfig, losses: list[float], growth_before: tuple[int, ...] = (), epochs: int = 4) -> list:
    schedule, found = Schedule(config, epochs), []
    for epoch, loss in enumerate(losses):
        if epoch in growth_before:
            schedule.forget_best()
        found.append(schedule.after_epoch(epoch, loss))
    return found


def test_plateau_divides_after_more_than_patience_bad_epochs() -> None:
    config = ScheduleConfig(name="plateau", patience_epochs=2, factor=0.1, threshold=0.01)
    assert factors(config, [1.0, 0.9, 0.8, 0.7]) == [1] * 4
    # 0.795 is no improvement of 1 % on 0.8; the third bad epoch divides, and the count starts anew
    assert factors(config, [0.8, 0.795, 0.9, 0.81, 0.8, 0.8, 0.8]) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])
    assert factors(config, [0.8, 0.9, 0.9, 0.79, 0.9, 0.9]) == [1] * 6  # an improvement clears the count


def test_growth_resets_plateaus_best_value_but_not_its_count() -> None:
    config = ScheduleConfig(name="plateau", patience_epochs=2, factor=0.1, threshold=0.01)
    # a bad epoch, growth with a higher loss that becomes the best (and counts as bad), then one more bad epoch: divided
    assert factors(config, [0.5, 0.6, 0.9, 0.9], growth_before=(2,)) == pytest.approx([1, 1, 1, 0.1])
    # against the new best, a falling loss is an improvement and clears the count; it would not be without growth
    assert factors(config, [0.5, 0.6, 0.9, 0.8, 0.8, 0.8], growth_before=(2,)) == [1] * 6
    assert factors(config, [0.5, 0.6, 0.9, 0.8, 0.8, 0.8])[-1] == pytest.approx(0.1)


def test_plateau_divides_although_a_method_grows_every_epoch() -> None:
    config = ScheduleConfig(name="plateau", patience_epochs=2, factor=0.1, threshold=0.01)
    losses = [0.5, 0.6, 0.7, 0.8, 0.9]
    assert factors(config, losses, growth_before=(1, 2, 3, 4)) == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_step_cosine_and_constant() -> None:
    step = ScheduleConfig(name="step", step_epochs=2, factor=0.1)
    assert factors(step, [1.0] * 5) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])
    cosine = ScheduleConfig(name="cosine")
    half = math.sqrt(0.5)
    assert factors(cosine, [1.0] * 4) == pytest.approx([(1 + half) / 2, 0.5, (1 - half) / 2, 0.0])
    assert factors(ScheduleConfig(name="constant"), [9.0, 9.0]) == [1, 1]
    released = factors(ScheduleConfig(name="step"), [1.0] * 71, epochs=100)
    assert released[68:] == pytest.approx([1, 0.1, 0.1])  # epoch 70 (from 0) is the first at a tenth


def test_a_schedule_goes_on_where_it_was_stored() -> None:
    config, losses = ScheduleConfig(name="plateau", patience_epochs=1), [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    whole = factors(config, losses)
    for stop in range(1, len(losses)):
        first, second = Schedule(config, 4), Schedule(config, 4)
        found = [first.after_epoch(epoch, loss) for epoch, loss in enumerate(losses[:stop])]
        second.load_state_dict(first.state_dict())
        found += [second.after_epoch(stop + epoch, loss) for epoch, loss in enumerate(losses[stop:])]
        assert found == whole


def test_a_forgotten_best_survives_storing() -> None:
    config = ScheduleConfig(name="plateau", patience_epochs=1)
    first, second = Schedule(config, 4), Schedule(config, 4)
    first.after_epoch(0, 0.5)
    first.forget_best()
    second.load_state_dict(first.state_dict())
    # 0.8 is better than 0.9, the loss after growth, though not than 0.5
    assert [second.after_epoch(1, 0.9), second.after_epoch(2, 0.8)] == [1, 1]


def test_the_rate_follows_the_schedule() -> None:
    engine = trainer_of("ensemble", 2, schedule__name="step", schedule__step_epochs=1).engine
    engine.end_epoch(0, 1.0)
    assert [group["lr"] for group in engine.optimizer.param_groups] == pytest.approx([0.002])


FALLING = [
    {"name": "step", "step_epochs": 1},
    {"name": "plateau", "patience_epochs": 0},
    {"name": "cosine"},
]


@pytest.mark.parametrize("schedule", FALLING, ids=lambda schedule: schedule["name"])
def test_the_rate_falls_to_its_floor_and_stays_there(schedule: dict) -> None:
    trainer = trainer_of("aug", 2, schedule={**schedule, "min_lr": 0.0015})
    engine, rates = trainer.engine, []
    for epoch in range(4):
        engine.end_epoch(epoch, 1.0)
        trainer.method._add_classifier("quiet", engine)  # what is added takes the same rate
        rates.append({group["lr"] for group in engine.optimizer.param_groups})
    assert all(len(rate) == 1 for rate in rates)
    expected = {
        "step": [0.002, 0.0015, 0.0015, 0.0015],
        "plateau": [0.02, 0.002, 0.0015, 0.0015],
        "cosine": [0.01 * (1 + math.sqrt(0.5)), 0.01, 0.01 * (1 - math.sqrt(0.5)), 0.0015],
    }[schedule["name"]]
    assert [rate.pop() for rate in rates] == pytest.approx(expected)
    resumed = trainer_of("aug", 2, schedule={**schedule, "min_lr": 0.0015})
    resumed.method.rebuild(trainer.method.structure())
    resumed.engine.load_state_dict(engine.state_dict())
    assert resumed.engine.learning_rate == 0.0015


def test_without_a_floor_the_rate_falls_to_zero() -> None:
    engine = trainer_of("ensemble", 2, schedule={"name": "cosine"}).engine
    engine.end_epoch(3, 1.0)
    assert engine.learning_rate == 0.0


# Precision


@pytest.mark.parametrize("method", ["iprm", "aug", "joint_unimodal"])
@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_half_precision_stays_close_to_float32(method: str, precision: str, tolerance: float) -> None:
    full = trainer_of(method, 3, optimizer__clip_norm=0.5)
    half = trainer_of(method, 3, optimizer__clip_norm=0.5, trainer__precision=precision)
    full.engine.log_step = half.engine.log_step = True
    before = {name: value.clone() for name, value in half.method.named_parameters()}
    for batch in batches(full, 4):
        expected = full.method.train_step(batch, full.engine)
        found = half.method.train_step(batch, half.engine)
    for name, term in found.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=tolerance), name
    assert any(not torch.equal(term, expected[name]) for name, term in found.items())  # autocast was on
    for name, norm in half.engine.gradient_norms.items():  # before clipping, and not scaled
        assert norm.item() == pytest.approx(full.engine.gradient_norms[name].item(), rel=0.1), name
    for name, value in half.method.named_parameters():
        assert value.dtype == torch.float32
        assert not torch.equal(value, before[name]), name


def test_float16_skips_a_step_whose_gradient_overflows() -> None:
    trainer = trainer_of("joint", 2, trainer__precision="float16")
    before = {name: value.clone() for name, value in trainer.method.named_parameters()}
    scale = trainer.engine._scaler.get_scale()
    trainer.engine.backward({"loss": trainer.method.fusion.head.weight.sum() * 1e38})
    trainer.engine.reduce_gradients("joint")
    trainer.engine.step()
    assert all(torch.equal(value, before[name]) for name, value in trainer.method.named_parameters())
    assert trainer.engine._scaler.get_scale() == scale / 2
    trainer.engine.check_finite()


def test_auto_precision() -> None:
    assert resolve_precision("auto", torch.device("cpu")) == "float32"
    assert resolve_precision("auto", torch.device("cuda")) == "bfloat16"
    assert resolve_precision("float64", torch.device("cuda")) == "float64"


def test_growth_of_an_older_checkpoint_is_not_told_and_stays_unknown() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    growth = Growth()
    growth.load([{"group": "head/a", "parameters": ["first"], "initial": [torch.full((2,), 2.0)]}], {"first": first})
    assert growth.moved()[metric_names.moved("head/a", 1)] == pytest.approx(0.5)
    growth.load(None, {"first": first})
    growth.add("head/a", [second])
    assert growth.moved() == {}, "the second addition would be called the first"
    assert growth.state({first: "first", second: "second"}) is None
