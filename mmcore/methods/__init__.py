"""The methods this project ships, one file each, and their registry."""

from mmcore.methods import (
    agm,
    amss,
    arl,
    aug,
    cml,
    dgl,
    ensemble,
    g2d,
    gblending,
    inforeg,
    iprm,
    joint,
    joint_unimodal,
    lfm,
    mla,
    mmcosine,
    mmpareto,
    mslr,
    ogm,
    opm,
    pmr,
    qmf,
    relearning,
    simbamm,
    umt,
    unimodal,
)
from mmcore.methods.base import FUSED, METHODS, Context, EpochStats, Method, Need

__all__ = [
    "FUSED", "METHODS", "Context", "EpochStats", "Method", "Need",
    "agm", "amss", "arl", "aug", "cml", "dgl", "ensemble", "g2d", "gblending", "inforeg", "iprm", "joint",
    "joint_unimodal", "lfm", "mla", "mmcosine", "mmpareto", "mslr", "ogm", "opm", "pmr", "qmf", "relearning",
    "simbamm", "umt", "unimodal",
]  # fmt: skip
