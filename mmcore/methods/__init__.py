"""The methods this project ships, one file each, and their registry."""

from mmcore.methods import (
    agm,
    amss,
    arl,
    aug,
    cml,
    dgl,
    ensemble,
    gblending,
    inforeg,
    iprm,
    joint,
    joint_unimodal,
    lfm,
    mla,
    mmcosine,
    mmpareto,
    ogm,
    opm,
    pmr,
    relearning,
    simbamm,
    umt,
    unimodal,
)
from mmcore.methods.base import FUSED, METHODS, Context, EpochStats, Method, Need

__all__ = [
    "FUSED", "METHODS", "Context", "EpochStats", "Method", "Need",
    "agm", "amss", "aug", "ensemble", "gblending", "iprm", "joint", "joint_unimodal", "lfm", "mla", "mmcosine",
    "mmpareto", "ogm", "opm", "pmr", "simbamm", "unimodal",
    "agm", "arl", "aug", "cml", "dgl", "ensemble", "gblending", "iprm", "joint", "joint_unimodal", "lfm", "mla",
    "mmcosine", "mmpareto", "ogm", "pmr", "simbamm", "unimodal",
    "agm", "aug", "ensemble", "gblending", "inforeg", "iprm", "joint", "joint_unimodal", "lfm", "mla", "mmcosine",
    "mmpareto", "ogm", "pmr", "simbamm", "umt", "unimodal",
    "agm", "aug", "ensemble", "gblending", "iprm", "joint", "joint_unimodal", "lfm", "mla", "mmcosine", "mmpareto",
    "ogm", "pmr", "relearning", "simbamm", "unimodal",
]  # fmt: skip
