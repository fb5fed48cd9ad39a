"""Encoders: one modality's samples in, features (B, D) out. One file each; the registry is open."""

from mmcore.encoders import bert, cav_mae, clip, i3d, m3ae, mlp, resnet18, resnet50, small_conv, temporal
from mmcore.encoders.base import ENCODERS, Encoder, ImageEncoder, build_encoder, input_channels

__all__ = [
    "ENCODERS", "Encoder", "ImageEncoder", "bert", "build_encoder", "cav_mae", "clip", "i3d", "input_channels", "m3ae",
    "mlp", "resnet18", "resnet50", "small_conv", "temporal",
]  # fmt: skip
