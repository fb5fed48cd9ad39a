"""K-means, and how well its clusters agree with the classes: what Diagnosing & Re-learning diagnoses by.

Shape legend: N points of D numbers, C clusters, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

RESTARTS = 10
MOST_ITERATIONS = 300


def k_means(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Returns the cluster of each point, (N,) int64, below C: the best of ten starts, each by k-means++.

    Fewer points than clusters, or equal ones, leave some clusters empty.

    Args:
        points: (N, D) float32 or float64, on the CPU, N at least 1.
        num_clusters: C, at least 1.
        generator: Draws the first centres.
    """
    best, least = torch.zeros(len(points), dtype=torch.int64), float("inf")
    for _ in range(RESTARTS):
        clusters, spread = _from_centres(points, first_centres(points, num_clusters, generator))
        if spread < least:
            best, least = clusters, spread
    return best


def first_centres(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Returns C of the points, (C, D), by k-means++: each is drawn by its squared distance to the nearest before it.

    Where no point is away from those drawn, all are equally likely.
    """
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    nearest = (points - points[chosen[0]]).square().sum(dim=1)
    for _ in range(num_clusters - 1):
        weights = nearest if nearest.any() else torch.ones_like(nearest)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(dim=1))
    return points[chosen]


def purity(clusters: Tensor, labels: Tensor) -> float:
    """Returns the share of points that belong to their cluster's most frequent class, in (0, 1]; 0 without points.

    Args:
        clusters: (N,) int64, not negative.
        labels: (N,) int64, not negative.
    """
    if not len(labels):
        return 0.0
    num_classes = int(labels.max()) + 1
    counts = torch.bincount(clusters * num_classes + labels, minlength=(int(clusters.max()) + 1) * num_classes)
    return float(counts.view(-1, num_classes).amax(dim=1).sum()) / len(labels)


def _from_centres(points: Tensor, centres: Tensor) -> tuple[Tensor, float]:
    """Returns each point's cluster once none changes any more, and the summed squared distances to the centres."""
    clusters = torch.full((len(points),), -1)
    squares = points.square().sum(dim=1)
    for _ in range(MOST_ITERATIONS):
        distances, nearest = (centres.square().sum(dim=1) - 2 * points @ centres.T).min(dim=1)
        if torch.equal(nearest, clusters):
            break
        clusters = nearest
        sums = torch.zeros_like(centres).index_add_(0, clusters, points)
        counts = torch.bincount(clusters, minlength=len(centres)).to(points.dtype)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)  # an empty cluster keeps its centre
    return clusters, float((squares + distances).sum())
