"""Data: what a data set is, the prepared format, the protocols, and the data sets this project ships."""

from mmcore.data import (
    avdigits,
    cremad,
    digits,
    iemocap,
    kinetics_sounds,
    manifest,
    nvgesture,
    sarcasm,
    twitter15,
    vggsound,
)
from mmcore.data.spec import DATASETS, DatasetSource, DatasetSpec, Modality, Sample

__all__ = [
    "DATASETS", "DatasetSource", "DatasetSpec", "Modality", "Sample", "avdigits", "cremad", "digits",
    "iemocap", "kinetics_sounds", "manifest", "nvgesture", "sarcasm", "twitter15", "vggsound",
]  # fmt: skip
