"""Encoders: one modality's samples in, features (B, D) out. One file each; the registry is open."""

from mmcore.encoders import bert, i3d, mlp, resnet18, resnet50, small_conv
from mmcore.encoders.base import ENCODERS, Encoder, ImageEncoder, build_encoder, input_channels

__all__ = [
    "ENCODERS", "Encoder", "ImageEncoder", "bert", "build_encoder", "i3d", "input_channels", "mlp", "resnet18",
    "resnet50", "small_conv",
]  # fmt: skip
