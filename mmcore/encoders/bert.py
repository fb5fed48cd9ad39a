"""transformers' BertModel, the text encoder of the image-text papers, pretrained or from random initial values.

Shape legend: B samples, L tokens, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import Field
from torch import Tensor

from mmcore.config.sections import Section
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, Encoder
from mmcore.encoders.weights import RANDOM, check_folder, check_size, from_transformers
from mmcore.errors import UsageError

if TYPE_CHECKING:
    from transformers import BertConfig as Sizes
    from transformers import BertModel

SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
BASE_VOCABULARY = 30522
PRETRAINING_HEADS = ("cls.", "bert.pooler.", "pooler.")
"""Weights in published checkpoints that features do not need."""


class BertConfig(Section):
    """Initial values, size and what is taken as the text's features."""

    weights: str = Field(
        default=RANDOM,
        description="random, a name on the Hugging Face hub (downloaded once), or a folder as there",
    )
    size: Literal["base", "tiny"] = Field(default="base", description="of random weights; tiny: two layers of 64")
    pooling: Literal["cls", "mean"] = Field(default="cls", description="the first token, or the mean over the valid")
    dropout: Annotated[float, Ge(0), Lt(1)] = Field(
        default=0.1, description="of hidden states and attention; above 0 the masks depend on the number of workers"
    )


@ENCODERS.register("bert")
class Bert(Encoder):
    """BERT: token ids (B, L) to features (B, D), D = 768 (tiny: 64). Padding is masked by the lengths."""

    Config = BertConfig
    kinds = frozenset({"tokens"})
    features_are = "last hidden states, pooled as set"
    weights_from = (
        "any BERT of the Hugging Face hub by its name, downloaded once into its cache (`google-bert/bert-base-uncased` "
        "is the papers'), or a folder with its config.json and model.safetensors"
    )

    @classmethod
    def check_files(cls, config: BertConfig) -> None:
        """Raises a UsageError if the weights are not there."""
        check_folder(config.weights, "BERT")

    def __init__(self, config: BertConfig, modality: Modality):
        super().__init__(config, modality)
        check_size(config.size, config.weights)
        self.network = _random(config, modality) if config.weights == RANDOM else _pretrained(config)
        self._pooling = config.pooling
        self.num_features = self.network.config.hidden_size
        _check_fit(self.network.config, modality, config.weights)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns features (B, D) of token ids `x` (B, L), integer; a text without tokens counts as one of one."""
        valid = torch.ones_like(x, dtype=torch.bool)
        if lengths is not None:
            valid = torch.arange(x.shape[1], device=x.device) < lengths.clamp(min=1)[:, None]
        # Four axes are taken as they are; of two, transformers asks whether all are valid, and waits for the device.
        mask = valid[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        states: Tensor = self.network(input_ids=x.long(), attention_mask=mask).last_hidden_state
        if self._pooling == "cls":
            return states[:, 0]
        total = torch.where(valid[:, :, None], states, 0).sum(dim=1)
        return total / valid.sum(dim=1, keepdim=True).to(states.dtype)


def _random(config: BertConfig, modality: Modality) -> BertModel:
    from transformers import BertConfig as Sizes
    from transformers import BertModel

    sizes = {**SIZES[config.size], **_dropout(config), "vocab_size": modality.num_values or BASE_VOCABULARY}
    return BertModel(Sizes(**sizes), add_pooling_layer=False)


def _pretrained(config: BertConfig) -> BertModel:
    from transformers import BertModel

    settings = {"add_pooling_layer": False, **_dropout(config)}
    network: BertModel = from_transformers(BertModel, "BERT", config.weights, PRETRAINING_HEADS, settings)
    return network


def _dropout(config: BertConfig) -> dict[str, Any]:
    return {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout}


def _check_fit(sizes: Sizes, modality: Modality, weights: str) -> None:
    """Refuses data whose tokens or lengths the network has no place for: on a GPU they would end the process."""
    if (modality.num_values or 0) > sizes.vocab_size:
        raise UsageError(
            f"'{modality.name}' has token ids up to {(modality.num_values or 0) - 1}, the weights '{weights}' know "
            f"{sizes.vocab_size}: prepare the data with the vocabulary of these weights"
        )
    longest = sizes.max_position_embeddings
    if modality.shape[0] > longest:
        raise UsageError(f"'{modality.name}' has {modality.shape[0]} tokens, these weights take at most {longest}")
