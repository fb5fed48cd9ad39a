"""ResNet50 and BERT: random, from files, and everything about weights that do not fit."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmcore.data.spec import Modality
from mmcore.encoders import build_encoder
from mmcore.encoders.base import missing_files
from mmcore.encoders.hub import TIMEOUT_S
from mmcore.encoders.weights import load_all, read_state
from mmcore.errors import CheckpointError, ConfigError, UsageError

IMAGE = Modality("image", "image", (3, 16, 16), "uint8")
TEXT = Modality("text", "tokens", (12,), "int32", num_values=50, variable_length=True)
TINY_BERT = {"name": "bert", "size": "tiny", "dropout": 0.0}


def encoder(modality: Modality, **section: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder(section, modality)


class TestResNet50:
    def test_is_torchvisions_without_its_classifier(self) -> None:
        from torchvision.models import resnet50

        ours, theirs = encoder(IMAGE, name="resnet50"), resnet50()
        names = {name for name in theirs.state_dict() if not name.startswith("fc.")}
        assert set(ours.network.state_dict()) == names
        ours.network.load_state_dict({key: value for key, value in theirs.state_dict().items() if key in names})
        theirs.fc = nn.Identity()
        x = torch.randn(2, 3, 40, 40)
        with torch.no_grad():
            expected = theirs.eval()(x)
            torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-3, atol=1e-3)
        assert expected.shape == (2, ours.num_features)

    def test_weights_from_a_file(self, tmp_path: Path) -> None:
        from torchvision.models import resnet50

        theirs = resnet50()
        torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "a.pth")
        ours = encoder(IMAGE, name="resnet50", weights=str(tmp_path / "a.pth"))
        for name, value in ours.network.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
        grey = encoder(
            Modality("depth", "image", (1, 16, 16), "uint8"), name="resnet50", weights=str(tmp_path / "a.pth")
        )
        x = torch.randn(2, 1, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(grey.eval()(x), ours.eval()(x.expand(2, 3, 32, 32)), rtol=1e-4, atol=1e-4)

    def test_tiny_learns_in_one_step(self) -> None:
        network = encoder(IMAGE, name="resnet50", size="tiny")
        features = network(torch.randn(4, 3, 16, 16))
        assert features.shape == (4, network.num_features) == (4, 512)
        features.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert sum(parameter.numel() for parameter in network.parameters()) < 4e5

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"weights": "IMAGENET1K"}, "weights must be 'random', one of IMAGENET1K_V1, IMAGENET1K_V2, or the path"),
            ({"weights": "x.pth", "size": "tiny"}, "size 'tiny' is for random weights alone, got weights 'x.pth'"),
            ({"size": "18"}, "model.encoders.image.size must be '50' or 'tiny', got '18'"),
        ],
    )
    def test_wrong_settings(self, section: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            encoder(IMAGE, name="resnet50", **section)


class TestLoading:
    def test_lists_missing_unexpected_and_misshapen(self) -> None:
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        state = dict(network.state_dict())
        state["0.weight"] = torch.zeros(3, 5)
        state["fc.weight"] = state.pop("1.running_mean")
        state["head"] = torch.zeros(1)
        with pytest.raises(CheckpointError) as raised:
            load_all(network, state, "x.pth", ignored=["head"])
        assert str(raised.value) == (
            "the weights 'x.pth' do not fit; 1 missing: 1.running_mean; 1 unexpected: fc.weight; "
            "1 of another shape: 0.weight (3, 5) instead of (3, 2)"
        )

    def test_many_names_are_cut_short(self) -> None:
        network = nn.Sequential(*[nn.Linear(1, 1) for _ in range(20)])
        with pytest.raises(CheckpointError, match=r"40 missing: 0.weight, .*, 3.bias …$"):
            load_all(network, {}, "x.pth")

    def test_nothing_is_loaded_where_something_does_not_fit(self) -> None:
        network = nn.Linear(2, 2)
        before = network.weight.detach().clone()
        with pytest.raises(CheckpointError):
            load_all(network, {"weight": torch.zeros(2, 2)}, "x.pth")
        assert torch.equal(network.weight, before)

    def test_files_that_are_no_weights(self, tmp_path: Path) -> None:
        (tmp_path / "text.pth").write_text("hello")
        torch.save({"epoch": 3}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=r"text.pth can not be read as weights"):
            read_state(tmp_path / "text.pth")
        with pytest.raises(CheckpointError, match=r"other.pth holds no state dict"):
            read_state(tmp_path / "other.pth")


class TestBert:
    def test_padding_does_not_matter(self) -> None:
        for pooling in ("cls", "mean"):
            network = encoder(TEXT, **TINY_BERT, pooling=pooling).eval()
            x = torch.randint(5, 50, (3, 12), dtype=torch.int32)
            lengths = torch.tensor([4, 12, 7])
            other = x.clone()
            other[0, 4:], other[2, 7:] = 0, 49
            with torch.no_grad():
                torch.testing.assert_close(network(x, lengths), network(other, lengths))
                assert not torch.allclose(network(x, lengths), network(x))
                torch.testing.assert_close(network(x, lengths)[:1], network(x[:1, :4], lengths[:1]))

    def test_a_text_that_is_missing_gives_finite_features(self) -> None:
        network = encoder(TEXT, **TINY_BERT)
        features = network(torch.zeros(2, 12, dtype=torch.int32), torch.tensor([0, 3]))
        assert features.shape == (2, 64)
        features.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)

    def test_every_parameter_gets_a_gradient(self) -> None:
        network = encoder(TEXT, **TINY_BERT)
        network(torch.randint(0, 50, (3, 12)), torch.tensor([3, 12, 7])).square().sum().backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_on_the_meta_device(self, pooling: str) -> None:
        network = encoder(TEXT, **TINY_BERT, pooling=pooling).to("meta")
        x = torch.zeros(2, 12, dtype=torch.int32, device="meta")
        features = network(x, torch.ones(2, dtype=torch.int64, device="meta"))
        assert (features.shape, features.device.type) == ((2, 64), "meta")

    def test_the_vocabulary_sizes_the_embedding(self) -> None:
        network = encoder(TEXT, **TINY_BERT).network
        assert network.embeddings.word_embeddings.num_embeddings == 50

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        """A checkpoint as published: with the heads of pre-training and a pooler, which features do not need."""
        from transformers import BertConfig, BertForPreTraining

        torch.manual_seed(1)
        sizes = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=40, max_position_embeddings=20)  # fmt: skip
        BertForPreTraining(sizes).save_pretrained(tmp_path / "bert")
        return tmp_path / "bert"

    def test_weights_from_a_folder(self, saved: Path) -> None:
        from transformers import BertForPreTraining

        network = encoder(TEXT, name="bert", weights=str(saved))
        theirs = BertForPreTraining.from_pretrained(saved).bert.state_dict()
        assert network.num_features == 32
        for name, value in network.network.state_dict().items():
            assert torch.equal(value, theirs[name]), name

    def test_missing_unexpected_and_misshapen_weights_are_listed(self, saved: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(saved / "model.safetensors")
        state.pop("bert.encoder.layer.0.output.dense.bias")
        state["bert.encoder.layer.1.output.dense.bias"] = torch.zeros(32)
        state["bert.embeddings.word_embeddings.weight"] = torch.zeros(49, 32)
        save_file(state, saved / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError) as raised:
            encoder(TEXT, name="bert", weights=str(saved))
        message = str(raised.value)
        assert "1 missing: encoder.layer.0.output.dense.bias" in message
        assert "1 unexpected: " in message
        assert "encoder.layer.1.output.dense.bias" in message
        assert "of another shape: embeddings.word_embeddings.weight" in message

    def test_damaged_and_absent_weights(self, saved: Path) -> None:
        with pytest.raises((CheckpointError, UsageError), match="nowhere"):
            encoder(TEXT, name="bert", weights="./nowhere/at/all")
        path = saved / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises((CheckpointError, UsageError), match=str(saved)):
            encoder(TEXT, name="bert", weights=str(saved))

    def test_data_the_weights_have_no_place_for(self, saved: Path) -> None:
        words = Modality("text", "tokens", (12,), "int32", num_values=51)
        with pytest.raises(UsageError, match=r"'text' has token ids up to 50, the weights '.*' know 50: prepare"):
            encoder(words, name="bert", weights=str(saved))
        long = Modality("text", "tokens", (21,), "int32", num_values=50)
        with pytest.raises(UsageError, match="'text' has 21 tokens, these weights take at most 20"):
            encoder(long, name="bert", weights=str(saved))

    def test_other_kinds_and_settings_are_refused(self) -> None:
        with pytest.raises(UsageError, match="'bert' encodes tokens, but 'image' is of kind image"):
            encoder(IMAGE, name="bert")
        with pytest.raises(ConfigError, match=r"model.encoders.text.pooling must be 'cls' or 'mean'"):
            encoder(TEXT, name="bert", pooling="max")
        with pytest.raises(UsageError, match="size 'tiny' is for random weights alone"):
            encoder(TEXT, name="bert", size="tiny", weights="google-bert/bert-base-uncased")


class TestHub:
    """Published models: from the cache, or asked for once; the hub is this machine's, at an address of its own."""

    NAME = "google-bert/bert-base-uncased"

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        from huggingface_hub import constants

        for key in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            if hasattr(constants, key):
                monkeypatch.setattr(constants, key, str(tmp_path / "cache"))
        return tmp_path / "cache"

    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        """A hub that has no model; the requests it got."""
        seen: list[str] = []

        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                seen.append(self.path)
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.point_to(server.server_port, monkeypatch)
            yield seen
            server.shutdown()

    def point_to(self, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def test_a_model_the_hub_has_not_is_asked_for_once(self, answers: list[str]) -> None:
        with pytest.raises(UsageError, match=f"the weights '{self.NAME}' of BERT are not in the "):
            encoder(TEXT, name="bert", weights=self.NAME)
        assert answers == [f"/{self.NAME}/resolve/main/config.json"]

    def test_without_a_network_the_key_that_helps_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as free:  # bound but not listening: refused
            free.bind(("127.0.0.1", 0))
            self.point_to(free.getsockname()[1], monkeypatch)
            (found,) = missing_files({"name": "bert", "weights": self.NAME}, "model.encoders.words")
            with pytest.raises(UsageError, match="set weights to the path of a folder"):
                encoder(TEXT, name="bert", weights=self.NAME)
        assert found.startswith(f"model.encoders.words.weights: the weights '{self.NAME}' of BERT are not in the ")
        assert "set weights to the path of a folder with config.json and model.safetensors" in found
        assert found.endswith("size 'tiny' makes a small random one (--set model.encoders.words.weights=…)")

    @pytest.mark.slow
    def test_a_hub_that_never_answers_is_given_up_within_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            self.point_to(silent.getsockname()[1], monkeypatch)
            start = time.monotonic()
            (found,) = missing_files({"name": "clip", "weights": "openai/clip"}, "model.encoders.words")
            assert time.monotonic() - start < TIMEOUT_S + 2
        assert "the weights 'openai/clip' of CLIP are not in " in found

    def test_a_cached_model_is_loaded_and_nothing_asked_for(self, answers: list[str], cache: Path) -> None:
        from transformers import BertConfig, BertForPreTraining

        folder = cache / "models--google-bert--bert-base-uncased"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        sizes = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=40, max_position_embeddings=20)  # fmt: skip
        BertForPreTraining(sizes).save_pretrained(folder / "snapshots" / ("0" * 40))
        assert missing_files({"name": "bert", "weights": self.NAME}, "model.encoders.words") == []
        assert encoder(TEXT, name="bert", weights=self.NAME).num_features == 32
        assert answers == []


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"name": "i3d", "weights": "nowhere.pt"}, "weights must be 'random' or the path of a file, and there is no "),
        ({"name": "cav_mae", "weights": "nowhere.pth"}, "no 'nowhere.pth' here. The checkpoints are linked at"),
        ({"name": "m3ae", "weights": "nowhere.pth"}, "there is no 'nowhere.pth' here"),
        ({"name": "resnet50", "weights": "nowhere.pth"}, "weights must be 'random', one of IMAGENET1K_V1"),
        ({"name": "bert", "weights": "./nowhere"}, "there is no folder './nowhere' of BERT's weights here"),
        ({"name": "clip", "weights": "/nowhere/clip"}, "there is no folder '/nowhere/clip' of CLIP's weights here"),
        ({"name": "resnet50", "weights": "IMAGENET1K_V2"}, None),
        ({"name": "i3d", "weights": "random"}, None),
        ({"name": "resnet18"}, None),
        ({"name": "i3d", "weights": 5}, None),  # wrong settings, unknown encoders: told when it is built
        ({"name": "i3f"}, None),
        ({}, None),
    ],
)
def test_weights_are_looked_for_without_building_anything(section: dict[str, Any], problem: str | None) -> None:
    found = missing_files(section, "model.encoders.rgb")
    assert len(found) == (problem is not None)
    if problem is not None:
        assert found[0].startswith("model.encoders.rgb.weights: ")
        assert problem in found[0]
