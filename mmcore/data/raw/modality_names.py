"""What a modality of one's own data may be called: its name is a column, a key of modules and a part of metrics."""

from __future__ import annotations

import re

from torch import nn

from mmcore.config.problems import told

PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


OWN_WORDS = frozenset({
    "sample_id", "label", "group", "source", "replicate", "split",  # columns of the index
    "fused", "fusion", "encoder", "head", "mixed", "shared", "any",  # beside the modalities in metrics and methods
    "prediction", "probability", "probabilities",  # columns of predictions
})  # fmt: skip


def modality_name(name: str) -> str:
    """Returns a name that a modality may have.

    Raises:
        PydanticCustomError: It may not.
    """
    if PATTERN.fullmatch(name) and "__" not in name and name.lower() not in OWN_WORDS and not _is_attribute(name):
        return name
    raise told(
        "a modality's name must be a letter, then letters, digits, '_' or '-', 64 at most, without '__', and no word "
        f"that this project or torch uses itself (as label, group, fused, values), got {name!r}; rename it"
    )


def _is_attribute(name: str) -> bool:
    """Tells whether torch's dictionary of modules has such an attribute, and so takes no module of that name."""
    return hasattr(nn.ModuleDict(), name)
