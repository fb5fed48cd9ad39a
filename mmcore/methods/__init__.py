"""The methods this project ships, one file each, and their registry."""

from mmcore.methods import (
    agm,
    aug,
    ensemble,
    gblending,
    iprm,
    joint,
    joint_unimodal,
    lfm,
    mla,
    mmcosine,
    mmpareto,
    mslr,
    ogm,
    pmr,
    qmf,
    relearning,
    simbamm,
    unimodal,
)
from mmcore.methods.base import FUSED, METHODS, Context, EpochStats, Method, Need

__all__ = [
    "FUSED", "METHODS", "Context", "EpochStats", "Method", "Need",
    "agm", "aug", "ensemble", "gblending", "iprm", "joint", "joint_unimodal", "lfm", "mla", "mmcosine", "mmpareto",
    "mslr", "ogm", "pmr", "qmf", "relearning", "simbamm", "unimodal",
]  # fmt: skip
