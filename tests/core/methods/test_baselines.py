"""The baselines: unimodal, ensemble, joint and joint with unimodal heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from synthetic import make_config, make_spec, make_trainer

from mmcore.assembly.config import with_values
from mmcore.batch import Batch
from mmcore.errors import ConfigError
from mmcore.methods import FUSED
from mmcore.methods.ensemble import mean_probabilities
from mmcore.seeding import generator
from mmcore.training.trainer import Trainer


def trainer_of(method: str, count: int = 2, **values: object) -> Trainer:
    spec = make_spec(count)
    trainer = make_trainer(make_config(method, spec, **values), spec)
    trainer.method.train()
    return trainer


def batches(trainer: Trainer) -> list[Batch]:
    return [*trainer.loader.train_batches(0), *trainer.loader.train_batches(1)]


@pytest.mark.parametrize("count", [2, 3])
def test_an_ensemble_equals_separate_trainings_bit_for_bit(count: int) -> None:
    settings = {"schedule__name": "constant", "optimizer__clip_norm": 0.5}
    ensemble = trainer_of("ensemble", count, **settings)
    alone = {m: trainer_of("unimodal", count, method__modality=m, **settings) for m in make_spec(count).modality_names}
    for trainer in alone.values():
        own = trainer.method.state_dict()
        trainer.method.load_state_dict({key: ensemble.method.state_dict()[key] for key in own})
    for batch in batches(ensemble):
        losses = ensemble.method.train_step(batch, ensemble.engine)
        for modality, trainer in alone.items():
            assert torch.equal(losses[modality], trainer.method.train_step(batch, trainer.engine)[modality])
    state = ensemble.method.state_dict()
    assert sum(len(trainer.method.state_dict()) for trainer in alone.values()) == len(state)
    for trainer in alone.values():
        for key, value in trainer.method.state_dict().items():
            assert torch.equal(value, state[key]), key


def test_an_ensemble_predicts_the_mean_of_the_logits_or_of_the_probabilities() -> None:
    trainer = trainer_of("ensemble", 3)
    batch = batches(trainer)[0]
    logits = trainer.method.predict(batch)
    own = [logits[name] for name in ("loud", "quiet", "faint")]
    torch.testing.assert_close(logits[FUSED], (own[0] + own[1] + own[2]) / 3)
    averaging = trainer_of("ensemble", 3, method__average="probabilities")
    probabilities = averaging.method.predict(batch)[FUSED].softmax(dim=1)
    torch.testing.assert_close(probabilities, sum(values.softmax(dim=1) for values in own) / 3)


def test_mean_probabilities_is_a_logarithm_and_keeps_small_ones() -> None:
    logits = {name: torch.randn(4, 3, generator=generator(0, name)) for name in "ab"}
    expected = ((logits["a"].softmax(dim=1) + logits["b"].softmax(dim=1)) / 2).log()
    torch.testing.assert_close(mean_probabilities(logits, Batch({}, torch.zeros(4))), expected)
    sure = {"a": torch.tensor([[0.0, 500.0]]), "b": torch.tensor([[0.0, 400.0]])}
    certain = mean_probabilities(sure, Batch({}, torch.zeros(1)))
    assert certain[0, 0].item() == pytest.approx(-400 - 0.693147, abs=1e-3)


def test_joint_learns_from_the_fused_head_alone() -> None:
    trainer = trainer_of("joint", 3)
    batch = batches(trainer)[0]
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    predicted = trainer.method.predict(batch)
    assert list(predicted) == [FUSED]
    assert terms.keys() == {FUSED}
    torch.testing.assert_close(terms[FUSED], F.cross_entropy(predicted[FUSED], batch.labels))


def test_joint_unimodal_adds_each_modalitys_loss_and_may_predict_the_sum() -> None:
    trainer, summing = trainer_of("joint_unimodal", 3), trainer_of("joint_unimodal", 3, method__predict="sum")
    batch = batches(trainer)[0]
    predicted = trainer.method.predict(batch)
    terms = trainer.method.losses(batch, "joint", trainer.engine)
    assert terms.keys() == predicted.keys() == {FUSED, "loud", "quiet", "faint"}
    for name, term in terms.items():
        torch.testing.assert_close(term, F.cross_entropy(predicted[name], batch.labels))
    total = summing.method.predict(batch)
    torch.testing.assert_close(total[FUSED], sum(predicted.values()))
    torch.testing.assert_close(total["quiet"], predicted["quiet"])
    # what is learned does not depend on what is predicted
    torch.testing.assert_close(summing.method.losses(batch, "joint", summing.engine)[FUSED], terms[FUSED])


def test_unimodal_encodes_its_modality_alone() -> None:
    trainer = trainer_of("unimodal", 3, method__modality="quiet")
    assert list(trainer.method.model.encoders) == ["quiet"]
    batch = batches(trainer)[0]
    logits = trainer.method.predict(batch.with_inputs({"quiet": batch.inputs["quiet"]}))
    assert logits.keys() == {FUSED, "quiet"}
    assert torch.equal(logits[FUSED], logits["quiet"])


def test_unimodal_names_an_unknown_modality_and_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        trainer_of("unimodal", 2, method__modality="quite")
    assert str(caught.value) == ("unknown modality 'method.modality = quite': did you mean 'quiet'? known: loud, quiet")
    with pytest.raises(ConfigError, match=r"method\.modality is required"):
        with_values(trainer_of("joint", 2).config, {"method": {"name": "unimodal"}})
