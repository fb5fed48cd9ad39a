"""Teachers: frozen models of one modality each, and a method that learns from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from distilling import distilling
from processes import run_processes
from stepping import assert_equal_runs, interrupt_at
from synthetic import make_config, make_spec, make_trainer
from torch import Tensor

from mmcore.assembly.config import with_values
from mmcore.assembly.teachers import FrozenTeacher, build_teacher, read_teacher, teacher_config
from mmcore.config.schema import RunConfig
from mmcore.errors import CheckpointError, TrainingError
from mmcore.training.trainer import Trainer

SPEC = make_spec(2)
EPOCHS = 3


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with distilling():
        yield


def config_of(**values: object) -> RunConfig:
    options = {"trainer__precision": "float64", "trainer__max_epochs": EPOCHS, "trainer__checkpoint_every_steps": 2}
    return make_config("distilling", SPEC, **{**options, **values})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs of `unimodal`, one for each modality; their encoders have batch norms."""
    path = tmp_path_factory.mktemp("teachers")
    with distilling():
        for name in SPEC.modality_names:
            values = {f"model__encoders__{modality}__batch_norm": True for modality in SPEC.modality_names}
            config = teacher_config(config_of(**values), name)
            make_trainer(config, SPEC, path / name, num_train=33).fit()
    return path


def teachers_of(folder: Path, config: RunConfig) -> dict[str, FrozenTeacher]:
    return {name: build_teacher(read_teacher(folder / name), name, config, SPEC) for name in SPEC.modality_names}


def trainer_of(
    folder: Path, run_dir: Path | None = None, rank: int = 0, world_size: int = 1, **values: object
) -> Trainer:
    config = config_of(**values)
    teachers = teachers_of(folder, config)
    trainer = make_trainer(config, SPEC, run_dir, num_train=33, rank=rank, world_size=world_size, teachers=teachers)
    trainer.loader._data.present = {"quiet": torch.arange(93) % 3 > 0}
    return trainer


def weights_of(teacher: FrozenTeacher) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in teacher._method.state_dict().items()}


def test_a_teacher_says_what_its_models_best_epoch_does_and_nothing_moves_it(folder: Path) -> None:
    trainer = trainer_of(folder)
    batch = next(iter(trainer.loader.train_batches(0)))
    teachers = trainer.method.context.teachers
    before = {name: weights_of(teacher) for name, teacher in teachers.items()}
    batch = trainer.transforms(batch, training=True)
    for name, teacher in teachers.items():
        own = make_trainer(teacher_config(config_of(**{
            f"model__encoders__{modality}__batch_norm": True for modality in SPEC.modality_names
        }), name), SPEC, folder / name, num_train=33)  # fmt: skip
        own.load_selected()
        own.method.eval()
        with torch.no_grad():
            assert torch.equal(teacher(batch).logits, own.method.predict(batch)[name])
            assert torch.equal(teacher(batch).features, own.method.model.encode(batch)[name])
        assert teacher(batch).features.shape == (16, teacher.num_features)
        assert not teacher(batch).logits.requires_grad
    trainer.fit()
    for name, teacher in teachers.items():
        after = weights_of(teacher)
        assert all(torch.equal(before[name][key], after[key]) for key in after)
        assert not teacher._method.training


def test_a_teacher_is_no_part_of_the_method_that_learns_from_it(folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(folder, tmp_path)
    plain = make_trainer(make_config("joint", SPEC, trainer__precision="float64"), SPEC)
    assert trainer.method.state_dict().keys() == plain.method.state_dict().keys()
    trainer.fit()
    again = make_trainer(trainer.config, SPEC, tmp_path, teachers={})  # to predict it needs none
    assert again.load_selected() > 0
    assert again.evaluate("test").metrics["fused/accuracy"] > 0.4


def test_teachers_make_a_difference_and_are_drawn_from_no_random_numbers_of_the_run(folder: Path) -> None:
    taught, other = trainer_of(folder), trainer_of(folder, method__weight=0.0)
    plain = make_trainer(with_values(other.config, {"method": {"name": "joint"}}), SPEC, num_train=33)
    plain.loader._data.present = other.loader._data.present
    assert_equal_runs(other, plain)  # at weight 0 its terms add 0
    taught.fit()
    name = next(iter(plain.method.state_dict()))
    assert not torch.equal(taught.method.state_dict()[name], plain.method.state_dict()[name])


@pytest.mark.parametrize("stopped_at", [3, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(stopped_at: int, folder: Path, tmp_path: Path) -> None:
    whole, cut = trainer_of(folder), trainer_of(folder, tmp_path)
    interrupt_at(cut, stopped_at)
    with pytest.raises(InterruptedError):
        cut.fit()
    assert_equal_runs(whole, trainer_of(folder, tmp_path))


def test_a_run_does_not_go_on_with_other_teachers(folder: Path, tmp_path: Path) -> None:
    trainer_of(folder, tmp_path).fit(1)
    other = trainer_of(folder, tmp_path)
    other.method.context.teachers["loud"].checksum = "another"
    with pytest.raises(CheckpointError, match="the run began with other teachers"):
        other.fit()


def test_a_run_without_the_teachers_it_needs_is_refused_before_it_trains() -> None:
    trainer = make_trainer(config_of(), SPEC, teachers={})
    with pytest.raises(TrainingError, match="distilling learns from a model of each modality, and was built without"):
        trainer.fit()
    make_trainer(config_of(method__weight=0.0), SPEC).fit(1)


def test_a_teacher_of_something_else_is_refused(folder: Path) -> None:
    state, config = read_teacher(folder / "loud"), config_of()
    with pytest.raises(CheckpointError, match="the teacher of quiet must be a model of unimodal on it"):
        build_teacher(state, "quiet", config, SPEC)
    cases: Mapping[str, object] = {
        "dataset.options": {"third": "view"},
        "protocol.seed": 3,
        "dataset.transforms": {"loud": {"mean": 3}},
    }
    for path, value in cases.items():
        other = with_values(config, {path: value})
        with pytest.raises(CheckpointError, match=rf"run's own samples; {path.split('.seed')[0]} differ"):
            build_teacher(state, "loud", other, SPEC)
    with pytest.raises(CheckpointError, match="holds no best model"):
        read_teacher(folder / "faint")


def test_the_last_epochs_model_teaches_where_that_is_the_one_tested(tmp_path: Path) -> None:
    config = teacher_config(config_of(trainer__select="last"), "quiet")
    trainer = make_trainer(config, SPEC, tmp_path, num_train=33)
    trainer.fit()
    weights = read_teacher(tmp_path)["method"]
    assert all(torch.equal(value, weights[name]) for name, value in trainer.method.state_dict().items())


# Workers


def train(rank: int, world_size: int, folder: str) -> dict[str, Tensor]:
    with distilling():
        trainer = trainer_of(Path(folder), None, rank, world_size)
        trainer.fit()
    return dict(trainer.method.state_dict())


@pytest.mark.slow
def test_two_workers_equal_one(folder: Path) -> None:
    expected = train(0, 1, str(folder))
    for found in run_processes(train, 2, 2, str(folder)):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
