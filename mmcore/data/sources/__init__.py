"""The data sets this project ships, one file each; importing the package registers them."""

from mmcore.data.sources import (
    avdigits,
    cremad,
    digits,
    iemocap,
    kinetics_sounds,
    nvgesture,
    sarcasm,
    twitter15,
    user_table,
    vggsound,
)

__all__ = [
    "avdigits",
    "cremad",
    "digits",
    "iemocap",
    "kinetics_sounds",
    "nvgesture",
    "sarcasm",
    "twitter15",
    "user_table",
    "vggsound",
]
