"""CLIP's encoders: transformers' own, from folders it wrote, and everything that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from raw_files import save_text, save_vocab

from mmcore.data.media import RawFolder, Text
from mmcore.data.spec import Modality
from mmcore.encoders import build_encoder
from mmcore.errors import CheckpointError, UsageError

IMAGE = Modality("image", "image", (3, 16, 16), "uint8")
TEXT = Modality("text", "tokens", (12,), "int32", num_values=50, variable_length=True)


def encoder(modality: Modality, **section: Any) -> Any:
    torch.manual_seed(0)
    return build_encoder({"name": "clip", **section}, modality)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint as published: both branches, their projections and the logit scale."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
             "projection_dim": 24}  # fmt: skip
    text = {**sizes, "vocab_size": 50, "max_position_embeddings": 12, "eos_token_id": 49, "bos_token_id": 48,
            "pad_token_id": 49}  # fmt: skip
    image = {**sizes, "image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=24)).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def reference(saved: Path) -> Any:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(saved).eval()


class TestWeights:
    def test_pictures_are_encoded_as_by_the_whole_model(self, saved: Path) -> None:
        ours, x = encoder(IMAGE, weights=str(saved)).eval(), torch.randn(3, 3, 16, 16)
        with torch.no_grad():
            expected = reference(saved).get_image_features(pixel_values=x)
            torch.testing.assert_close(ours(x), getattr(expected, "pooler_output", expected))
        assert ours.num_features == 24

    def test_texts_are_encoded_as_by_the_whole_model(self, saved: Path) -> None:
        ours = encoder(TEXT, weights=str(saved)).eval()
        x, lengths = torch.randint(0, 48, (3, 12), dtype=torch.int32), torch.tensor([4, 12, 7])
        x[torch.arange(3), lengths - 1] = 49  # the end, by which transformers finds it
        with torch.no_grad():
            expected = reference(saved).get_text_features(input_ids=x.long())
            torch.testing.assert_close(ours(x, lengths), getattr(expected, "pooler_output", expected))

    @pytest.mark.parametrize(("modality", "part"), [(IMAGE, "visual_projection"), (TEXT, "text_projection")])
    def test_missing_and_unexpected_weights_are_listed(self, saved: Path, modality: Modality, part: str) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(saved / "model.safetensors")
        state["other"] = state.pop(f"{part}.weight")
        save_file(state, saved / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"1 missing: {part}.weight; 1 unexpected: other"):
            encoder(modality, weights=str(saved))

    def test_what_does_not_fit_the_data(self, saved: Path) -> None:
        words = Modality("text", "tokens", (12,), "int32", num_values=30522)
        with pytest.raises(UsageError, match=r"a vocabulary of 30522, .* know CLIP's 50: prepare .*vocab.json"):
            encoder(words, weights=str(saved))
        long = Modality("text", "tokens", (13,), "int32", num_values=50)
        with pytest.raises(UsageError, match=r"13 tokens, CLIP takes at most 12: .*--option max_tokens=12"):
            encoder(long, weights=str(saved))
        with pytest.raises(UsageError, match="'depth' has 1 channel"):
            encoder(Modality("depth", "image", (1, 16, 16), "uint8"), weights=str(saved))
        with pytest.raises(UsageError, match="size 'tiny' is for random weights alone"):
            encoder(IMAGE, weights=str(saved), size="tiny")
        with pytest.raises((CheckpointError, UsageError), match="nowhere"):
            encoder(IMAGE, weights="./nowhere/at/all")


class TestTiny:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_pictures_of_any_size_and_frames(self, channels: int) -> None:
        network = encoder(Modality("video", "image", (2, channels, 24, 24), "uint8"), size="tiny")
        x = torch.randn(2, 2, channels, 24, 40)
        features = network(x, torch.tensor([2, 1]))
        assert features.shape == (2, network.num_features) == (2, 64)
        torch.testing.assert_close(features[1], network(x[:, 0])[1])

    def test_padding_of_texts_does_not_matter(self) -> None:
        network = encoder(TEXT, size="tiny").eval()
        x, lengths = torch.randint(0, 50, (3, 12), dtype=torch.int32), torch.tensor([4, 12, 0])
        other = x.clone()
        other[0, 4:] = 7
        with torch.no_grad():
            features = network(x, lengths)
            torch.testing.assert_close(features, network(other, lengths))
            assert not torch.allclose(features[0], network(x)[0])
        assert torch.isfinite(features).all()

    @pytest.mark.parametrize("modality", [IMAGE, TEXT])
    def test_every_parameter_gets_a_gradient(self, modality: Modality) -> None:
        network = encoder(modality, size="tiny")
        x = torch.randint(0, 50, (3, 12)) if modality is TEXT else torch.randn(3, 3, 16, 16)
        network(x).square().sum().backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    def test_on_the_meta_device(self) -> None:
        lengths = torch.ones(2, dtype=torch.int64, device="meta")
        x = torch.zeros(2, 12, dtype=torch.int32, device="meta")
        assert encoder(TEXT, size="tiny").to("meta")(x, lengths).shape == (2, 64)
        assert encoder(IMAGE, size="tiny").to("meta")(torch.zeros(2, 3, 16, 16, device="meta")).shape == (2, 64)


class TestVocabulary:
    """CLIP's own tokenizer: vocab.json, with merges.txt beside it."""

    @pytest.fixture
    def vocab(self, tmp_path: Path) -> Path:
        tokens = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
        save_text(tmp_path / "merges.txt", "#version: 0.2\na b</w>\n")
        return save_text(tmp_path / "vocab.json", json.dumps({token: number for number, token in enumerate(tokens)}))

    def test_texts_are_cut_into_its_tokens(self, vocab: Path, tmp_path: Path) -> None:
        folder, text = RawFolder(tmp_path, vocab=vocab), Text("text", 8)
        decoded = text.read(folder, "AB a b")
        assert decoded.array.tolist() == [5, 4, 2, 3, 6, 0, 0, 0]
        assert decoded.length == 5
        assert text.stored(folder).num_values == 7
        assert text.shared_files(folder) == [vocab, tmp_path / "merges.txt"]

    def test_it_is_found_in_the_raw_folder_after_word_pieces(self, vocab: Path, tmp_path: Path) -> None:
        assert Text("text", 8).read(RawFolder(tmp_path), "AB").array.tolist()[:3] == [5, 4, 6]
        save_vocab(tmp_path, "ab")
        assert Text("text", 8).read(RawFolder(tmp_path), "AB").array.tolist()[:3] == [2, 5, 3]

    def test_a_long_text_keeps_its_end(self, vocab: Path, tmp_path: Path) -> None:
        decoded = Text("text", 4).read(RawFolder(tmp_path, vocab=vocab), "a a a a")
        assert (decoded.array.tolist(), decoded.length) == ([5, 2, 2, 6], 4)

    def test_files_that_are_none(self, vocab: Path, tmp_path: Path) -> None:
        (tmp_path / "merges.txt").rename(tmp_path / "elsewhere.txt")
        with pytest.raises(UsageError, match=r"vocab.json is CLIP's vocabulary, which needs merges.txt beside it"):
            Text("text", 4).read(RawFolder(tmp_path, vocab=vocab), "a")
        (tmp_path / "elsewhere.txt").rename(tmp_path / "merges.txt")
        for content in ("[", "[1]", '{"a": 0}', '{"a": "x"}'):
            vocab.write_text(content)
            with pytest.raises(UsageError, match=r"vocab.json is no CLIP vocabulary"):
                Text("text", 4).read(RawFolder(tmp_path, vocab=vocab), "a")

    def test_word_pieces_are_read_as_before(self, tmp_path: Path) -> None:
        vocab = save_vocab(tmp_path / "words", "good")
        assert Text("text", 4).read(RawFolder(tmp_path, vocab=vocab), "good").array.tolist() == [2, 5, 3, 0]
        assert Text("text", 4).shared_files(RawFolder(tmp_path, vocab=vocab)) == [vocab]
