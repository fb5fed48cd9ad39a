"""The page of the encoders, docs/encoders.md, from the registry: `python -m mmcore.encoders > docs/encoders.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import torch

from mmcore.config.sections import Section
from mmcore.config.setting_words import values_in_words
from mmcore.data.spec import Modality
from mmcore.encoders.base import ENCODERS, Encoder
from mmcore.errors import UsageError

EXAMPLES = {
    "a picture, 3 × 224 × 224": Modality("x", "image", (3, 224, 224), "uint8"),
    "a clip of 64 frames": Modality("x", "image", (64, 3, 224, 224), "uint8"),
    "10 s of sound at 16 kHz": Modality("x", "audio", (160000,), "int16", sample_rate_hz=16000),
    "a text of 77 tokens": Modality("x", "tokens", (77,), "int32", variable_length=True),
    "64 numbers": Modality("x", "features", (64,), "float32"),
    "a series, 100 steps of 64 numbers": Modality("x", "features", (100, 64), "float32", variable_length=True),
}
"""Inputs, in words, for which sizes are told."""
HEAD = """# Encoders

Made from the registry by `python -m mmcore.encoders > docs/encoders.md`. An encoder turns one modality's samples into
one vector of D features each. Which one a modality has, and every setting below, is set by `--set
model.encoders.MODALITY.KEY=VALUE`, or in a description of your own data by `encoder: {name: NAME, KEY: VALUE}`. With
`--encode MODALITY=NAME` it is run once, frozen, and its features are stored ([features.md](features.md)). Parameters
are counted for the defaults, and for every `size` there is. An encoder of your own is one class:
[CONTRIBUTING.md](../CONTRIBUTING.md).
"""


def page() -> str:
    """Returns the page, Markdown."""
    return "\n".join([HEAD, *(_section(name, ENCODERS.get(name)) for name in own_encoders())])


def own_encoders() -> list[str]:
    """Returns the names of this project's own encoders, without what other packages add."""
    return [name for name in ENCODERS.names() if ENCODERS.get(name).__module__.startswith("mmcore.")]


def _section(name: str, encoder: type[Encoder]) -> str:
    lines = [f"## `{name}`", "", inspect.getdoc(encoder) or "", ""]
    lines += [f"- Takes: {', '.join(sorted(encoder.kinds))}", f"- Features: {encoder.features_are}"]
    lines += [f"- Pretrained weights: {encoder.weights_from}", ""]
    if encoder.Config.model_fields:
        lines += ["| setting | values | default | |", "|---|---|---|---|", *_settings(encoder.Config), ""]
    return "\n".join([*lines, "| input | D | parameters |", "|---|---|---|", *_sizes(encoder), ""])


def _settings(config: type[Section]) -> Iterator[str]:
    for key, schema in config.model_json_schema()["properties"].items():
        yield f"| `{key}` | {values_in_words(schema)} | `{schema['default']}` | {schema.get('description', '')} |"


def _sizes(encoder: type[Encoder]) -> Iterator[str]:
    """Yields a row for each size and each kind of input it takes; nothing is computed, so that none needs memory."""
    schema = encoder.Config.model_json_schema().get("properties", {}).get("size", {})
    for size in schema.get("enum", [None]):
        config = encoder.Config() if size is None else encoder.Config.model_validate({"size": size})
        title = "" if size is None or len(schema["enum"]) == 1 else f", size `{size}`"
        for words, modality in EXAMPLES.items():
            if modality.kind not in encoder.kinds:
                continue
            try:
                with torch.device("meta"):
                    network = encoder(config, modality)
            except UsageError:  # of this kind, but of another shape
                continue
            count = sum(parameter.numel() for parameter in network.parameters())
            yield f"| {words}{title} | {network.num_features} | {count:,} |"
