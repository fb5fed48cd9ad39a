"""The paired bootstrap and the test by flipped signs ÷ plain loops of the same: equal digits, or it ends with an error.

The loop of the bootstrap goes by the same draws: it adds up every drawn cluster and seed one by one. The loop of the
test goes through all flips where clusters are few; where they are many it adds cluster by cluster to the sums there
can be, since 2^10000 flips end for nobody.

    bootstrap/samples, flips/samples       every test sample is a cluster of its own
    bootstrap/speakers, flips/speakers     samples of 12 speakers

    python benchmarks/resampling.py [--quick] [--json PATH]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from common import Report, measure, parser, ratio

from mmcore.analysis.intervals import Interval, paired_bootstrap, seed_share, small_sample_factor
from mmcore.analysis.sign_flips import compare_split

BAR = 1 / 20
WITHOUT_BAR = ("bootstrap", "speakers")
"""Here the loop has little to do, since it counts draws by cluster too: half of either is drawing."""
SEEDS, SPEAKERS, RESAMPLES = 3, 12, 2000
FEW = 16
"""Clusters whose flips are all gone through."""
Answers = list[list[bool]]


def loop_bootstrap(a: Answers, b: Answers, clusters: Sequence[int]) -> Interval:
    """Returns what `paired_bootstrap` returns, element by element."""
    rng = np.random.default_rng(0)
    sums, sizes = loop_sums(a, b, clusters)
    total = sum(sizes)
    seed_means = [sum(row) / total for row in sums]
    mean = sum(seed_means) / len(sums)
    share = seed_share(np.array(sums), np.array(sizes))
    by_cluster = [(sum(row[at] for row in sums), size * len(sums)) for at, size in enumerate(sizes)]
    from_clusters = loop_means(by_cluster, rng)
    from_seeds = loop_means([(value, 1.0) for value in seed_means], rng)
    wide, narrow = small_sample_factor(len(sizes)), small_sample_factor(len(sums)) * share
    drawn = [mean + (x - mean) * wide + (y - mean) * narrow for x, y in zip(from_clusters, from_seeds, strict=True)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def loop_sums(a: Answers, b: Answers, clusters: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Returns the differences of each seed on each cluster, and the clusters' sizes."""
    places = {name: at for at, name in enumerate(sorted(set(clusters)))}
    sums, sizes = [[0] * len(places) for _ in a], [0] * len(places)
    for name in clusters:
        sizes[places[name]] += 1
    for row, mine, theirs in zip(sums, a, b, strict=True):
        for name, right, other in zip(clusters, mine, theirs, strict=True):
            row[places[name]] += right - other
    return sums, sizes


def loop_means(elements: Sequence[tuple[float, float]], rng: np.random.Generator) -> list[float]:
    """Returns the ratio of sums of each resample; draws are counted by kind, as the arrays' are."""
    kinds = sorted(set(elements))
    shares = [sum(element == kind for element in elements) / len(elements) for kind in kinds]
    means = []
    for _ in range(RESAMPLES):
        over = under = 0.0
        for (value, size), times in zip(kinds, rng.multinomial(len(elements), shares).tolist(), strict=True):
            for _ in range(times):
                over += value
                under += size
        means.append(over / under)
    return means


def loop_flips(a: Answers, b: Answers, clusters: Sequence[int]) -> float:
    """Returns the p of `compare_split`."""
    values = [sum(column) for column in zip(*loop_sums(a, b, clusters)[0], strict=True)]
    observed = abs(sum(values))
    if len(values) <= FEW:
        far = 0
        for signs in itertools.product((1, -1), repeat=len(values)):
            far += abs(sum(sign * value for sign, value in zip(signs, values, strict=True))) >= observed
        return far / 2 ** len(values)
    chances = {0: 1.0}
    for value in values:
        if value:
            further: dict[int, float] = {}
            for at, chance in chances.items():
                further[at + value] = further.get(at + value, 0.0) + chance / 2
                further[at - value] = further.get(at - value, 0.0) + chance / 2
            chances = further
    return sum(chance for at, chance in chances.items() if abs(at) >= observed)


def check(ours: Sequence[float], theirs: Sequence[float]) -> None:
    if not all(math.isclose(one, other, rel_tol=1e-8, abs_tol=1e-10) for one, other in zip(ours, theirs, strict=True)):
        raise SystemExit(f"the arrays say {list(ours)}, the loop {list(theirs)}")


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    num_samples, rounds = (300, 1) if options.quick else (10_000, 3)
    settings = f"{num_samples} samples, {SEEDS} seeds, {RESAMPLES} resamples, {rounds} rounds"
    report = Report("Resampling with arrays ÷ plain loops", settings)
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(SEEDS, num_samples)) < 0.76, rng.uniform(size=(SEEDS, num_samples)) < 0.75
    for name, clusters in (("samples", np.arange(num_samples)), ("speakers", np.arange(num_samples) % SPEAKERS)):
        lists = a.tolist(), b.tolist(), clusters.tolist()
        ours, theirs = paired_bootstrap(a, b, clusters, RESAMPLES), loop_bootstrap(*lists)
        assert ours is not None
        check([ours.mean, ours.low, ours.high], [theirs.mean, theirs.low, theirs.high])
        check([compare_split(a, b, clusters).p], [loop_flips(*lists)])
        sides = {
            "bootstrap": (paired_bootstrap, loop_bootstrap),
            "flips": (compare_split, loop_flips),
        }
        for test, (arrays, loop) in sides.items():
            both = {"arrays": partial(arrays, a, b, clusters), "loop": partial(loop, *lists)}
            bar = None if (test, name) == WITHOUT_BAR else BAR
            report.add(ratio(f"{test}/{name}", measure(both, rounds, 1), "arrays", "loop", bar))
    report.finish(options.json)


if __name__ == "__main__":
    main()
