from __future__ import annotations

from typing import Any

import pytest
import torch

from mmcore.assembly.config import complete_config, parse_config, with_named_encoders
from mmcore.batch import Batch
from mmcore.data.spec import DatasetSpec, Modality
from mmcore.encoders import ENCODERS
from mmcore.errors import ConfigError, UsageError
from mmcore.model import MultimodalModel, build_model

SPEC = DatasetSpec(
    "made_up",
    ("a", "b"),
    (
        Modality("audio", "audio", (800,), "int16", 8000),
        Modality("image", "image", (3, 8, 8), "uint8"),
        Modality("pen", "image", (1, 7, 7), "uint8", may_be_missing=True),
    ),
)


def _sections(*features: int) -> dict[str, dict[str, Any]]:
    names = zip(SPEC.modality_names, features, strict=True)
    return {name: {"name": "small_conv", "features": size, "depth": 2} for name, size in names}


def _model(*features: int, **settings: Any) -> MultimodalModel:
    torch.manual_seed(0)
    return build_model(SPEC, _sections(*features), **{"equal_features": False, **settings})


def _batch(num_samples: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shapes = {"audio": (1, 9, 12), "image": (3, 8, 8), "pen": (1, 7, 7)}
    inputs = {name: torch.randn(num_samples, *shape, generator=generator) for name, shape in shapes.items()}
    return Batch(inputs, torch.zeros(num_samples, dtype=torch.int64))


def test_features_of_each_modality() -> None:
    model = _model(8, 12, 6)
    features = model.encode(_batch())
    assert model.modalities == SPEC.modality_names
    assert model.num_features == {"audio": 8, "image": 12, "pen": 6}
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "audio": (5, 8), "image": (5, 12), "pen": (5, 6),
    }  # fmt: skip
    assert not model.projections
    model.eval()
    only = model.encode(_batch(), ["pen"])
    assert list(only) == ["pen"]
    torch.testing.assert_close(only["pen"], model.encoders["pen"](_batch().inputs["pen"]))


@pytest.mark.parametrize(
    ("features", "equal_features", "projection_dim", "expected"),
    [((8, 12, 6), True, None, 6), ((8, 12, 6), True, 10, 10), ((8, 12, 6), False, 10, 10), ((8, 8, 8), True, 4, 4),
     ((8, 8, 8), True, None, None), ((8, 12, 6), False, None, None)],
)  # fmt: skip
def test_projections(
    features: tuple[int, ...], equal_features: bool, projection_dim: int | None, expected: int | None
) -> None:
    model = _model(*features, equal_features=equal_features, projection_dim=projection_dim).eval()
    sizes = dict(zip(SPEC.modality_names, features, strict=True))
    assert model.num_features == (sizes if expected is None else dict.fromkeys(sizes, expected))
    assert set(model.projections) == (set() if expected is None else set(sizes))
    for name, value in model.encode(_batch()).items():
        alone = model.encoders[name](_batch().inputs[name])
        torch.testing.assert_close(value, alone if expected is None else model.projections[name](alone))
        assert value.shape[1] == model.num_features[name]


def test_groups_hold_every_parameter_once() -> None:
    model = _model(8, 12, 6, equal_features=True)
    groups = model.parameter_groups()
    assert list(groups) == ["encoder/audio", "encoder/image", "encoder/pen"]
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert any(parameter is model.projections["image"].weight for parameter in groups["encoder/image"])


def test_some_modalities_only() -> None:
    model = build_model(SPEC, _sections(8, 12, 6), equal_features=True, modalities=["pen", "audio"])
    assert model.modalities == ("audio", "pen")  # the data set's order
    assert list(model.encode(_batch())) == ["audio", "pen"]
    alone = build_model(SPEC, {"image": {"name": "small_conv"}}, equal_features=True, modalities=["image"])
    assert not alone.projections


def test_missing_modalities_have_zero_features_and_no_gradient() -> None:
    model = _model(8, 12, 6, projection_dim=4)
    batch = _batch()
    batch.present = {"pen": torch.tensor([True, False, True, True, False])}
    batch.inputs["pen"].requires_grad_()
    model.eval()
    features = model.encode(batch)["pen"]
    assert features.abs().sum(dim=1).gt(0).tolist() == [True, False, True, True, False]
    features.sum().backward()
    gradient = batch.inputs["pen"].grad
    assert gradient is not None
    assert gradient.flatten(1).abs().sum(dim=1).gt(0).tolist() == [True, False, True, True, False]


def test_a_placeholder_and_a_single_sample_leave_no_trace() -> None:
    model = _model(8, 12, 6)
    model.encode(_batch())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    stand_in = _batch(2)
    stand_in.is_placeholder = True
    for batch in (_batch(1), stand_in):
        got = model.encode(batch)
        assert all(module.training for module in model.modules())
        torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
        torch.testing.assert_close(got, model.eval().encode(batch))
        model.train()
    model.encode(_batch(2))
    assert model.state_dict()["encoders.pen.blocks.0.1.num_batches_tracked"] == 2


def test_on_the_meta_device() -> None:
    model = _model(8, 12, 6, equal_features=True).to("meta")
    batch = _batch()
    batch.present = {"pen": torch.ones(5, dtype=torch.bool)}
    features = model.encode(batch.to("meta"))
    assert {value.device.type for value in features.values()} == {"meta"}
    sum(value.sum() for value in features.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_problems_of_all_encoders_are_listed() -> None:
    sections = {"audio": {"name": "small_con"}, "image": {"name": "small_conv", "depth": 0}, "pen": {}}
    with pytest.raises(ConfigError) as caught:
        build_model(SPEC, sections, equal_features=False)
    assert caught.value.problems == [
        "model.encoders.audio.name: unknown encoder 'small_con': did you mean 'small_conv'? "
        f"known: {', '.join(ENCODERS.names())}",  # other tests register encoders of their own
        "model.encoders.image.depth must be in [1, 6], got 0",
        "model.encoders.pen must be a mapping with a key 'name' (an encoder), got {}",
    ]


def test_modalities_must_be_the_data_sets() -> None:
    with pytest.raises(UsageError, match=r"^unknown modality 'imag': did you mean 'image'\? known: audio, image, pen$"):
        build_model(SPEC, {**_sections(8, 8, 8), "imag": {"name": "small_conv"}}, equal_features=False)
    with pytest.raises(UsageError, match=r"^unknown modality 'sound'; known"):
        build_model(SPEC, _sections(8, 8, 8), equal_features=False, modalities=["sound"])
    with pytest.raises(UsageError, match=r"^no encoder for audio, pen; name one in model.encoders.audio$"):
        build_model(SPEC, {"image": {"name": "small_conv"}}, equal_features=False)


def test_an_encoders_section_without_a_name_changes_keys_of_the_data_sets_own() -> None:
    plain = {"dataset": {"name": "digits"}, "method": {"name": "joint"}}
    values = {**plain, "model": {"encoders": {"image": {"width": 8}}}}
    config = complete_config(parse_config(with_named_encoders(values)))
    default = complete_config(parse_config(plain))
    assert config.model.encoders["image"] == {**default.model.encoders["image"], "width": 8}
    assert config.model.encoders["audio"] == default.model.encoders["audio"]
    named = {**values, "model": {"encoders": {"image": {"name": "resnet18"}}}}
    assert with_named_encoders(named) == named


def test_encoders_of_stored_views_are_made_for_one_view() -> None:
    modality = Modality("image", "features", (4, 7), "float16", views=3)
    spec = DatasetSpec("made_up", ("a", "b"), (modality,))
    model = build_model(spec, {"image": {"name": "identity"}}, equal_features=False)
    assert model.num_features == {"image": 7}
