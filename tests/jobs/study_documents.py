"""Documents of studies as a finished one has them, made from drawn accuracies: no files, no training."""

from __future__ import annotations

import numpy as np

from mmcore.analysis.fold_statistics import FoldComparison, compare_folds
from mmcore.analysis.intervals import Interval, mean_interval
from mmcore.analysis.words import Verdict, judge_folds
from rayjobs.study import document as d

REFERENCE = "ensemble-tuned"
NAMES = ("iprm", "aug", "joint", "ogm", "mla", "pmr", "agm", "lfm", "mmpareto", "gblending")
CHECKS = ("pass", "warn", "fail", "not applicable")


def labels_of(count: int) -> list[str]:
    """That many methods, and the reference last."""
    names = [NAMES[number] if number < len(NAMES) else f"{NAMES[number % 10]}-variant-{number // 10}"
             for number in range(count)]  # fmt: skip
    return [*names, REFERENCE]


def make_document(
    methods: int = 3,
    datasets: tuple[str, ...] = ("avdigits",),
    folds: int = 6,
    seeds: int = 3,
    failed: str = "",
    labels: list[str] | None = None,
    over: bool = False,
    cd_bars: bool = False,
) -> d.StudyDocument:
    """A study's document.

    Args:
        methods: Beside the reference.
        datasets: Their names.
        folds: Of each; 1: one split.
        seeds: Of each cell.
        failed: Label of a method that failed on fold 1 of the first data set.
        labels: In place of made-up ones, the reference last.
        over: Whether it says something over data sets.
        cd_bars: Whether there is a critical-difference diagram in it.
    """
    names = labels or labels_of(methods)
    scores = {name: _scores(number, names, folds, seeds) for number, name in enumerate(datasets)}
    lost = {(datasets[0], failed)} if failed else set()
    comparisons = [each for name in datasets for each in _comparisons(name, scores[name], lost)]
    return d.StudyDocument(
        schema=d.SCHEMA,
        sentences=[f"On {name} no method is better than {REFERENCE} by 1 point." for name in datasets],
        study=d.StudyEntry(name="mine", command="compare new mine --dataset avdigits", created="2026-11-29T10:00:00",
                           cells=len(names) * folds * len(datasets), done=len(names) * folds * len(datasets),
                           blocks={name: list(range(folds)) for name in datasets}),
        lock=_lock(names, datasets, folds, seeds),
        software={"equipoise": "0.1.0", "torch": "2.14.0", "commit": "c2577d2"},
        hardware={"CPU": 5400.0},
        datasets=[_dataset(name, folds) for name in datasets],
        methods=[d.MethodEntry(label=label, version=1, role="reference" if label == names[-1] else "method",
                               space={"optimizer.lr": "log-uniform from 0.001 to 0.1"},
                               failed={name: "no finite loss" for name, of in lost if of == label})
                 for label in names],
        scores=[_score(name, label, scores[name][label], (name, label) in lost)
                for name in datasets for label in names],
        cells=[_cell(name, label, fold, scores[name][label], (name, label) in lost)
               for name in datasets for label in names for fold in range(folds)],
        comparisons=comparisons,
        over_datasets=_over(names, comparisons, datasets, cd_bars) if over or cd_bars else None,
        best_of=[d.BestOfEntry(dataset=name, observed=91.0, corrected=90.1, units="folds",
                               chosen={label: 1 / len(names) for label in names}) for name in datasets],
        budgets=[_budget(name, label, number, folds) for name in datasets for number, label in enumerate(names)],
        power=[d.PowerEntry(dataset=name, margin=1.0, deviation=1.2, source="finished cells", folds=folds,
                            family=len(names) - 1, smallest=2.4, with_more={"7": 2.1, "8": 1.9}, folds_needed=None,
                            note="") for name in datasets],
        checklist=[d.Check(id=number + 1, title=f"Question {number + 1}", state=CHECKS[number % 4],
                           evidence="results/mine/lock.json") for number in range(18)],
        ledger=d.LedgerEntry(readings=72, superseded=3, elsewhere=12, configurations=31),
        commands={"python -m rayjobs.compare run mine": "all of it again"},
        notes=["Equal trials are not equal compute."],
    )  # fmt: skip


def _scores(dataset: int, names: list[str], folds: int, seeds: int) -> dict[str, np.ndarray]:
    """Label -> (folds, seeds) accuracies in points."""
    generator = np.random.default_rng([dataset, folds, seeds])
    hard = generator.normal(85 - 5 * dataset, 3, (folds, 1))
    gains = np.linspace(3.0, -4.0, len(names) - 1)
    means = dict(zip(names, [*gains, 0.0], strict=True))

    def noise() -> np.ndarray:
        return generator.normal(0, 0.6, (folds, 1)) + generator.normal(0, 0.5, (folds, seeds))

    return {name: np.round(hard + gain + noise(), 2) for name, gain in means.items()}


def _lock(names: list[str], datasets: tuple[str, ...], folds: int, seeds: int) -> d.LockEntry:
    change = d.LockChange(when="2026-11-29T12:00:00", key="margin", before="1.0", after="2.0", readings=14)
    return d.LockEntry(
        when="2026-11-29T11:00:00", metric="accuracy", reference=names[-1], margins=dict.fromkeys(datasets, 1.0),
        alpha=0.05, families={"primary": names[:-1]}, folds={name: list(range(folds)) for name in datasets},
        seeds=seeds, trials=16, changes=[change],
    )  # fmt: skip


def _dataset(name: str, folds: int) -> d.DatasetEntry:
    return d.DatasetEntry(
        name=name, unit=name, fingerprint="ab" * 32, protocol=f"cv over {folds} folds by speaker",
        folds=list(range(folds)),
        cross_validated=folds > 1, groups=folds if folds > 1 else None, n=3000, num_train=[2000] * folds, chance=10.0,
        rho=0.25, constructed=False, card="Spoken and written digits.",
    )  # fmt: skip


def _score(dataset: str, label: str, values: np.ndarray, failed: bool) -> d.ScoreEntry:
    mean, half = mean_interval(values.mean(axis=1).tolist())
    return d.ScoreEntry(
        dataset=dataset, method=label, mean=None if failed else mean, half_width=None if failed else half,
        folds=[] if failed else values.mean(axis=1).tolist(), seeds=[] if failed else values.tolist(),
        metrics={} if failed else {"macro_f1": 0.8123, "ece": 0.0432, "audio": 70.5, "image": 80.25},
        status="failed" if failed else "done", reason="fold 1: no finite loss" if failed else "",
        parameters=123_456, epochs=600, device_seconds=1234.5,
    )  # fmt: skip


def _cell(dataset: str, label: str, fold: int, values: np.ndarray, lost: bool) -> d.CellEntry:
    failed = lost and fold == 1
    finals = [
        d.FinalEntry(seed=seed, metrics={"accuracy": float(value), "macro_f1": 0.8, "ece": 0.04, "audio": 70.5},
                     val=88.0, epochs=20, best_epoch=17, device_seconds=30.0, sha256="cd" * 32,
                     predictions=f"cells/{dataset}-{label}/fold-{fold}/final-{seed}/predictions.npz")
        for seed, value in enumerate(values[fold], start=1)
    ]  # fmt: skip
    return d.CellEntry(
        dataset=dataset, method=label, fold=fold, identity="ef" * 32, status="failed" if failed else "done",
        reason="no finite loss" if failed else "", folder=f"cells/{dataset}-{label}/fold-{fold}", trials=16,
        failed_trials=0, epochs=300, device_seconds=600.0,
        best=None if failed else d.BestEntry(config={"optimizer.lr": 0.0123, "method.alpha": 0.8}, val=89.5),
        at_edge=["optimizer.lr"] if fold == 0 else [],
        shrinkage=None if failed else d.ShrinkageEntry(fall=1.5, by_noise=0.9, fits_validation=True),
        finals=[] if failed else finals,
    )  # fmt: skip


def _comparisons(dataset: str, scores: dict[str, np.ndarray], lost: set[tuple[str, str]]) -> list[d.Comparison]:
    labels = list(scores)
    families = {"primary": (labels[-1], labels[:-1])}
    if len(labels) > 3:
        families[labels[2]] = (labels[2], labels[:2])
    made = []
    for family, (reference, compared) in families.items():
        tested = {label: compare_folds((scores[label] - scores[reference]).mean(axis=1), 0.25, 1.0, scale=100)
                  for label in compared if (dataset, label) not in lost}  # fmt: skip
        verdicts = judge_folds(tested, family_size=len(compared))
        made += [_comparison(dataset, label, reference, family, scores, tested.get(label), verdicts.get(label))
                 for label in compared]  # fmt: skip
    return [each for each in made if each is not None]


def _comparison(
    dataset: str, label: str, reference: str, family: str, scores: dict[str, np.ndarray],
    found: FoldComparison | None, verdict: Verdict | None,
) -> d.Comparison | None:  # fmt: skip
    if found is None or verdict is None:
        return None
    tests = found.tests
    posterior = tests.posterior if tests else None
    return d.Comparison(
        dataset=dataset, a=label, b=reference, family=family, d=found.difference,
        folds=(scores[label] - scores[reference]).mean(axis=1).tolist(), s_d=found.deviation, k=found.num_folds,
        rho=0.25,
        plain=_ends(tests.plain) if tests else None, corrected=_ends(tests.corrected) if tests else None,
        p=tests.p if tests else None, p_holm=verdict.p, p_tost=tests.p_equivalent if tests else None,
        p_tost_holm=verdict.p_equivalent, p_not_worse_holm=verdict.p_not_worse,
        bayes=(posterior.worse, posterior.within, posterior.better) if posterior else None, p_win=found.share_won,
        variance=(0.36, 0.25), narrows="fold", only_a=120.0, only_b=100.0,
        word=verdict.word.stating("1 point") if verdict.word else None, note=verdict.note,
    )  # fmt: skip


def _ends(interval: Interval) -> d.Ends:
    return interval.low, interval.high


def _budget(dataset: str, label: str, number: int, folds: int) -> d.BudgetEntry:
    generator = np.random.default_rng([number, folds])
    curves = {}
    for fold in range(folds):
        best = np.maximum.accumulate(generator.normal(84 - number / 4, 3, 16))
        seconds = np.cumsum(generator.uniform(20, 60, 16) * (1 + number / 8))
        curves[str(fold)] = [
            d.CurvePoint(trials=trial + 1, epochs=10 * (trial + 1) + number, device_seconds=float(seconds[trial]),
                         best=float(best[trial])) for trial in range(16)
        ]  # fmt: skip
    return d.BudgetEntry(
        dataset=dataset, method=label, trials=16, epochs=170 * folds, device_seconds=640.0 * folds,
        at_common_cost=86.5, curves=curves, expected_best=None,
    )  # fmt: skip


def _over(
    names: list[str], comparisons: list[d.Comparison], datasets: tuple[str, ...], cd_bars: bool
) -> d.OverDatasets:
    differences = {label: {each.dataset: each.d for each in comparisons if (each.a, each.family) == (label, "primary")}
                   for label in names[:-1]}  # fmt: skip
    by_rank = [*names[:1], names[-1], *names[1:-1]]
    return d.OverDatasets(
        units=list(datasets), left_out={"digits": "constructed"},
        friedman={"chi2": 12.3, "p_chi2": 0.01, "f": 4.5, "p": 0.004},
        ranks={label: 1.0 + number for number, label in enumerate(by_rank)},
        cd_bars=[by_rank[:2], by_rank[1:4]] if cd_bars else None,
        pairs=[d.PairOverSets(a=label, b=names[-1], differences=differences[label], bayes=(0.1, 0.2, 0.7), p=0.03125,
                              p_holm=0.09, note="") for label in names[:-1]],
        profiles={label: {"middle": 1.01, "low": 0.98, "high": 1.04} for label in names}, needed=8, note="",
    )  # fmt: skip
