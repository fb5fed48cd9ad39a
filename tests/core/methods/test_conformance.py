"""What every registered method must do, with two, three and four modalities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from synthetic import NUM_CLASSES, QUICKER, make_config, make_spec, make_trainer

from mmcore.assembly.config import with_values
from mmcore.methods import FUSED, METHODS
from mmcore.training.run_log import read_rows
from mmcore.training.trainer import Trainer

ALWAYS = ("iprm", "aug")
"""Methods that the quick suite takes with every number of modalities; of the others one number, all in the slow one."""
CASES = [
    pytest.param(method, count, marks=[] if method in ALWAYS or count == 2 + index % 3 else pytest.mark.slow)
    for index, method in enumerate(METHODS.names())
    for count in (2, 3, 4)
]
every_method = pytest.mark.parametrize(("method", "count"), CASES)


def run_state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Everything a resumed run must have equal: weights, method state, probes, momentum."""
    state = {f"method/{name}": value for name, value in trainer.method.state_dict().items()}
    state |= {f"probes/{name}": value for name, value in trainer.probes.state_dict().items()}
    for name, entry in trainer.engine.state_dict()["optimizer"].items():
        state |= {f"optimizer/{name}/{key}": value for key, value in entry.items() if value is not None}
    return state


def assert_equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


@every_method
def test_the_loss_falls_and_predictions_beat_chance(method: str, count: int) -> None:
    spec = make_spec(count)
    config = make_config(method, spec, trainer__max_epochs=16, **QUICKER.get(method, {}))
    trainer = make_trainer(config, spec)
    before = trainer.evaluate("train").metrics
    trainer.fit()
    after = trainer.evaluate("train").metrics
    assert after["fused/loss"] < 0.7 * before["fused/loss"]
    assert after["fused/accuracy"] > 0.8


@every_method
def test_predictions_have_the_right_names_and_shapes(method: str, count: int) -> None:
    spec = make_spec(count)
    trainer = make_trainer(make_config(method, spec), spec)
    evaluation = trainer.evaluate("val")
    heads = {name for name in evaluation.logits if not name.endswith("/probe")}
    assert FUSED in heads
    assert heads - {FUSED} <= set(spec.modality_names)
    for modality in trainer.method.context.modalities:
        assert f"{modality}/probe" in evaluation.logits
    for logits in evaluation.logits.values():
        assert logits.shape == (30, NUM_CLASSES)
        assert torch.isfinite(logits).all()


@every_method
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(method: str, count: int) -> None:
    spec = make_spec(count)
    states = []
    for seed in (0, 0, 1):
        trainer = make_trainer(make_config(method, spec, seed=seed, trainer__max_epochs=2), spec)
        trainer.fit()
        states.append(run_state(trainer))
    assert_equal_states(states[0], states[1])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


class Stop(Exception):
    """Stands for the end of the process."""


class StopAfter:
    def __init__(self, epoch: int):
        self.epoch = epoch

    def report(self, metrics: dict[str, float]) -> None:
        if metrics["epoch"] == self.epoch:
            raise Stop


@every_method
@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_resumed_run_equals_the_uninterrupted_one(method: str, count: int, stopped_after: int, tmp_path) -> None:
    spec = make_spec(count)
    config = make_config(method, spec, trainer__max_epochs=5)
    whole = make_trainer(config, spec, tmp_path / "whole")
    whole.fit()
    interrupted = make_trainer(config, spec, tmp_path / "cut")
    interrupted.reporter = StopAfter(stopped_after)
    with pytest.raises(Stop):
        interrupted.fit()
    resumed = make_trainer(config, spec, tmp_path / "cut")
    resumed.fit()
    assert_equal_states(run_state(whole), run_state(resumed))
    assert resumed.engine.schedule.state_dict() == whole.engine.schedule.state_dict()
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_rows(tmp_path / "cut")]
    assert rows == [
        {k: v for k, v in row.items() if not k.startswith("time/")} for row in read_rows(tmp_path / "whole")
    ]


@every_method
def test_a_run_resumed_inside_an_epoch_equals_the_uninterrupted_one(method: str, count: int, tmp_path: Path) -> None:
    resume_inside_an_epoch(method, count, 1, tmp_path)


@pytest.mark.parametrize("method", ["iprm", "aug"])
def test_a_run_in_micro_batches_resumed_inside_an_epoch_equals_the_uninterrupted_one(
    method: str, tmp_path: Path
) -> None:
    resume_inside_an_epoch(method, 3, 3, tmp_path)


def resume_inside_an_epoch(method: str, count: int, accumulate: int, tmp_path: Path) -> None:
    spec = make_spec(count)
    values = {"trainer__max_epochs": 4, "trainer__checkpoint_every_steps": 2, "trainer__accumulate": accumulate}
    config = make_config(method, spec, **values)
    whole = make_trainer(config, spec, tmp_path / "whole")
    whole.fit()
    interrupted = make_trainer(config, spec, tmp_path / "cut")
    step = interrupted.train_step

    def dying_step(batch):
        if interrupted.engine.step_index == 13:  # epoch 2 has 5 steps and was last saved after its second
            raise Stop
        step(batch)

    interrupted.train_step = dying_step
    with pytest.raises(Stop):
        interrupted.fit()
    resumed = make_trainer(config, spec, tmp_path / "cut")
    assert resumed.resume()
    assert (resumed.progress.epoch, resumed.progress.step_in_epoch) == (2, 2)
    resumed.fit()
    assert_equal_states(run_state(whole), run_state(resumed))


@every_method
def test_every_trainable_parameter_is_in_the_optimizer_once_and_moves(method: str, count: int) -> None:
    spec = make_spec(count)
    # A negative margin is refused; the strong and the weak modality differ enough for AUG to grow by itself.
    trainer = make_trainer(make_config(method, spec, trainer__max_epochs=3), spec)
    trainer.fit()
    if method == "aug":
        assert sum(trainer.method.structure()["classifiers"].values()) > count
    before = {name: value.clone() for name, value in trainer.method.named_parameters()}
    grouped = [id(p) for group in trainer.engine.optimizer.param_groups for p in group["params"]]
    trainable = [id(p) for p in trainer.method.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    for batch in trainer.loader.train_batches(3):
        trainer.train_step(batch)
    unmoved = [name for name, value in trainer.method.named_parameters() if torch.equal(value, before[name])]
    assert not unmoved


@every_method
def test_a_whole_step_runs_on_the_meta_device(method: str, count: int) -> None:
    spec = make_spec(count)
    with torch.device("meta"):
        config = make_config(method, spec, optimizer__clip_norm=1.0)
    trainer = make_trainer(config, spec)
    trainer.method.to("meta")
    trainer.probes.to("meta")
    trainer.transforms.to("meta")
    for teacher in trainer.method.context.teachers.values():
        teacher._method.to("meta")
    meta = Trainer(config, trainer.method, trainer.loader, trainer.transforms, "meta")
    batch = next(iter(trainer.loader.train_batches(0))).to("meta")
    meta.method.train()
    meta.probes.train()
    for _ in range(2):
        meta.train_step(batch)
    tensors = [*meta.method.state_dict().values(), *meta.probes.state_dict().values(), *meta.progress.totals.values()]
    tensors += [
        value for entry in meta.engine.optimizer.state.values() for value in entry.values() if value is not None
    ]
    assert {str(tensor.device) for tensor in tensors} == {"meta"}
    assert meta.engine.step_index == 2


@pytest.mark.parametrize("method", METHODS.names())
def test_encoders_without_parameters_are_taken(method: str, tmp_path: Path) -> None:
    spec = make_spec(2)
    encoders = {name: {"name": "identity"} for name in spec.modality_names}
    quicker = make_config(method, spec, trainer__max_epochs=16, **QUICKER.get(method, {}))
    config = with_values(quicker, {"model.encoders": encoders})
    trainer = make_trainer(config, spec, run_dir=tmp_path)
    trainer.fit()
    assert trainer.evaluate("train").metrics["fused/accuracy"] > 0.8
