"""Half precision: what stays in float32, and that every method ends where it ends in float32."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from distilling import untrained_teachers
from synthetic import QUICKER, make_config, make_spec, make_trainer
from torch import nn

from mmcore.assembly.config import complete_config, parse_config
from mmcore.assembly.objects import build_method, build_run_transforms
from mmcore.batch import Batch
from mmcore.data.feeding.loader import TensorLoader
from mmcore.data.prepared.prepare import prepare
from mmcore.data.prepared.store import PreparedDataset
from mmcore.layers.precision import full_precision, guard_convolutions
from mmcore.methods import METHODS, aug, iprm
from mmcore.methods.base import mean_logits
from mmcore.methods.ensemble import mean_probabilities
from mmcore.methods.fusion import feature_attention
from mmcore.training.trainer import Trainer

HALF = [torch.bfloat16, torch.float16]
BATCH = Batch(inputs={}, labels=torch.zeros(4, dtype=torch.int64))
LABELS = torch.tensor([0, 2, 1, 1])
EPOCHS = 8
ENCODER = {"name": "small_conv", "width": 8, "features": 32, "depth": 3}
"""Small: a CPU computes float16 many times as slowly as float32."""
CLEARER = {"image_noise": 0.15, "audio_snr_db": -13.0}
"""`digits` with so little noise that runs end near each other by themselves, whatever is rounded."""
POINTS = 0.02
IN_FLOAT16 = ("joint", "iprm", "aug", "mmpareto", "mla")
"""One for each way a gradient comes about; float16's losses are scaled."""


@pytest.mark.parametrize("dtype", HALF)
def test_scores_and_probabilities_of_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    exact = logits.double()
    for score in ("confidence", "entropy", "loss"):
        found, expected = (aug.sample_scores(values, LABELS, score) for values in (logits, exact))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    each = torch.stack([logits, logits.flip(0)], dim=1)
    pairs = {
        "residual": (aug.residual_factor(logits, LABELS, 0.5), aug.residual_factor(exact, LABELS, 0.5)),
        "literal": (
            aug.literal_residual_factor(each, LABELS, 0.5),
            aug.literal_residual_factor(each.double(), LABELS, 0.5),
        ),
        "attention": (feature_attention(each), feature_attention(each.double())),
        "mean": tuple(mean_logits({"a": values, "b": values.flip(0)}, BATCH) for values in (logits, exact)),
        "probabilities": (
            mean_probabilities({"a": logits, "b": logits.flip(0)}, BATCH),
            mean_probabilities({"a": exact, "b": exact.flip(0)}, BATCH),
        ),
    }
    for name, (found, expected) in pairs.items():
        assert found.dtype == torch.float32, name
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_full_precision_leaves_the_others_as_they_are() -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.ones(2, dtype=dtype)
        assert full_precision(values) is values


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_iprm_normalises_mixes_compares_and_averages_in_float32(precision: str, monkeypatch) -> None:
    seen: dict[str, set[torch.dtype]] = {}
    for name in ("normalise", "great_circle", "point_on", "mean_divergence", "rebalanced_weight", "running_weight"):
        function = getattr(iprm, name)

        @functools.wraps(function)
        def spy(*args, function=function, name=name):
            result = function(*args)
            tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
            seen.setdefault(name, set()).update(tensor.dtype for tensor in tensors)
            return result

        monkeypatch.setattr(iprm, name, spy)
    spec = make_spec(3)
    trainer = make_trainer(make_config("iprm", spec, trainer__precision=precision), spec)
    trainer.method.train()
    trainer.train_step(next(iter(trainer.loader.train_batches(0))))
    evaluation = trainer.evaluate("val")
    assert {name: dtypes for name, dtypes in seen.items() if dtypes != {torch.float32}} == {}
    assert len(seen) == 6
    assert trainer.method.next_weight.dtype == torch.float32
    # Each head's logits have 8 (or 11) bits, their sum more: it was not rounded to them again.
    fused = evaluation.logits["fused"]
    assert not torch.equal(fused, fused.to(getattr(torch, precision)).float())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_narrow_pictures_have_right_gradients_in_bfloat16(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 32, 3, stride=2, padding=1).to(memory_format=memory_format)
    guarded = nn.Sequential(nn.Conv2d(32, 32, 3, stride=2, padding=1)).to(memory_format=memory_format)
    guarded[0].load_state_dict(plain.state_dict())
    weight = guarded[0].weight
    guard_convolutions(guarded)
    assert guarded[0].weight is weight
    for width in (1, 2, 3):
        x = torch.randn(8, 32, 4, width).contiguous(memory_format=memory_format)
        plain.weight.grad = weight.grad = None
        plain(x).square().sum().backward()
        for _ in range(10):  # what memory holds is a matter of luck
            weight.grad = None
            junk = [torch.full((size,), torch.nan, dtype=torch.bfloat16) for size in (9216, 18432, 36864, 1000)]
            del junk
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = guarded(x)
            y.float().square().sum().backward()
            scale = plain.weight.grad.abs().max()
            assert (weight.grad - plain.weight.grad).abs().max() < 0.02 * scale
        assert y.dtype == (torch.bfloat16 if width == 3 else torch.float32)


# Whole runs


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare("digits", CLEARER, None, Path(tmp_path_factory.mktemp("data")))


def quicker(method: str) -> dict[str, object]:
    return {path.removeprefix("method__"): value for path, value in QUICKER.get(method, {}).items()}


@functools.lru_cache
def fused_accuracy(digits: PreparedDataset, method: str, precision: str) -> float:
    settings = next(iter(METHODS.get(method).rows(digits.spec.modality_names).values()))
    config = complete_config(
        parse_config(
            {
                "dataset": {"name": "digits", "options": CLEARER},
                "method": {"name": method, **settings, **quicker(method)},
                "model": {"encoders": dict.fromkeys(digits.spec.modality_names, ENCODER)},
                # A rate that ends at 0: at a constant one AUG's runs in float32 differ by 6 points among themselves.
                "optimizer": {"lr": 0.03},
                "schedule": {"name": "cosine"},
                "trainer": {"precision": precision, "max_epochs": EPOCHS, "device": "cpu", "select": "last"},
            }
        )
    )
    loader = TensorLoader.from_prepared(digits, digits.assign(config.protocol), config.trainer.batch_size)
    built = build_method(config, digits.spec, teachers=untrained_teachers(config, digits.spec))
    trainer = Trainer(config, built, loader, build_run_transforms(config, digits.spec))
    trainer.fit()
    return trainer.evaluate("test", full=False).metrics["fused/accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "precision"),
    [*((name, "bfloat16") for name in METHODS.names()), *((name, "float16") for name in IN_FLOAT16)],
)
def test_a_half_precision_run_ends_within_two_points_of_float32(
    digits: PreparedDataset, method: str, precision: str
) -> None:
    expected, found = (fused_accuracy(digits, method, name) for name in ("float32", precision))
    assert expected > 0.9
    assert abs(found - expected) <= POINTS, f"{found:.4f}, in float32 {expected:.4f}"
