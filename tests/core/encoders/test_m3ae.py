"""M3AE's encoder against names, shapes and a forward pass written out from the publishers' code, in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcore.data.spec import Modality
from mmcore.encoders import build_encoder
from mmcore.encoders.m3ae import SIZES, VOCABULARY, published_name, state_from_flax
from mmcore.errors import CheckpointError, UsageError

IMAGE = Modality("video", "image", (3, 32, 48), "uint8")
TEXT = Modality("text", "tokens", (9,), "int32", num_values=VOCABULARY, variable_length=True)
WORDS = Modality("text", "tokens", (9,), "int32", num_values=50, variable_length=True)
Tree = dict[str, Any]
WIDTH = 48
"""Where values are compared, so that it takes no minutes; names and shapes are compared at the published 768."""


def encoder(modality: Modality, **section: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder({"name": "m3ae", **section}, modality)


def dense(generator: np.random.Generator, rows: int, columns: int) -> Tree:
    return {"kernel": draw(generator, rows, columns), "bias": draw(generator, columns)}


def draw(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return (generator.normal(size=shape) * 0.02).astype(np.float32)


def layer_norm(generator: np.random.Generator) -> Tree:
    return {"scale": 1 + draw(generator, WIDTH), "bias": draw(generator, WIDTH)}


def published_tree() -> Tree:
    """The parameters of M3AE-base as Flax names them, its decoder cut to what is told apart by name."""
    generator = np.random.default_rng(0)
    encoder_tree: Tree = {"LayerNorm_0": layer_norm(generator)}
    for number in range(12):
        encoder_tree[f"Block_{number}"] = {
            "LayerNorm_0": layer_norm(generator),
            "LayerNorm_1": layer_norm(generator),
            "Attention_0": {"Dense_0": dense(generator, WIDTH, 3 * WIDTH), "Dense_1": dense(generator, WIDTH, WIDTH)},
            "TransformerMLP_0": {"fc1": dense(generator, WIDTH, 4 * WIDTH), "fc2": dense(generator, 4 * WIDTH, WIDTH)},
        }
    names = ("cls_token", "encoder_image_type_embedding", "encoder_text_type_embedding")
    return {
        **{name: draw(generator, 1, 1, WIDTH) for name in names},
        "text_embedding": {"embedding": draw(generator, VOCABULARY, WIDTH)},
        "image_embedding": dense(generator, 768, WIDTH),
        "encoder": encoder_tree,
        "decoder": {"LayerNorm_0": {"scale": np.ones(512), "bias": np.ones(512)}},
        "decoder_input_projection": dense(generator, WIDTH, 512),
        "image_mask_embedding": draw(generator, 1, 1, 512),
        "text_mask_embedding": draw(generator, 1, 1, 512),
    }


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "base", (WIDTH, 12, 12, 16))


@pytest.fixture(scope="module")
def tree() -> Tree:
    return published_tree()


@pytest.fixture(scope="module")
def converted(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("m3ae") / "m3ae_base.pth"
    torch.save(state_from_flax(tree), path)
    return path


def norm(x: np.ndarray, tree: Tree) -> np.ndarray:
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-6) * tree["scale"] + tree["bias"]


def apply(x: np.ndarray, tree: Tree) -> np.ndarray:
    return x @ tree["kernel"] + tree["bias"]


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def run(tokens: np.ndarray, tree: Tree, num_valid: int) -> np.ndarray:
    """The encoder on one sample's embedded tokens (P, 48), of which the class token and `num_valid` are looked at."""
    x = np.concatenate([tree["cls_token"][0], tokens])
    for number in range(12):
        parts = tree["encoder"][f"Block_{number}"]
        qkv = apply(norm(x, parts["LayerNorm_0"]), parts["Attention_0"]["Dense_0"])
        heads = []
        for head in range(12):
            query, key, value = (qkv[:, WIDTH * part + 4 * head :][:, :4] for part in range(3))
            scores = query @ key.T / 2
            scores[:, 1 + num_valid :] = -1e7
            heads.append(softmax(scores) @ value)
        x = x + apply(np.concatenate(heads, axis=1), parts["Attention_0"]["Dense_1"])
        hidden = gelu(apply(norm(x, parts["LayerNorm_1"]), parts["TransformerMLP_0"]["fc1"]))
        x = x + apply(hidden, parts["TransformerMLP_0"]["fc2"])
    return norm(x, tree["encoder"]["LayerNorm_0"])


def sines(position: float, size: int) -> np.ndarray:
    rates = 1 / 10000 ** (np.arange(size // 2) / (size / 2))
    return np.concatenate([np.sin(position * rates), np.cos(position * rates)])


def port_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """The encoder's weights in MLA's state dict."""
    shapes: dict[str, tuple[int, ...]] = {
        "text_embedding.weight": (30522, width), "image_embedding.weight": (width, 768),
        "image_embedding.bias": (width,), "encoder_image_type_embedding": (1, 1, width),
        "encoder_text_type_embedding": (1, 1, width), "cls_token": (1, 1, width),
        "encoder.layer_norm.weight": (width,), "encoder.layer_norm.bias": (width,),
    }  # fmt: skip
    parts = {"layer_norm1": (width,), "layer_norm2": (width,), "attention.qkv_linear": (3 * width, width),
             "attention.fc": (width, width), "transformer_mlp.fc1": (4 * width, width),
             "transformer_mlp.fc2": (width, 4 * width)}  # fmt: skip
    for number in range(12):
        for part, shape in parts.items():
            shapes[f"encoder.blocks.{number}.{part}.weight"] = shape
            shapes[f"encoder.blocks.{number}.{part}.bias"] = shape[:1]
    return shapes


class TestPublished:
    def test_pictures(self, tree: Tree, converted: Path) -> None:
        x = np.random.default_rng(1).normal(size=(3, 32, 48)).astype(np.float32)
        tokens = []
        for row in range(2):
            for column in range(3):
                patch = x[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].transpose(1, 2, 0)
                position = np.concatenate([sines(column, WIDTH // 2), sines(row, WIDTH // 2)])
                embedded = apply(patch.reshape(-1), tree["image_embedding"])
                tokens.append(embedded + position + tree["encoder_image_type_embedding"][0, 0])
        expected = run(np.stack(tokens), tree, 6)
        for pooling, values in (("mean", expected.mean(axis=0)), ("cls", expected[0])):
            network = encoder(IMAGE, weights=str(converted), pooling=pooling)
            close(network, (torch.from_numpy(x)[None],), values)

    @pytest.mark.parametrize("pooling", ["mean", "all", "cls"])
    def test_texts(self, tree: Tree, converted: Path, pooling: str) -> None:
        """[CLS] five words [SEP] and padding: the words are embedded at positions 0 to 4, the rest is [PAD]."""
        words = [7592, 2088, 999, 30521, 1000]
        stored = torch.tensor([[101, *words, 102, 0, 0]], dtype=torch.int32)
        embedded = [
            tree["text_embedding"]["embedding"][token] + sines(place, WIDTH) + tree["encoder_text_type_embedding"][0, 0]
            for place, token in enumerate([*words, 0, 0, 0])
        ]
        states = run(np.stack(embedded), tree, 5)
        expected = {"mean": states[:6].mean(axis=0), "all": states.mean(axis=0), "cls": states[0]}[pooling]
        close(encoder(TEXT, weights=str(converted), pooling=pooling), (stored, torch.tensor([7])), expected)

    def test_names_are_those_of_the_port_that_iprm_and_mla_use(self, tree: Tree) -> None:
        assert {name: tuple(value.shape) for name, value in state_from_flax(tree).items()} == port_shapes(WIDTH)

    @pytest.mark.parametrize("modality", [IMAGE, TEXT])
    def test_names_and_shapes(self, modality: Modality, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SIZES, "base", (768, 12, 12, 16))
        with torch.device("meta"):
            network = encoder(modality)
        own = {published_name(name, modality.kind): tuple(x.shape) for name, x in network.state_dict().items()}
        other = "image_" if modality is TEXT else "text_"
        assert own == {name: shape for name, shape in port_shapes(768).items() if other not in name}

    def test_weights_that_do_not_fit_are_listed(self, converted: Path, tmp_path: Path) -> None:
        state = torch.load(converted)
        state["extra"] = state.pop("encoder.blocks.11.attention.fc.bias")
        del state["image_embedding.weight"]  # the other modality's
        torch.save(state, tmp_path / "x.pth")
        names = "1 missing: encoder.blocks.11.attention.fc.bias; 1 unexpected: extra"
        with pytest.raises(CheckpointError, match=names):
            encoder(TEXT, weights=str(tmp_path / "x.pth"))
        with pytest.raises(CheckpointError, match=r"2 missing: image_embedding.weight, "):
            encoder(IMAGE, weights=str(tmp_path / "x.pth"))

    def test_what_does_not_fit_the_data(self, converted: Path) -> None:
        with pytest.raises(UsageError, match=r"a vocabulary of 50, M3AE's weights know .* 30522: prepare .* --vocab"):
            encoder(WORDS, weights=str(converted))
        with pytest.raises(UsageError, match=r"there is no 'x.pkl' here. .*state_from_flax converts"):
            encoder(TEXT, weights="x.pkl")
        with pytest.raises(UsageError, match="size 'tiny' is for random weights alone"):
            encoder(TEXT, weights=str(converted), size="tiny")
        with pytest.raises(CheckpointError, match=r"image_embedding.weight \(48, 768\) instead of \(48, 256\)"):
            encoder(Modality("depth", "image", (1, 32, 32), "uint8"), weights=str(converted))


def close(network: Any, arguments: tuple[Tensor, ...], expected: np.ndarray) -> None:
    for mode in (network.train(), network.eval()):
        with torch.no_grad():
            actual = mode(*arguments)[0]
        torch.testing.assert_close(actual, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


class TestTiny:
    def test_padding_does_not_matter(self) -> None:
        network = encoder(WORDS, size="tiny").eval()
        x, lengths = torch.randint(5, 50, (3, 9), dtype=torch.int32), torch.tensor([4, 9, 0])
        other = x.clone()
        other[0, 4:] = 7
        with torch.no_grad():
            features = network(x, lengths)
            torch.testing.assert_close(features, network(other, lengths))
            torch.testing.assert_close(features[:1], network(x[:1, :4], lengths[:1]))
            torch.testing.assert_close(features[1], network(x)[1])
        assert torch.isfinite(features).all()

    def test_special_tokens(self) -> None:
        x, lengths = torch.randint(5, 50, (2, 9), dtype=torch.int32), torch.tensor([5, 9])
        other = x.clone()
        other[:, 0] = 3
        other[0, 4] = other[1, 8] = 4
        with torch.no_grad():
            for kept in ("dropped", "kept"):
                network = encoder(WORDS, size="tiny", special_tokens=kept).eval()
                same = torch.allclose(network(x, lengths), network(other, lengths))
                assert same == (kept == "dropped")

    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    def test_every_parameter_gets_a_gradient(self, pooling: str) -> None:
        for modality, x in ((WORDS, torch.randint(0, 50, (3, 9))), (IMAGE, torch.randn(3, 2, 3, 24, 20))):
            network = encoder(modality, size="tiny", pooling=pooling)
            features = network(x)
            assert features.shape == (3, network.num_features) == (3, 64)
            features[:, 0].sum().backward()
            assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    def test_on_the_meta_device(self) -> None:
        lengths = torch.ones(2, dtype=torch.int64, device="meta")
        text = torch.zeros(2, 9, dtype=torch.int32, device="meta")
        picture = torch.zeros(2, 3, 24, 24, device="meta")
        assert encoder(WORDS, size="tiny").to("meta")(text, lengths).device.type == "meta"
        assert encoder(IMAGE, size="tiny").to("meta")(picture).device.type == "meta"

    def test_a_picture_smaller_than_a_patch(self) -> None:
        with pytest.raises(UsageError, match=r"at least 8 pixels a side, got \(4, 24\)"):
            encoder(IMAGE, size="tiny")(torch.zeros(1, 3, 4, 24))
