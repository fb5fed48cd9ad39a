"""Readings from the rows of epochs, and the cosines they may go by."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from synthetic import make_config, make_spec, make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmcore.evaluation.readings import Facts, Reading, kept, readings
from mmcore.methods import METHODS
from mmcore.training import trainer as trainer_module
from mmcore.training.run_log import read_readings, read_rows
from mmcore.training.trainer import Trainer
from mmcore.training.update.gradient_cosines import cosine

FACTS = Facts(("image", "audio"), chance=0.1, num_samples=2000)
ALONE = Facts(("image", "audio"), chance=0.1, num_samples=2000, alone={"image": 0.82})


def history_of(own: list[float] | None = None, probe: list[float] | None = None, norms: list[float] | None = None,
               cosines: list[float | None] | None = None) -> list[dict[str, float]]:  # fmt: skip
    """Rows of a healthy `audio` and of an `image` with the given values."""
    series = {"val/image/accuracy": own, "val/image/probe_accuracy": probe,
              "train/encoder/image/gradient_norm": norms, "train/encoder/image/cosine": cosines}  # fmt: skip
    given = {name: values for name, values in series.items() if values is not None}
    rows = []
    for index in range(len(next(iter(given.values())))):
        row = {"epoch": index + 1, "val/audio/accuracy": 0.9, "train/encoder/audio/gradient_norm": 0.3}
        rows.append(row | {name: values[index] for name, values in given.items() if values[index] is not None})
    return rows


def last(history: list[dict[str, float]], facts: Facts = FACTS) -> list[Reading]:
    return readings(history, facts)


def test_nothing_is_said_of_a_run_that_goes_well_or_has_not_begun() -> None:
    assert last([]) == []
    history = history_of([0.2, 0.5, 0.7, 0.8, 0.81], [0.3, 0.55, 0.7, 0.79, 0.8], [1.0] * 5, [0.3] * 5)
    for end in range(1, 6):
        assert last(history[:end], ALONE) == []


def test_held_back_is_said_with_its_probe_its_distance_and_since_when() -> None:
    probe = [0.5, 0.6, 0.71, 0.705, 0.7, 0.71, 0.71]
    history = history_of([value - 0.1 for value in probe], probe)
    said = [last(history[:end], ALONE) for end in range(1, 8)]
    assert [bool(found) for found in said] == [False] * 5 + [True, True]  # three epochs without a gain after the third
    (reading,) = said[-1]
    assert (reading.kind, reading.modality, reading.since) == ("held_back", "image", 3)
    assert reading.text == (
        "image has been held back since epoch 3: its probe is 11 points under image alone (71.0%, alone 82.0%)"
    )
    by_head = history_of(probe, [value - 0.1 for value in probe])
    assert "its own head is 11 points under image alone" in last(by_head, ALONE)[0].text


def test_held_back_is_never_said_without_a_reference_nor_while_it_gains_nor_within_chance() -> None:
    flat = history_of(probe=[0.71] * 8)
    assert last(flat) == []
    assert last(flat, Facts(("image", "audio"), 0.1, 2000, {"audio": 0.95})) == []  # audio is 5 points under: its own
    rising = history_of(probe=[0.2 + 0.01 * epoch for epoch in range(20)])
    assert last(rising, ALONE) == []
    near = history_of(probe=[0.78] * 8)
    assert last(near, ALONE) == []  # 4 points
    few = Facts(("image",), 0.1, 40, {"image": 0.82})
    assert last(flat, few) == []  # 11 points of 40 samples are less than two standard errors
    assert last(flat, ALONE)[0].since == 1


def test_a_modality_that_catches_up_later_is_held_back_no_more() -> None:
    probe = [0.5] * 8 + [0.7, 0.8, 0.81, 0.81]
    history = history_of(probe=probe)
    assert last(history[:8], ALONE)[0].kind == "held_back"
    assert last(history[:9], ALONE) == []
    assert last(history, ALONE) == []


def test_a_dead_encoder_has_no_gradient_and_answers_at_chance() -> None:
    own = [0.6, 0.58, 0.1, 0.1, 0.09]
    norms = [1.0, 0.5, 0.0, 0.0, 0.0]
    history = history_of(own, [0.6, 0.58, 0.2, 0.2, 0.2], norms)
    assert last(history[:2]) == []
    for end in (3, 4, 5):
        (reading,) = last(history[:end], ALONE)
        assert (reading.kind, reading.since) == ("dead", 3)
        assert reading.text == "image's encoder is dead since epoch 3: gradient norm 0"
    revived = history_of([*own, 0.3], None, [*norms, 0.2])
    assert not [reading for reading in last(revived) if reading.kind == "dead"]
    by_probe = history_of(None, [0.6, 0.1, 0.1], [1.0, 0.0, 0.0])  # no head of its own
    assert last(by_probe)[0].text == "image's encoder is dead since epoch 2: gradient norm 0"


@pytest.mark.parametrize(
    ("own", "norm"), [(0.1, 1e-3), (0.5, 0.0), (0.1, None)], ids=["a gradient", "answers well", "norm not known"]
)
def test_what_is_not_dead_is_not_called_so(own: float, norm: float | None) -> None:
    norms = None if norm is None else [norm, norm]
    assert not [reading for reading in last(history_of([own, own], None, norms)) if reading.kind == "dead"]


def test_a_modality_at_chance_is_named_after_three_epochs() -> None:
    history = history_of([0.3, 0.1, 0.11, 0.105], None, [1.0] * 4)
    assert [[r.kind for r in last(history[:end])] for end in (2, 3)] == [["fallen"], ["fallen"]]
    (reading,) = last(history)
    assert (reading.kind, reading.since) == ("at_chance", 2)
    assert reading.text == "image is no better than chance since epoch 2: its own head is at 10.5%, chance 10.0%"
    assert last(history_of([0.1, 0.3, 0.1, 0.3], None)) == []


def test_falling_behind_its_own_best_needs_no_reference() -> None:
    history = history_of(probe=[0.6, 0.8, 0.72, 0.7])
    (reading,) = last(history)
    assert (reading.kind, reading.since) == ("fallen", 3)
    assert reading.text == (
        "image has fallen back since epoch 3: its probe is 10 points under its own best (70.0%, best 80.0%)"
    )
    assert last(history_of(probe=[0.6, 0.8, 0.76, 0.77])) == []


def test_gradients_that_point_apart_are_named_after_three_measurements() -> None:
    measured = history_of(probe=[0.8] * 7, cosines=[0.2, -0.1, None, -0.2, None, -0.25, None])
    assert last(measured[:5]) == []
    for end in (6, 7):
        (reading,) = last(measured[:end])
        assert (reading.kind, reading.since) == ("apart", 2)
        assert "cosine -0.25 between the joint and its own gradient" in reading.text
    assert last(history_of(probe=[0.8] * 4, cosines=[-0.1, -0.1, -0.1, 0.1])) == []


def test_a_run_without_probes_and_heads_says_nothing_of_accuracies() -> None:
    rows = [{"epoch": epoch, "train/encoder/image/gradient_norm": 0.0} for epoch in (1, 2, 3, 4, 5)]
    assert readings(rows, Facts(("image",), 0.1, 100, {"image": 0.8})) == []


def test_readings_go_by_what_is_kept() -> None:
    history = history_of([0.6, 0.5, 0.1], [0.6, 0.5, 0.1], [1.0, 0.5, 0.0], [0.1, 0.1, 0.1])
    history = [row | {"val/fused/accuracy": 0.9, "time/epoch_s": 1.0} for row in history]
    parts = [kept(row, ("image", "audio")) for row in history]
    assert readings(parts, FACTS) == readings(history, FACTS) != []
    assert parts[0].keys() == history[0].keys() - {"val/fused/accuracy", "time/epoch_s"}


# The cosines


def test_cosine_is_that_of_the_joined_vectors() -> None:
    first = [torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])]
    second = [torch.tensor([[-2.0, 1.0]]), torch.tensor([2.0])]
    assert cosine(first, second).item() == pytest.approx(6 / (math.sqrt(14) * 3))
    assert math.isnan(cosine(first, [torch.zeros(1, 2), torch.zeros(1)]).item())


def trainer_of(method: str, count: int = 2, run_dir: Path | None = None, **values: object) -> Trainer:
    spec = make_spec(count)
    values = {"trainer__precision": "float64", **values}
    trainer = make_trainer(make_config(method, spec, **values), spec, run_dir)
    trainer.method.train()
    return trainer


def step(trainer: Trainer, is_measured: bool) -> None:
    batch = trainer.transforms(next(trainer.loader.train_batches(0)), training=True)
    trainer.engine.cosine_step = is_measured
    trainer.method.train_step(batch, trainer.engine)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("method", ["joint_unimodal", "iprm"])
def test_the_cosine_is_between_the_gradients_of_the_joint_and_the_own_terms(method: str, parts: int) -> None:
    trainer, twin = (trainer_of(method, 3, trainer__accumulate=parts) for _ in range(2))
    step(trainer, is_measured=True)
    joint: dict[str, list[torch.Tensor]] = {}
    own: dict[str, list[torch.Tensor]] = {}
    batch = twin.transforms(next(twin.loader.train_batches(0)), training=True)
    for part in twin.engine.micro_batches(batch):
        terms = twin.method.losses(part, "joint", twin.engine)
        share = part.num_samples / batch.num_samples
        fused = sum(term for name, term in terms.items() if name not in twin.method.context.modalities)
        for name in twin.method.context.modalities:
            parameters = list(twin.method.model.encoders[name].parameters())
            for found, loss in ((joint, fused), (own, terms[name])):
                gradients = torch.autograd.grad(share * loss, parameters, retain_graph=True)
                old = found.get(name, [0.0] * len(gradients))
                found[name] = [a + b for a, b in zip(old, gradients, strict=True)]
    for name in twin.method.context.modalities:
        expected = cosine(joint[name], own[name]).item()
        assert trainer.engine.cosines.values[name].item() == pytest.approx(expected, abs=1e-9)
        assert -1 < expected < 1


@pytest.mark.parametrize("method", METHODS.names())
def test_measuring_changes_nothing_and_is_undefined_without_both_kinds_of_terms(method: str) -> None:
    trainer, twin = trainer_of(method), trainer_of(method)
    step(trainer, is_measured=True)
    step(twin, is_measured=False)
    for name, value in twin.method.state_dict().items():
        assert torch.equal(value, trainer.method.state_dict()[name])
    measured = set(trainer.engine.cosines.values)
    has_both = {"joint_unimodal", "iprm", "mmpareto", "gblending", "inforeg", "arl", "dgl", "qmf"}
    left_alone = {"quiet"} if method == "cml" else set()  # the one its drawn chain ends in
    assert measured == ({"loud", "quiet"} if method in has_both else left_alone)
    assert not twin.engine.cosines.values


def test_one_step_an_epoch_is_measured_and_none_with_diagnostics_off(monkeypatch) -> None:
    monkeypatch.setattr(trainer_module, "COSINE_EVERY_STEPS", 3)
    trainer = trainer_of("joint_unimodal")
    measured, train_step = [], trainer.method.train_step

    def recording(batch: object, engine: object) -> dict[str, torch.Tensor]:
        measured.append(engine.cosine_step)
        return train_step(batch, engine)

    trainer.method.train_step = recording
    trainer.fit()
    assert measured == 4 * [False, False, True, False, False]  # five steps an epoch
    for row in trainer.reporter.rows:
        assert -1 <= row["train/encoder/quiet/cosine"] <= 1
    off = trainer_of("joint_unimodal", trainer__diagnostics=False)
    off.fit()
    assert not [name for name in off.progress.last_row if name.endswith(("/cosine", "gradient_norm"))]
    for name, value in trainer.method.state_dict().items():
        assert torch.equal(value, off.method.state_dict()[name])


def test_short_epochs_are_measured_less_often(monkeypatch) -> None:
    monkeypatch.setattr(trainer_module, "COSINE_EVERY_STEPS", 10)
    trainer = trainer_of("iprm", 3, method__pair_heads="single")
    trainer.fit()
    assert [[k for k in row if k.endswith("/cosine")] != [] for row in trainer.reporter.rows] == [False, True] * 2
    for row in trainer.reporter.rows:  # the modality not in the pair drawn has no joint gradient
        assert len([name for name in row if name.endswith("/cosine")]) in (0, 2)


def test_a_whole_step_with_a_measurement_never_waits_for_the_device() -> None:
    trainer = trainer_of("iprm", 3, trainer__precision="float32")
    for module in (trainer.method, trainer.probes, trainer.transforms):
        module.to("meta")
    meta = Trainer(trainer.config, trainer.method, trainer.loader, trainer.transforms, "meta")
    meta.method.train()
    meta._cosine_every = 1
    meta.train_step(next(iter(trainer.loader.train_batches(0))).to("meta"))
    assert {str(value.device) for value in meta.engine.cosines.values.values()} == {"meta"}


def test_half_precision_measures_about_the_same() -> None:
    full, half = (trainer_of("joint_unimodal", trainer__precision=name) for name in ("float32", "float16"))
    for trainer in (full, half):
        step(trainer, is_measured=True)
    for name, value in full.engine.cosines.values.items():
        assert half.engine.cosines.values[name].item() == pytest.approx(value.item(), abs=0.02)


def growing(rates: list[float], *moved: tuple[str, int, list[float]]) -> list[dict[str, float]]:
    """Rows of a healthy run at these rates, and additions: modality, number, movement in the last epochs."""
    rows = [{"epoch": epoch, "train/lr": rate, "val/audio/accuracy": 0.9} for epoch, rate in enumerate(rates, 1)]
    for name, number, values in moved:
        for row, value in zip(rows[-len(values) :], values, strict=True):
            row[f"train/head/{name}/added_{number}/moved"] = value
    return rows


FALLING = [0.002] * 3 + [2e-5] * 5


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ([(1, [0.004, 0.006, 0.0089])], "the last classifier of audio moved 0.9%"),
        (
            [(1, [0.1] * 7), (2, [0.01] * 5), (3, [0.001] * 3), (4, [0.0])],
            "the last three classifiers of audio moved 1.0% at most",
        ),
        # The tenth comes after the ninth, not after the first.
        (
            [(number, [0.1] * 7) for number in range(1, 9)] + [(9, [0.01] * 3), (10, [0.001] * 3)],
            "the last two classifiers of audio moved 1.0% at most",
        ),
    ],
)
def test_classifiers_that_came_too_late_to_learn_are_told(moved: list, said: str) -> None:
    (reading,) = last(growing(FALLING, *[("audio", *entry) for entry in moved]))
    assert (reading.kind, reading.modality, reading.since) == ("late", "audio", 4)
    assert reading.text == f"rate 2e-05 since epoch 4: {said}"


@pytest.mark.parametrize(
    ("rates", "moved"),
    [
        (FALLING, [(1, [0.001, 0.002])]),  # too young to tell
        (FALLING, [(1, [0.01] * 3), (2, [0.03] * 2)]),  # the last one learns
        (FALLING, [(1, [0.004, 0.01, 0.02])]),  # moved by 2 %
        (FALLING, [(1, [0.001] * 6)]),  # it had an epoch at the full rate: something else holds it
        ([2e-5] * 8, [(1, [0.001] * 3)]),  # the rate never fell
    ],
)
def test_classifiers_that_learn_or_had_their_chance_are_not_called_late(rates: list, moved: list) -> None:
    assert last(growing(rates, *[("audio", *entry) for entry in moved])) == []


def test_a_rate_that_fell_further_since_is_told_as_such() -> None:
    (reading,) = last(growing([0.002] * 3 + [2e-5] * 3 + [2e-6] * 2, ("audio", 1, [0.001] * 4)))
    assert reading.text == "rate 2e-05 or less since epoch 4: the last classifier of audio moved 0.1%"


# In the trainer


GROWING = {
    "method__tau": 0.0, "method__check_every_epochs": 1, "method__schedule_epochs": 1000, "trainer__max_epochs": 10,
    "schedule__patience_epochs": 0, "schedule__threshold": 0.9, "schedule__factor": 0.1,
}  # fmt: skip


def test_late_growth_is_told_by_a_run_whose_rate_fell_and_survives_resuming(tmp_path: Path) -> None:
    trainer = trainer_of("aug", run_dir=tmp_path / "whole", **GROWING)
    added: dict[str, torch.Tensor] = {}
    grow = trainer.engine.grow

    def noting_grow(module: torch.nn.Linear, group: str) -> None:
        grow(module, group)
        count = sum(name.startswith(group) for name in added)
        added[f"{group}/added_{count + 1}"] = torch.cat([p.detach().flatten().clone() for p in module.parameters()])

    trainer.engine.grow = noting_grow
    trainer.fit()
    row = trainer.progress.last_row
    moved = {name: value for name, value in row.items() if name.endswith("/moved")}
    assert set(moved) == {f"train/{name}/moved" for name in added}
    for group, layers in trainer.method.first_layers.items():
        for number, layer in enumerate(list(layers)[1:], 1):
            start = added[f"head/{group}/added_{number}"].double()
            now = torch.cat([p.detach().flatten() for p in layer.parameters()]).double()
            naive = ((now - start).square().sum() / start.square().sum()).sqrt().item()
            assert moved[f"train/head/{group}/added_{number}/moved"] == pytest.approx(naive, rel=1e-4)
    late = [reading for reading in trainer.readings() if reading.kind == "late"]
    said = "rate 0.002 or less since epoch 3: the last eight classifiers of quiet moved 0.2% at most"
    assert [reading.text for reading in late] == [said]
    cut = trainer_of("aug", run_dir=tmp_path / "cut", **GROWING)
    cut.fit(until=6)
    resumed = trainer_of("aug", run_dir=tmp_path / "cut", **GROWING)
    resumed.fit()
    assert {name: resumed.progress.last_row[name] for name in moved} == moved
    assert resumed.readings() == trainer.readings()


def test_nothing_is_kept_of_growth_where_diagnostics_are_off_or_nothing_is_trained() -> None:
    for values in ({"trainer__diagnostics": False}, {"method__added_classifiers": "frozen"}):
        trainer = trainer_of("aug", **GROWING, **values)
        trainer.fit(until=3)
        assert sum(trainer.method.structure()["classifiers"].values()) > 2
        assert trainer.engine.state_dict()["growth"] == []
        assert not any(name.endswith("/moved") for name in trainer.progress.last_row)


def kill(trainer: Trainer, name: str) -> None:
    """Makes an encoder answer zeros, without a gradient."""
    trainer.method.model.encoders[name].register_forward_hook(lambda module, inputs, output: output * 0)


def test_a_dead_encoder_is_told_in_the_file_in_tensorboard_and_in_the_result(tmp_path: Path) -> None:
    trainer = trainer_of("ensemble", run_dir=tmp_path)
    kill(trainer, "quiet")
    trainer.fit()
    text = "quiet's encoder is dead since epoch 1: gradient norm 0"
    assert [reading.text for reading in trainer.readings()] == [text]
    said = read_readings(tmp_path)
    assert list(said) == [1, 2, 3, 4]
    assert said[4] == [{"kind": "dead", "modality": "quiet", "since": 1, "text": text}]
    assert read_rows(tmp_path) == trainer.reporter.rows
    events = EventAccumulator(str(tmp_path)).Reload()
    (tag,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("readings"))
    assert [entry.step for entry in events.Tensors(tag)] == [1, 2, 3, 4]
    assert events.Tensors(tag)[0].tensor_proto.string_val[0].decode() == text
    again = trainer_of("ensemble", run_dir=tmp_path)
    again.resume()
    assert again.readings() == trainer.readings()


def test_the_trainer_compares_with_its_reference_and_with_chance_on_validation() -> None:
    spec = make_spec(2)
    known = make_trainer(make_config("joint", spec), spec)
    told = Trainer(known.config, known.method, known.loader, known.transforms, alone={"quiet": 1.0})
    for trainer in (known, told):
        trainer.progress.history = [
            {"epoch": epoch, "val/quiet/probe_accuracy": 0.6, "val/loud/probe_accuracy": 1 / 3} for epoch in range(1, 6)
        ]
    # 10 of 30 samples are of each class: a third is chance
    assert [(reading.kind, reading.modality) for reading in known.readings()] == [("at_chance", "loud")]
    assert [(reading.kind, reading.modality) for reading in told.readings()] == [
        ("at_chance", "loud"),
        ("held_back", "quiet"),
    ]
