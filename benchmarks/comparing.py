"""What a study's report costs: its document from its files, of many methods, folds, seeds and test samples.

The study is made of files as real final models leave them, with noise on the logits so that they are as large. Reading
and judging runs in a process of its own, so that its peak of memory is its own.

    python benchmarks/comparing.py [--quick] [--json PATH]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from common import Ratio, Report, parser

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from study_files import MadeData, MadeStudy, write_study

SECONDS_BAR = 20.0
BYTES_BAR = 2.0**30
REFERENCES = ("ensemble-tuned", "ensemble", "joint", "unimodal-image")


def made(methods: int, folds: int, seeds: int, samples: int) -> MadeStudy:
    """Returns a study of so many methods, references among them; each fold tests so many samples."""
    labels = [*(f"method{number:02d}" for number in range(methods - len(REFERENCES))), *REFERENCES]
    accuracies = {
        label: [0.7 + 0.002 * number + 0.01 * ((fold * 7 + number) % 5) for fold in range(folds)]
        for number, label in enumerate(labels)
    }
    fitted = dict.fromkeys(labels[: methods // 2], 0.75)
    data = MadeData(folds=folds, samples=samples, groups=1, classes=10)
    return MadeStudy(
        methods=accuracies, data=[data], seeds=seeds, seed_spread=0.003, trials=16, fitted=fitted, noise=1.0
    )


def measured(folder: str) -> dict[str, float]:
    """Builds a study's document, as a process that has done nothing else; returns seconds and bytes.

    Seconds are those of reading and of judging. Bytes are the peak of the whole process, imports included.
    """
    from rayjobs.study.build import build_document
    from rayjobs.study.results import load_study

    start, cpu_start = time.perf_counter(), time.process_time()
    results = load_study(Path(folder))
    read = time.perf_counter()
    document = build_document(results)
    end, cpu = time.perf_counter(), time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    comparisons = len(document.comparisons)
    return {"reading": read - start, "judging": end - read, "cpu": cpu, "peak": peak, "comparisons": comparisons}


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    methods, folds, seeds, samples = (6, 3, 2, 200) if options.quick else (30, 8, 3, 10_000)
    settings = f"{methods} methods, {folds} folds, {seeds} seeds, {samples} test samples a fold"
    report = Report("A study's document from its files", settings)
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        folder = write_study(Path(place) / "results" / "study", made(methods, folds, seeds, samples))
        report.part("files made", time.perf_counter() - start)
        with get_context("spawn").Pool(1) as pool:
            found = pool.apply(measured, (str(folder),))
    report.part("reading", found["reading"])
    report.part("judging", found["judging"], f"{found['comparisons']:.0f} comparisons")
    seconds = found["reading"] + found["judging"]
    took = {"document": seconds, "bar": SECONDS_BAR}
    report.add(Ratio("seconds÷bar", took, seconds / SECONDS_BAR, bar=1.0, cpu_ratio=found["cpu"] / SECONDS_BAR))
    peak = found["peak"] / BYTES_BAR
    report.add(Ratio("memory÷bar", {}, peak, bar=1.0, note=f"{found['peak'] / 2**20:.0f} MiB at its peak"))
    report.finish(options.json)


if __name__ == "__main__":
    main()
