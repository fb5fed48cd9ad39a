"""CLIP's image and text encoders, transformers' own, pretrained or from random initial values.

IPRM's paper uses them on Sarcasm in one extra experiment (Table 6): ViT-B/16 and CLIP's text transformer, that is
`openai/clip-vit-base-patch16`. Architecture and names of the weights are transformers', which publishes that
checkpoint. Verified on checkpoints that transformers itself wrote, in test_clip.py; the published one was
not loaded there (the tests have no network).

Shape legend: B samples, N pictures, C channels, L tokens, D features.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder
from mmcore.encoders.weights import RANDOM, check_folder, check_size, from_transformers
from mmcore.errors import UsageError

VOCABULARY = 49408
TEXT_SIZES: dict[str, dict[str, Any]] = {
    "base": {"projection_dim": 512},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
             "projection_dim": 64},
}  # fmt: skip
IMAGE_SIZES: dict[str, dict[str, Any]] = {
    "base": {"projection_dim": 512, "patch_size": 16},
    "tiny": {**TEXT_SIZES["tiny"], "patch_size": 8, "image_size": 32},
}
OTHER_BRANCH = {
    "image": ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids"),
    "tokens": ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.position_ids"),
}
"""Weights in published checkpoints that one branch does not need."""


class ClipConfig(Section):
    """Initial values and size."""

    weights: str = Field(
        default=RANDOM,
        description="random, a name on the Hugging Face hub (openai/clip-vit-base-patch16; downloaded once), or a "
        "folder as there",
    )
    size: Literal["base", "tiny"] = Field(default="base", description="of random weights; tiny: two layers of 64")


@ENCODERS.register("clip")
class Clip(ImageEncoder):
    """CLIP's projected embeddings, not normalised, D = 512 (tiny: 64), of pictures and of texts.

    Pictures of another size than the weights' (224) get interpolated position embeddings. Texts must have been prepared
    with CLIP's own vocabulary (`--vocab vocab.json`), of 77 tokens at most: its features are those of the last token,
    the end of the text, which sees all others.
    """

    Config = ClipConfig
    kinds = frozenset({"image", "tokens"})
    features_are = "projection into the space pictures and texts share"
    weights_from = (
        "any CLIP of the Hugging Face hub by its name, downloaded once into its cache (`openai/clip-vit-base-patch16` "
        "is IPRM's), or a folder with its config.json and model.safetensors"
    )

    @classmethod
    def check_files(cls, config: ClipConfig) -> None:
        """Raises a UsageError if the weights are not there."""
        check_folder(config.weights, "CLIP")

    def __init__(self, config: ClipConfig, modality: Modality):
        super().__init__(config, modality)
        check_size(config.size, config.weights)
        self._is_text = modality.kind == "tokens"
        self.network = _text(config, modality) if self._is_text else _image(config, modality)
        self.num_features = self.network.config.projection_dim

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of pictures (B, C, H, W), frames (B, T, C, H, W) or token ids (B, L)."""
        return self._encode_text(x, lengths) if self._is_text else super().forward(x, lengths)

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D) of pictures (N, C, H, W)."""
        features: Tensor = self.network(pixel_values=x, interpolate_pos_encoding=True).image_embeds
        return features

    def _encode_text(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Returns the projected state of each text's last token; a text without tokens counts as one of one.

        transformers looks for the end by its id, which random weights with another vocabulary do not have. What
        follows the end does not matter: no token sees a later one.
        """
        states = self.network(input_ids=x.long()).last_hidden_state
        last = torch.full_like(x[:, 0], x.shape[1] - 1, dtype=torch.int64)
        if lengths is not None:
            last = lengths.clamp(min=1) - 1
        ends = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        features: Tensor = self.network.text_projection(ends)
        return features


def _text(config: ClipConfig, modality: Modality) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    num_values, longest = modality.num_values or VOCABULARY, 77
    if config.weights == RANDOM:
        # The ids of start and end are transformers' way to find the end; here the lengths tell.
        ids = {"bos_token_id": None, "eos_token_id": num_values - 1, "pad_token_id": None}
        network = CLIPTextModelWithProjection(
            CLIPTextConfig(**{**TEXT_SIZES[config.size], **ids, "vocab_size": num_values})
        )
    else:
        network = from_transformers(CLIPTextModelWithProjection, "CLIP", config.weights, OTHER_BRANCH["tokens"])
        longest = network.config.max_position_embeddings
        if num_values != network.config.vocab_size:
            raise UsageError(
                f"'{modality.name}' was prepared with a vocabulary of {num_values}, the weights '{config.weights}' "
                f"know CLIP's {network.config.vocab_size}: prepare the data with --vocab PATH/vocab.json (merges.txt "
                f"beside it; both are in the weights' folder on the hub)"
            )
    if modality.shape[0] > longest:
        raise UsageError(
            f"'{modality.name}' has {modality.shape[0]} tokens, CLIP takes at most {longest}: "
            f"prepare the data with --option max_tokens={longest}"
        )
    return network


def _image(config: ClipConfig, modality: Modality) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    channels = modality.shape[-3]
    if config.weights == RANDOM:
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_SIZES[config.size], num_channels=channels))
    if channels != 3:
        raise UsageError(f"'{modality.name}' has {channels} channel(s), the weights '{config.weights}' take 3")
    return from_transformers(CLIPVisionModelWithProjection, "CLIP", config.weights, OTHER_BRANCH["image"])
