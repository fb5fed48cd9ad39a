"""What is cut out of a batch's samples, chosen, mirrored or resized, by random numbers the samples bring along.

Shape legend: B samples, T frames, C channels, H and W of a picture, K views.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

AREA, ASPECT, TOP, LEFT, FLIP, START, VIEW = range(7)
"""Columns of `Batch.uniforms`. All modalities of a sample share them: views of one scene stay aligned."""


def consecutive_frames(
    x: Tensor, lengths: Tensor | None, number: int, uniforms: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Takes `number` consecutive frames of each sample (B, T, ...), T at least as many, from where START tells.

    All streams of a sample start at the same frame if they have as many. A sample with fewer valid frames (`lengths`,
    (B,)) than `number` keeps them all, and its padding.

    Returns:
        (B, number, ...), and how many of them are valid.
    """
    counts = torch.full_like(uniforms[:, START], x.shape[1], dtype=torch.int64) if lengths is None else lengths
    spare = (counts - number).clamp(min=0)
    start = (uniforms[:, START] * (spare + 1)).long().minimum(spare)
    frames = start[:, None] + torch.arange(number, device=x.device)
    taken = x[torch.arange(len(x), device=x.device)[:, None], frames]
    return taken, None if lengths is None else lengths.clamp(max=number)


def draw_views(x: Tensor, uniforms: Tensor) -> Tensor:
    """Takes one of the views behind the first, all equally likely, of each sample (B, 1 + K, ...): (B, ...)."""
    number = x.shape[1] - 1
    view = 1 + (uniforms[:, VIEW] * number).long().clamp(max=number - 1)  # a product can round up to the number
    return x[torch.arange(len(x), device=x.device), view]


def flip_some(x: Tensor, uniforms: Tensor) -> Tensor:
    """Mirrors the samples (B, ..., W) whose FLIP column is under one half."""
    mirrored = (uniforms[:, FLIP] < 0.5).reshape(-1, *[1] * (x.dim() - 1))
    return torch.where(mirrored, x.flip(-1), x)


def crop_boxes(
    uniforms: Tensor, height_to_width: float, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Draws one box per sample, as torchvision's RandomResizedCrop does but without rejecting any.

    The area is uniform in `scale`, the aspect ratio log-uniform in that part of `ratio` in which a box of this
    area lies inside the picture (the nearest ratio if there is none), the place uniform.

    Args:
        uniforms: (B, NUM_UNIFORMS) in [0, 1).
        height_to_width: H / W of the pictures.
        scale: Lowest and highest share of the area, in (0, 1].
        ratio: Lowest and highest width to height of the box, in pixels.

    Returns:
        (B, 4): top, left, height and width, as fractions of the picture's height or width.
    """
    area = scale[0] + (scale[1] - scale[0]) * uniforms[:, AREA]
    # In fractions: width * height = area and width / height = shape, so both are at most 1 for these shapes.
    low, high = ((area * 0 + limit * height_to_width).clamp(area, 1 / area).log() for limit in ratio)
    shape = (low + (high - low) * uniforms[:, ASPECT]).exp()
    height, width = (area / shape).sqrt().clamp(max=1), (area * shape).sqrt().clamp(max=1)
    return torch.stack([(1 - height) * uniforms[:, TOP], (1 - width) * uniforms[:, LEFT], height, width], dim=1)


def middle_boxes(x: Tensor, scale: float) -> Tensor:
    """Returns the boxes, (B, 4) as `crop_boxes`', of the middle `scale` of the area of pictures x (B, ...)."""
    side = math.sqrt(scale)
    place = x.new_full((len(x), 2), (1 - side) / 2)
    return torch.cat([place, torch.full_like(place, side)], dim=1)


def crop_and_resize(x: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts one box out of each sample and resizes it, bilinearly and without antialiasing.

    Args:
        x: (B, C, H, W) or (B, T, C, H, W), floating; a sample's frames share its box.
        boxes: (B, 4): top, left, height, width, as fractions.
        size: (h, w).

    Returns:
        (B, C, h, w) or (B, T, C, h, w).
    """
    top, left, height, width = boxes.unbind(dim=1)
    zero = torch.zeros_like(top)
    # affine_grid's coordinates run from -1 to 1 over the picture.
    rows = [width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1]
    theta = torch.unflatten(torch.stack(rows, dim=1), 1, (2, 3))
    planes = x.flatten(1, -3)
    grid = F.affine_grid(theta, [len(x), planes.shape[1], *size], align_corners=False)
    cut = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return torch.unflatten(cut, 1, x.shape[1:-2])


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes whole pictures as `crop_and_resize` does its boxes, so that training and evaluation look alike."""
    resized = F.interpolate(x.flatten(1, -3), size, mode="bilinear", align_corners=False)
    return torch.unflatten(resized, 1, x.shape[1:-2])
