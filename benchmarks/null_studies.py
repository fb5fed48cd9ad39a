"""How often a study's words are wrong and its intervals miss, where the truth is known: thousands of simulated studies.

Every study has a reference and five methods of its own kind, over six folds: fold i tests, i + 1 validates, the rest
trains. All are equal by construction, since each learns from features of its own with the same distribution; what they
answer is therefore right equally often in the long run, whichever training samples were drawn. To ask for equivalence
at a true difference of exactly δ, the methods' right answers are spoiled at random, as often as lowers them by δ.

The worlds differ in what folds share:
    scores     no learner: right answers by a level of fold, method and seed; folds are independent
    ceiling    the same at 98 %, one seed: often folds do not differ at all
    stable     the nearest of two class means: other training samples change little
    unstable   the one feature that fits the training samples best: all folds may err alike
    neighbour  the label of the nearest training sample

    python benchmarks/null_studies.py [--quick] [--studies 2000] [--json PATH]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from common import Ratio, Report, parser
from numpy.typing import NDArray

from mmcore.analysis.fold_statistics import FoldComparison, compare_folds, fold_disagreement
from mmcore.analysis.intervals import paired_bootstrap
from mmcore.analysis.racing import FIRST_LOOK, can_still_win
from mmcore.analysis.selection_noise import best_of
from mmcore.analysis.sign_flips import compare_split
from mmcore.analysis.words import ALPHA, Word, judge_folds, judge_split

METHODS, FOLDS, PER_FOLD, FEATURES = 6, 6, 40, 10
RHO = 1 / (FOLDS - 2)
MARGIN = 0.15
"""δ, so wide that the study could show equivalence, or there was nothing to be wrong about."""
EQUIVALENCE = {Word.EQUIVALENT, Word.BETTER_BY_LESS, Word.WORSE_BY_LESS}
SIGNALS = np.linspace(0.2, 0.9, FEATURES)

Answers = NDArray[np.bool_]  # (M, S, N): whether each method's model of each seed answered each sample rightly
Learner = Callable[[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]], NDArray[np.bool_]]


def scores(rng: np.random.Generator) -> Answers:
    """Right answers of three seeds, by a level that varies with fold, method in the fold, and seed."""
    level = 0.75 + rng.normal(0, 0.05, (1, 1, FOLDS)) + rng.normal(0, 0.02, (METHODS, 1, FOLDS))
    level = level + rng.normal(0, 0.02, (METHODS, 3, FOLDS))
    return rng.uniform(size=(METHODS, 3, FOLDS * PER_FOLD)) < level.repeat(PER_FOLD, axis=2)


def ceiling(rng: np.random.Generator) -> Answers:
    """Right answers of one seed that hardly ever errs."""
    return rng.uniform(size=(METHODS, 1, FOLDS * PER_FOLD)) < 0.98


def learned(learner: Learner) -> Callable[[np.random.Generator], Answers]:
    """Returns what draws a study of this learner: features of each method, groups that differ, one model a fold."""

    def draw(rng: np.random.Generator) -> Answers:
        labels = rng.integers(0, 2, FOLDS * PER_FOLD)
        groups = np.arange(FOLDS).repeat(PER_FOLD)
        x = (
            rng.normal(size=(METHODS, len(labels), FEATURES))
            + rng.normal(0, 0.3, (METHODS, FOLDS, FEATURES))[:, groups]
        )
        x += (labels[:, None] - 0.5) * SIGNALS
        answers = np.empty((METHODS, len(labels)), dtype=bool)
        for fold in range(FOLDS):
            trains = (groups != fold) & (groups != (fold + 1) % FOLDS)
            answers[:, groups == fold] = learner(x, labels, trains)[:, groups == fold]
        return answers[:, None]

    return draw


def _means(x: NDArray[np.float64], labels: NDArray[np.int64], trains: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    return [x[:, trains & (labels == label)].mean(axis=1, keepdims=True) for label in (0, 1)]


def nearest_mean(x: NDArray[np.float64], labels: NDArray[np.int64], trains: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns (M, N) right answers of the nearest class mean."""
    zero, one = _means(x, labels, trains)
    return (((x - (zero + one) / 2) * (one - zero)).sum(axis=2) > 0) == labels


def best_feature(x: NDArray[np.float64], labels: NDArray[np.int64], trains: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns (M, N) right answers of each method's best feature on the training samples, cut between the means."""
    zero, one = _means(x, labels, trains)
    right = ((x - (zero + one) / 2) * (one - zero) > 0) == labels[:, None]
    best = right[:, trains].mean(axis=1).argmax(axis=1)
    return np.take_along_axis(right, best[:, None, None], axis=2)[:, :, 0]


def nearest_sample(x: NDArray[np.float64], labels: NDArray[np.int64], trains: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns (M, N) right answers of the nearest training sample."""
    known = x[:, trains]
    distances = (known**2).sum(axis=2)[:, None] - 2 * x @ known.transpose(0, 2, 1)
    return labels[trains][distances.argmin(axis=2)] == labels


WORLDS = {
    "scores": scores,
    "ceiling": ceiling,
    "stable": learned(nearest_mean),
    "unstable": learned(best_feature),
    "neighbour": learned(nearest_sample),
}


@dataclass
class Count:
    """How often something happened, and how often it could have."""

    happened: int = 0
    of: int = 0

    def add(self, *outcomes: bool) -> None:
        self.happened += sum(map(bool, outcomes))
        self.of += len(outcomes)

    @property
    def rate(self) -> float:
        return self.happened / self.of

    @property
    def half_width(self) -> float:
        """Of the rate's 95 % interval, from its own number of studies."""
        return 1.96 * float(np.sqrt(max(self.rate, 1 / self.of) * (1 - self.rate) / self.of))


@dataclass
class Counts:
    """What is counted in a world, by name."""

    by_name: dict[str, Count] = field(default_factory=dict)

    def add(self, name: str, *outcomes: bool) -> None:
        self.by_name.setdefault(name, Count()).add(*outcomes)


def by_fold(answers: Answers) -> Iterator[Answers]:
    """Yields each fold's (M, S, N of the fold)."""
    yield from np.split(answers, FOLDS, axis=2)


def compared(answers: Answers, rho: float) -> dict[str, FoldComparison]:
    """Returns each method against the first."""
    found = {}
    for method in range(1, METHODS):
        folds = [(fold[method], fold[0]) for fold in by_fold(answers)]
        differences = [a.mean() - b.mean() for a, b in folds]
        counts = [fold_disagreement(a, b) for a, b in folds]
        found[str(method)] = compare_folds(differences, rho, MARGIN, counts)
    return found


def count_null(answers: Answers, counts: Counts) -> None:
    """Counts false words and missed truths of a study in which all are equal."""
    for test, rho in (("corrected", RHO), ("plain", 0.0)):
        comparisons = compared(answers, rho)
        words = {verdict.word for verdict in judge_folds(comparisons).values()}
        better, worse = words & {Word.BETTER, Word.BETTER_BY_LESS}, words & {Word.WORSE, Word.WORSE_BY_LESS}
        counts.add(f"{test}/better", bool(better))
        counts.add(f"{test}/better_or_worse", bool(better | worse))
        intervals = [found.tests.corrected for found in comparisons.values() if found.tests]
        counts.add(f"{test}/interval_misses", *(not one.low <= 0 <= one.high for one in intervals))


def count_at_margin(answers: Answers, counts: Counts) -> None:
    """Counts false equivalence in a study in which every method is worse by δ."""
    words = {verdict.word for verdict in judge_folds(compared(answers, RHO)).values()}
    counts.add("corrected/equivalent", bool(words & EQUIVALENCE))
    counts.add("corrected/not_worse", bool(words & (EQUIVALENCE | {Word.NOT_WORSE})))


def spoiled(answers: Answers, share: float, rng: np.random.Generator) -> Answers:
    """Returns the answers with this share of the methods' right ones made wrong, the reference's as they are."""
    result = answers.copy()
    result[1:] &= rng.uniform(size=result[1:].shape) >= share
    return result


def study_world(name: str, num_studies: int) -> tuple[Counts, float]:
    """Returns the counts of a world's studies and the mean accuracy in it."""
    rng, counts, studies = np.random.default_rng([0, *name.encode()]), Counts(), []
    for _ in range(num_studies):
        studies.append(WORLDS[name](rng))
        count_null(studies[-1], counts)
    accuracy = float(np.mean(studies))
    for answers in studies:
        count_at_margin(spoiled(answers, MARGIN / accuracy, rng), counts)
    return counts, accuracy


def study_splits(num_studies: int) -> Counts:
    """Returns the counts of single splits: twelve test clusters, three seeds, five methods of one level."""
    rng, counts = np.random.default_rng(1), Counts()
    clusters = np.arange(12).repeat(25)
    for _ in range(num_studies):
        level = 0.75 + rng.normal(0, 0.05, (1, 1, 12)) + rng.normal(0, 0.03, (METHODS, 1, 12))
        answers = rng.uniform(size=(METHODS, 3, len(clusters))) < level.repeat(25, axis=2)
        pairs = [(list(answers[method]), list(answers[0])) for method in range(1, METHODS)]
        splits = {str(method): compare_split(a, b, clusters) for method, (a, b) in enumerate(pairs)}
        words = {verdict.word for verdict in judge_split(splits).values()}
        counts.add("permutation/better", Word.BETTER in words)
        counts.add("permutation/better_or_worse", bool(words & {Word.BETTER, Word.WORSE}))
        interval = paired_bootstrap(*pairs[0], clusters, num_resamples=1000)
        counts.add("bootstrap/interval_misses", interval is not None and not interval.low <= 0 <= interval.high)
    return counts


def study_races(num_folds: int, num_studies: int) -> tuple[Count, Count]:
    """Returns how many method folds a race trains of all, and how many words it loses of those the whole study gives.

    Twenty methods at σ_d = δ: none differs from the reference in the one half of the studies; in the other half five
    are better by 3 δ, so that there are words to lose.
    """
    rng, trained, lost, rho = np.random.default_rng([3, num_folds]), Count(), Count(), 1 / (num_folds - 2)
    for study in range(num_studies):
        table = rng.normal(size=(20, num_folds))
        table[:5] += 3.0 * (study % 2)
        lasted = [folds_raced(row, rho) for row in table]
        if study % 2 == 0:
            trained.happened, trained.of = trained.happened + sum(lasted), trained.of + table.size
        verdicts = judge_folds({str(row): compare_folds(table[row], rho, 1.0) for row in range(20)})
        positive = EQUIVALENCE | {Word.BETTER}
        lost.add(*(lasted[row] < num_folds for row in range(20) if verdicts[str(row)].word in positive))
    return trained, lost


def folds_raced(differences: NDArray[np.float64], rho: float) -> int:
    """Returns after how many folds a method leaves the race, at δ = 1."""
    num_folds = len(differences)
    looks = range(FIRST_LOOK, num_folds)
    return next((seen for seen in looks if not can_still_win(differences[:seen], num_folds, rho, 1.0)), num_folds)


def best_of_all(num_studies: int) -> tuple[float, float]:
    """Returns by how many points the best of six equal methods looks too good, as observed and as corrected."""
    rng, observed, corrected = np.random.default_rng(2), [], []
    for _ in range(num_studies):
        fold_scores = np.array([fold.mean(axis=(1, 2)) for fold in by_fold(scores(rng))]).T
        found = best_of(fold_scores, np.ones(FOLDS), num_draws=500)
        assert found is not None
        observed.append(found.observed)
        corrected.append(found.corrected)
    return 100 * (float(np.mean(observed)) - 0.75), 100 * (float(np.mean(corrected)) - 0.75)


def report_rates(report: Report, world: str, counts: Counts) -> None:
    """Prints every rate against the 5 % it should keep to."""
    for name, count in counts.by_name.items():
        note = f"± {count.half_width:.3f}, {count.happened} of {count.of}"
        report.add(Ratio(name=f"{world}/{name}", seconds={}, ratio=count.rate, bar=ALPHA, note=note))


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--studies", type=int, default=2000, help="simulated studies of each world")
    arguments = options.parse_args()
    num_studies = 40 if arguments.quick else arguments.studies
    settings = f"{num_studies} studies of {METHODS - 1} methods and a reference, {FOLDS} folds of {PER_FOLD} samples"
    report = Report("Share of studies with a false word, and of intervals that miss", settings)
    for world in WORLDS:
        counts, accuracy = study_world(world, num_studies)
        report.say(f"\n{world}: accuracy {accuracy:.3f}, at δ = {MARGIN} for equivalence")
        report_rates(report, world, counts)
    report.say("\none split of 12 clusters, three seeds")
    report_rates(report, "split", study_splits(num_studies))
    report.say("\nraces of 20 methods at σ_d = δ")
    for num_folds in (6, 8):
        trained, lost = study_races(num_folds, num_studies // 4)
        note = f"{trained.happened} of {trained.of} method folds, without the reference's"
        report.add(Ratio(name=f"race/{num_folds}_folds", seconds={}, ratio=trained.rate, bar=0.75, note=note))
        note = f"{lost.happened} of {lost.of} words"
        report.add(Ratio(name=f"race/{num_folds}_folds/lost", seconds={}, ratio=lost.rate, bar=0.05, note=note))
    observed, corrected = best_of_all(num_studies)
    report.say(f"\nthe best of six equal methods looks better by {observed:+.2f} points, corrected {corrected:+.2f}")
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
