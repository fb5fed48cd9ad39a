"""M3AE's encoder, of pictures or of texts: one transformer on patches and word pieces.

Paper: Geng et al., "Multimodal Masked Autoencoders Learn Transferable Representations", 2022 (arXiv 2205.14204). IPRM
and MLA use it on IEMOCAP, M3AE-base, for face and text, an encoder each. Code: github young-geng/m3ae_public at
635d86e (JAX; read for facts, nothing of it is here). The published checkpoint is a pickle that only JAX and Flax open;
`state_from_flax` turns its parameters into a state dict with the names MLA's code loads (`m3ae_base.pth`), and that is
what `weights` takes: every name and shape of the encoder that the modality needs, the other modality's embedding and
the decoder's are left aside, anything else is refused.

As published and not as in MLA's port: GELU by tanh and layer norms with 1e-6 (Flax's defaults), and a patch's pixels in
the order row, column, channel (MLA's port flattens channels first, which the weights do not fit). Position embeddings
are fixed.

Verified in test_m3ae.py: names and shapes against those written out from both codes, and the forward pass,
from Flax's parameters on, against one written in NumPy. Not verified: the published file, which was not at hand.

Shape legend: B samples, N pictures, C channels, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder
from mmcore.encoders.patches import grid_positions, sine_positions, transformer_layer
from mmcore.encoders.weights import RANDOM, check_file, check_size, file_state, load_all
from mmcore.errors import UsageError

SIZES = {"base": (768, 12, 12, 16), "tiny": (64, 2, 2, 8)}
"""Size -> features, heads, layers, pixels of a patch's side."""
VOCABULARY = 30522
"""bert-base-uncased's."""
WHERE = (
    "M3AE is published for JAX alone (linked at github.com/young-geng/m3ae_public); "
    "mmcore.encoders.m3ae.state_from_flax converts its parameters; nothing is fetched"
)
UNNEEDED = ("decoder", "image_mask_embedding", "text_mask_embedding")
OTHER_MODALITY = {
    "image": ("text_embedding.", "encoder_text_type_embedding"),
    "tokens": ("image_embedding.", "encoder_image_type_embedding"),
}
LAYER_NAMES = {
    "self_attn.in_proj_": "attention.qkv_linear.",
    "self_attn.out_proj.": "attention.fc.",
    "linear1.": "transformer_mlp.fc1.",
    "linear2.": "transformer_mlp.fc2.",
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
}
"""torch's names of a layer's parts -> those of MLA's state dict."""
FLAX_NAMES = {
    "Attention_0.Dense_0": "attention.qkv_linear",
    "Attention_0.Dense_1": "attention.fc",
    "TransformerMLP_0.fc1": "transformer_mlp.fc1",
    "TransformerMLP_0.fc2": "transformer_mlp.fc2",
    "LayerNorm_0": "layer_norm1",
    "LayerNorm_1": "layer_norm2",
}
"""Flax's names of a layer's parts -> those of MLA's state dict."""


class M3aeConfig(Section):
    """Initial values, size and what is taken as the features."""

    weights: str = Field(default=RANDOM, description="random, or the path of a converted checkpoint")
    size: Literal["base", "tiny"] = Field(default="base", description="tiny: two layers of 64; random weights only")
    pooling: Literal["mean", "all", "cls"] = Field(
        default="mean",
        description="mean over the valid tokens; over all, a text's padding too (as MLA); or the class token alone",
    )
    special_tokens: Literal["dropped", "kept"] = Field(
        default="dropped", description="of a text, the [CLS] and [SEP] around it: M3AE was trained without them"
    )


@ENCODERS.register("m3ae")
class M3ae(ImageEncoder):
    """M3AE's encoder: D = 768 (tiny: 64). Texts must have been prepared with bert-base-uncased's vocabulary."""

    Config = M3aeConfig
    weights_from = (
        "the publishers' for JAX, linked at github.com/young-geng/m3ae_public, once converted by "
        "`mmcore.encoders.m3ae.state_from_flax`, as a file"
    )
    kinds = frozenset({"image", "tokens"})

    @classmethod
    def check_files(cls, config: M3aeConfig) -> None:
        """Raises a UsageError if the weights are not there."""
        check_file(config.weights, WHERE)

    def __init__(self, config: M3aeConfig, modality: Modality):
        super().__init__(config, modality)
        check_size(config.size, config.weights)
        self._config, self._kind = config, modality.kind
        self.num_features, num_heads, num_layers, self._patch = SIZES[config.size]
        self.embedding: nn.Module
        if modality.kind == "tokens":
            self.embedding = nn.Embedding(_vocabulary(config, modality), self.num_features)
        else:
            self.embedding = nn.Linear(self._patch**2 * modality.shape[-3], self.num_features)
            nn.init.xavier_uniform_(self.embedding.weight)
        self.type_embedding = nn.Parameter(torch.empty(1, 1, self.num_features).normal_(std=0.02))
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.num_features).normal_(std=0.02))
        activation = partial(F.gelu, approximate="tanh")
        self.layers = nn.ModuleList(
            transformer_layer(self.num_features, num_heads, 1e-6, activation) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        if config.weights != RANDOM:
            ignored = [*UNNEEDED, *OTHER_MODALITY[modality.kind]]
            state = file_state(config.weights, WHERE)
            load_all(self, state, config.weights, ignored, published=lambda name: published_name(name, modality.kind))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of pictures (B, C, H, W), frames (B, T, C, H, W) or token ids (B, L)."""
        return self._encode_text(x, lengths) if self._kind == "tokens" else super().forward(x, lengths)

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D) of pictures (N, C, H, W); what is left of the last patch is dropped."""
        rows, columns = x.shape[-2] // self._patch, x.shape[-1] // self._patch
        if not rows * columns:
            raise UsageError(f"m3ae takes pictures of at least {self._patch} pixels a side, got {tuple(x.shape[-2:])}")
        x = x[..., : rows * self._patch, : columns * self._patch]
        patches = torch.unflatten(torch.unflatten(x, 3, (columns, self._patch)), 2, (rows, self._patch))
        positions = grid_positions(rows, columns, self.num_features, x.device)
        flat = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # from (N, C, r, p, c, p) to (N, r c, p p C)
        return self._encode(self.embedding(flat), positions, None)

    def _encode_text(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            lengths = torch.full_like(x[:, 0], x.shape[1], dtype=torch.int64)
        if self._config.special_tokens == "dropped":
            x, lengths = x[:, 1:], lengths - 2
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        # What follows a text is [PAD], its [SEP] too: with pooling over all tokens it counts.
        embedded = self.embedding(torch.where(valid, x, 0).long())
        places = torch.arange(x.shape[1], device=x.device)
        return self._encode(embedded, sine_positions(places, self.num_features), valid)

    def _encode(self, embedded: Tensor, positions: Tensor, valid: Tensor | None) -> Tensor:
        """Returns features (B, D) of embedded tokens (B, P, D), of which `valid` (B, P) are looked at; None: all."""
        tokens = embedded + positions + self.type_embedding
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        padding = None if valid is None else F.pad(~valid, (1, 0), value=False)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=padding)
        normed: Tensor = self.norm(tokens)
        if self._config.pooling == "cls":
            return normed[:, 0]
        if padding is None or self._config.pooling == "all":
            return normed.mean(dim=1)
        total = torch.where(padding[:, :, None], 0, normed).sum(dim=1)
        return total / (~padding).sum(dim=1, keepdim=True).to(normed.dtype)


def published_name(name: str, kind: str) -> str:
    """Returns the name in MLA's state dict of one of `M3ae`'s parameters."""
    modality = "text" if kind == "tokens" else "image"
    part, _, rest = name.partition(".")
    if part == "embedding":
        return f"{modality}_embedding.{rest}"
    if part == "type_embedding":
        return f"encoder_{modality}_type_embedding"
    if part == "norm":
        return f"encoder.layer_norm.{rest}"
    for own, published in LAYER_NAMES.items():
        rest = rest.replace(own, published)
    return f"encoder.blocks.{rest}" if part == "layers" else name


def state_from_flax(parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the encoder's weights from the published ones, to be saved with `torch.save` and given as `weights`.

    Args:
        parameters: `pickle.load(open("m3ae_base.pkl", "rb"))["state"].params["params"]`, in an environment that has
            Flax; nested mappings of arrays.
    """
    state: dict[str, Tensor] = {}
    for name, array in _flat(parameters):
        path, _, leaf = name.rpartition(".")
        if name.startswith(UNNEEDED):
            continue
        tensor = torch.from_numpy(np.array(array))
        if leaf == "kernel":  # Flax multiplies from the other side
            tensor = tensor.t().contiguous()
        leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
        state[f"{_torch_path(path)}.{leaf}" if path else leaf] = tensor
    return state


def _torch_path(path: str) -> str:
    block, _, part = path.removeprefix("encoder.").partition(".")
    if block.startswith("Block_"):
        return f"encoder.blocks.{block.removeprefix('Block_')}.{FLAX_NAMES[part]}"
    return "encoder.layer_norm" if path == "encoder.LayerNorm_0" else path


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    entries: list[tuple[str, Any]] = []
    for key, value in parameters.items():
        entries += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return entries


def _vocabulary(config: M3aeConfig, modality: Modality) -> int:
    num_values = modality.num_values or VOCABULARY
    if config.weights != RANDOM and num_values != VOCABULARY:
        raise UsageError(
            f"'{modality.name}' was prepared with a vocabulary of {num_values}, M3AE's weights know "
            f"bert-base-uncased's {VOCABULARY}: prepare the data with --vocab PATH of that one "
            "(github.com/google-research/bert)"
        )
    return num_values
