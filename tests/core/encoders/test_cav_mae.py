"""CAV-MAE's encoder against names, shapes and a forward pass written out from the publishers' code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcore.data.spec import Modality
from mmcore.encoders import build_encoder
from mmcore.encoders.cav_mae import SIZES, published_name
from mmcore.errors import CheckpointError, UsageError

SOUND = Modality("audio", "audio", (163840,), "int16", sample_rate_hz=16000)
PICTURE = Modality("video", "image", (3, 224, 224), "uint8")
State = dict[str, Tensor]
WIDTH = 48
"""Where values are compared, so that it takes no minutes; names and shapes are compared at the published 768."""


def encoder(modality: Modality, **section: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder({"name": "cav_mae", **section}, modality)


def block_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """A block of the publishers': three pairs of norms, one attention, one MLP."""
    linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (4 * width, width),
               "mlp.fc2": (width, 4 * width)}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for norm in ("norm1", "norm1_a", "norm1_v", "norm2", "norm2_a", "norm2_v"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return shapes


def published_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Every weight of the publishers' pre-trained model, its decoder cut to one block and one projection."""
    shapes: dict[str, tuple[int, ...]] = {}
    for branch, channels, patches in (("a", 1, 512), ("v", 3, 196)):
        shapes |= {
            f"patch_embed_{branch}.proj.weight": (width, channels, 16, 16),
            f"patch_embed_{branch}.proj.bias": (width,),
            f"modality_{branch}": (1, 1, width),
            f"pos_embed_{branch}": (1, patches, width),
            f"norm_{branch}.weight": (width,),
            f"norm_{branch}.bias": (width,),
            f"decoder_pos_embed_{branch}": (1, patches, 512),
        }
        for number in range(11):
            shapes |= {f"blocks_{branch}.{number}.{name}": shape for name, shape in block_shapes(width).items()}
    shapes |= {f"blocks_u.0.{name}": shape for name, shape in block_shapes(width).items()}
    shapes |= {f"decoder_blocks.0.{name}": shape for name, shape in block_shapes(512).items()}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,), "mask_token": (1, 1, 512),
                     "decoder_embed.weight": (512, width), "mlp_head.1.weight": (527, width)}  # fmt: skip


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "base", (WIDTH, 12, 12, 16))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in published_shapes(WIDTH).items()}
    path = tmp_path_factory.mktemp("cav_mae") / "audio_model.21.pth"
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
    return path, state


def norm(x: Tensor, state: State, name: str) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def block(x: Tensor, state: State, name: str, suffix: str) -> Tensor:
    """One sample's tokens (P, 48), head by head."""
    qkv = linear(norm(x, state, f"{name}.norm1{suffix}"), state, f"{name}.attn.qkv")
    heads = []
    for head in range(12):
        columns = slice(4 * head, 4 * head + 4)
        query, key, value = (part[:, columns] for part in qkv.split(WIDTH, dim=1))
        heads.append((query @ key.T / 2).softmax(dim=1) @ value)
    x = x + linear(torch.cat(heads, dim=1), state, f"{name}.attn.proj")
    hidden = F.gelu(linear(norm(x, state, f"{name}.norm2{suffix}"), state, f"{name}.mlp.fc1"))
    return x + linear(hidden, state, f"{name}.mlp.fc2")


def features(picture: Tensor, state: State, branch: str, columns: slice) -> Tensor:
    """The publishers' forward pass of one branch on one picture (C, H, W), patch by patch."""
    kernel, bias = state[f"patch_embed_{branch}.proj.weight"], state[f"patch_embed_{branch}.proj.bias"]
    grid = {"a": (8, 64), "v": (14, 14)}[branch]
    tokens = []
    for row in range(grid[0]):
        for column in range(grid[1])[columns]:
            patch = picture[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            position = state[f"pos_embed_{branch}"][0, row * grid[1] + column]
            tokens.append((kernel * patch).sum(dim=(1, 2, 3)) + bias + position + state[f"modality_{branch}"][0, 0])
    x = torch.stack(tokens)
    for number in range(11):
        x = block(x, state, f"blocks_{branch}.{number}", "")
    return norm(block(x, state, "blocks_u.0", f"_{branch}"), state, f"norm_{branch}").mean(dim=0)


class TestPublished:
    @pytest.mark.parametrize(("modality", "branch"), [(SOUND, "a"), (PICTURE, "v")])
    def test_names_and_shapes(self, modality: Modality, branch: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SIZES, "base", (768, 12, 12, 16))
        with torch.device("meta"):
            network = encoder(modality)
        own = {published_name(name, branch): tuple(value.shape) for name, value in network.state_dict().items()}
        shapes = published_shapes(768)
        assert own == {name: shapes[name] for name in own}
        parts = {".".join(part for part in name.split(".") if not part.isdigit()) for name in own}
        assert {f"blocks_u.norm1_{branch}.bias", f"blocks_{branch}.norm1.bias", f"norm_{branch}.bias"} < parts
        assert len(own) == 4 + 2 + 12 * 12

    def test_the_audio_branch(self, published: tuple[Path, State]) -> None:
        path, state = published
        x = torch.randn(1, 1, 128, 40)  # two patches and a half of time
        for network in (encoder(SOUND, weights=str(path)), encoder(SOUND, weights=str(path)).eval()):
            with torch.no_grad():
                torch.testing.assert_close(network(x)[0], features(x[0], state, "a", slice(2)), rtol=1e-4, atol=1e-4)
        assert network.num_features == WIDTH

    def test_the_image_branch(self, published: tuple[Path, State]) -> None:
        path, state = published
        x = torch.randn(1, 3, 224, 224)
        network = encoder(PICTURE, weights=str(path)).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(x)[0], features(x[0], state, "v", slice(14)), rtol=1e-4, atol=1e-4)

    def test_weights_that_do_not_fit_are_listed_by_their_published_names(
        self, published: tuple[Path, State], tmp_path: Path
    ) -> None:
        state = dict(published[1])
        state["blocks_a.11.attn.qkv.bias"] = state.pop("blocks_a.10.attn.qkv.bias")
        state["blocks_u.0.norm1_a.bias"] = torch.zeros(5)
        del state["norm_v.weight"]  # the other branch's
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(CheckpointError) as raised:
            encoder(SOUND, weights=str(tmp_path / "x.pth"))
        message = str(raised.value)
        assert "1 missing: blocks_a.10.attn.qkv.bias; 1 unexpected: blocks_a.11.attn.qkv.bias; " in message
        assert "1 of another shape: blocks_u.0.norm1_a.bias (5,) instead of (48,)" in message

    def test_a_spectrogram_the_weights_do_not_know(self, published: tuple[Path, State]) -> None:
        network = encoder(SOUND, weights=str(published[0])).eval()
        with pytest.raises(UsageError, match=r"'audio' reaches cav_mae as \(64, 100\), not as 128 by 1024: set n_mels"):
            network(torch.zeros(1, 1, 64, 100))
        with pytest.raises(UsageError, match=r"\(128, 1040\)"):
            network(torch.zeros(1, 1, 128, 1040))

    def test_no_such_file(self) -> None:
        with pytest.raises(UsageError, match=r"there is no 'x.pth' here. .*YuanGongND/cav-mae; nothing"):
            encoder(SOUND, weights="x.pth")
        with pytest.raises(UsageError, match="size 'tiny' is for random weights alone"):
            encoder(SOUND, weights="x.pth", size="tiny")


class TestTiny:
    def test_random_positions_are_those_of_mae(self) -> None:
        network = encoder(SOUND, size="tiny")
        row, column, index = 5, 17, 3
        rate = 10000 ** (-index / 16)
        position = network.positions[0, row * 64 + column]
        angles = torch.tensor([column * rate, row * rate])
        torch.testing.assert_close(position[[index, 32 + index]], angles.sin())
        torch.testing.assert_close(position[[16 + index, 48 + index]], angles.cos())

    def test_every_parameter_gets_a_gradient(self) -> None:
        for modality, shape in ((SOUND, (2, 1, 32, 63)), (PICTURE, (2, 3, 24, 24)), (PICTURE, (2, 2, 3, 24, 24))):
            network = encoder(modality, size="tiny")
            values = network(torch.randn(shape))
            assert values.shape == (2, 64)
            values[:, 0].sum().backward()
            assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    @pytest.mark.parametrize("training", [True, False])
    def test_on_the_meta_device(self, training: bool) -> None:
        network = encoder(SOUND, size="tiny").to("meta").train(training)
        with torch.set_grad_enabled(training):
            assert network(torch.zeros(2, 1, 32, 63, device="meta")).shape == (2, 64)

    def test_too_little_for_one_patch(self) -> None:
        with pytest.raises(UsageError, match=r"\(32, 4\)"):
            encoder(SOUND, size="tiny")(torch.zeros(1, 1, 32, 4))
