"""CAV-MAE's audio and image branches: a vision transformer on patches of a spectrogram or a picture.

Paper: Gong et al., "Contrastive Audio-Visual Masked Autoencoder", ICLR 2023. IPRM and MLA use the audio branch on
IEMOCAP, the mean over its tokens. Code: github YuanGongND/cav-mae at 01f73aa (BSD; read for facts, nothing of it is
here). Its checkpoints (`audio_model.21.pth` and others, linked there) hold both branches and mostly a decoder, under
`module.`: one branch is loaded, every name and shape of it, the rest of what that code saves is left aside, and
anything else is refused.

Verified in test_cav_mae.py: names and shapes against those written out from the code above, and the forward
pass against one written with these names. Not verified: a published file, none of which was at hand.

Eleven layers are the branch's own, one is shared by both with layer norms of the branch. The weights were trained on
Kaldi's log-mel, 128 bands by 1,024 windows of 25 ms every 10 ms at 16 kHz, scaled to mean 0 and deviation 1 over
AudioSet. That is what the transforms give with kaldi, n_fft 400, hop_length 160, n_mels 128, standardise false, mean
-5.081 and std 4.4849 (test_kaldi.py), of a clip of 10.24 s. Pictures are of 224 pixels.

Shape legend: B samples, N pictures, C channels, F bands, V windows, D features.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, ImageEncoder, input_channels
from mmcore.encoders.patches import grid_positions, transformer_layer
from mmcore.encoders.weights import RANDOM, check_file, check_size, file_state, load_all
from mmcore.errors import UsageError

SIZES = {"base": (768, 12, 12, 16), "tiny": (64, 2, 2, 8)}
"""Size -> features, heads, layers (the last one shared), pixels of a patch's side."""
GRIDS = {"a": (8, 64), "v": (14, 14)}
"""Branch -> rows and columns of patches the published position embeddings are for."""
WHERE = "The checkpoints are linked at github.com/YuanGongND/cav-mae; nothing is fetched"
LAYER_NAMES = {
    "self_attn.in_proj_": "attn.qkv.",
    "self_attn.out_proj.": "attn.proj.",
    "linear1.": "mlp.fc1.",
    "linear2.": "mlp.fc2.",
}
"""torch's names of a layer's parts -> the published ones."""


class CavMaeConfig(Section):
    """Initial values and size."""

    weights: str = Field(default=RANDOM, description="random, or the path of a checkpoint of the publishers'")
    size: Literal["base", "tiny"] = Field(default="base", description="tiny: two layers of 64; random weights only")


@ENCODERS.register("cav_mae")
class CavMae(ImageEncoder):
    """CAV-MAE's branch of the modality's kind, mean over the tokens: D = 768 (tiny: 64).

    Sound shorter than 1,024 windows takes the first columns of the position embeddings; what is left of the last patch
    is dropped. The padding of a short clip counts as sound, as in the papers.
    """

    Config = CavMaeConfig
    weights_from = "a checkpoint of the publishers', linked at github.com/YuanGongND/cav-mae, as a file"

    @classmethod
    def check_files(cls, config: CavMaeConfig) -> None:
        """Raises a UsageError if the weights are not there."""
        check_file(config.weights, WHERE)

    def __init__(self, config: CavMaeConfig, modality: Modality):
        super().__init__(config, modality)
        check_size(config.size, config.weights)
        self._name, self._is_sound = modality.name, modality.kind == "audio"
        self._is_pretrained = config.weights != RANDOM
        branch = "a" if self._is_sound else "v"
        self.num_features, num_heads, num_layers, patch = SIZES[config.size]
        self.patch_embed = nn.Conv2d(input_channels(modality), self.num_features, kernel_size=patch, stride=patch)
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        self._grid = GRIDS[branch]
        self.positions = nn.Parameter(grid_positions(*self._grid, self.num_features)[None])
        self.branch = nn.Parameter(torch.empty(1, 1, self.num_features).normal_(std=0.02))
        self.layers = nn.ModuleList(
            transformer_layer(self.num_features, num_heads, 1e-5, F.gelu) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(self.num_features)
        if self._is_pretrained:
            state = file_state(config.weights, WHERE)
            needed = {key: value for key, value in state.items() if not _is_unneeded(key, branch)}
            load_all(self, needed, config.weights, published=lambda name: published_name(name, branch))

    def encode_images(self, x: Tensor) -> Tensor:
        """Returns features (N, D) of pictures (N, C, H, W), spectrograms (N, 1, F, V) among them.

        Raises:
            UsageError: They are of another size than the position embeddings.
        """
        side = self.patch_embed.stride[0]
        rows, columns = x.shape[-2] // side, x.shape[-1] // side
        if not self._fits(rows, columns):
            raise UsageError(
                f"'{self._name}' reaches cav_mae as {tuple(x.shape[-2:])}, not as {self._grid[0] * side} by "
                f"{self._grid[1] * side}: set n_mels (of sound) or size (of pictures) in "
                f"dataset.transforms.{self._name}"
            )
        positions = torch.unflatten(self.positions, 1, self._grid)[:, :rows, :columns].flatten(1, 2)
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + positions + self.branch
        for layer in self.layers:
            tokens = layer(tokens)
        normed: Tensor = self.norm(tokens)
        return normed.mean(dim=1)

    def _fits(self, rows: int, columns: int) -> bool:
        """Tells whether there are positions for so many patches: with weights all of them, but sound may be shorter."""
        if not 0 < rows <= self._grid[0] or not 0 < columns <= self._grid[1]:
            return False
        return not self._is_pretrained or (rows == self._grid[0] and (self._is_sound or columns == self._grid[1]))


def published_name(name: str, branch: str) -> str:
    """Returns the published name of one of `CavMae`'s parameters; `branch` is a (audio) or v (image)."""
    whole = {"positions": "pos_embed_", "branch": "modality_"}
    if name in whole:
        return f"{whole[name]}{branch}"
    part, _, rest = name.partition(".")
    if part == "patch_embed":
        return f"patch_embed_{branch}.proj.{rest}"
    if part == "norm":
        return f"norm_{branch}.{rest}"
    number, _, rest = rest.partition(".")
    is_shared = int(number) == SIZES["base"][2] - 1
    for own, published in LAYER_NAMES.items():
        rest = rest.replace(own, published)
    if is_shared:
        return f"blocks_u.0.{rest.replace('norm1', f'norm1_{branch}').replace('norm2', f'norm2_{branch}')}"
    return f"blocks_{branch}.{number}.{rest}"


def _is_unneeded(name: str, branch: str) -> bool:
    """Tells whether a published weight is none of the branch's: the other's, both together's, the decoder's."""
    other = "v" if branch == "a" else "a"
    parts = (f"patch_embed_{other}.", f"pos_embed_{other}", f"modality_{other}", f"blocks_{other}.", f"norm_{other}.",
             "norm.", "decoder_", "mask_token", "mlp_head.")  # fmt: skip
    if name.startswith(parts):
        return True
    kept = (f"norm1_{branch}.", f"norm2_{branch}.") if name.startswith("blocks_u.") else ("norm1.", "norm2.")
    norms = ("norm1", "norm2")
    piece = name.split(".", 2)[-1]
    return name.startswith("blocks_") and piece.startswith(norms) and not piece.startswith(kept)
