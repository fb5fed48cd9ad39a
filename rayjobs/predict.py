"""`python -m rayjobs.predict`: a trained model on new raw samples, with the preprocessing of its own training."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click
import pyarrow as pa
import pyarrow.parquet as pq

from mmcore.storage import patiently, whole_file
from rayjobs.cli.flag_types import CPUS, Location
from rayjobs.cli.options import friendly_errors, print_json
from rayjobs.storage.addresses import fetched
from rayjobs.storage.lease import holding, lease_of_file

if TYPE_CHECKING:
    from mmcore.data.media import RawFolder
    from mmcore.data.raw.index import Entry
    from mmcore.data.raw.source import RawSource

BATCH_SIZE = 64
MIN_BATCHES = 32
"""Fewer are predicted by this process: a local Ray takes about as long to start."""


class PredictFlags(TypedDict):
    """The flags of `predict`, by click's names for them."""

    checkpoint: Path | str
    data: Path
    out: Path
    on_missing: str
    address: str | None
    cpus: int | None
    as_json: bool


@click.command()
@click.option("--checkpoint", type=Location(), required=True, help="Folder or address of a run (final-1, seed-0).")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="A table, FILE.yaml, or a raw folder.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The Parquet file to write.")
@click.option("--on-missing", type=click.Choice(["fail", "skip"]), default="fail", show_default=True,
              help="Refuse missing and damaged files, or leave their samples out.")  # fmt: skip
@click.option("--address", help="A Ray cluster: auto or HOST:PORT.  [default: this machine]")
@click.option("--cpus", type=CPUS, help="CPUs of this machine to use.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@friendly_errors
def main(**flags: Unpack[PredictFlags]) -> None:
    """Predict new samples: fused and per-modality probabilities for each."""
    from mmcore.predictor import read_state
    from rayjobs.commands.submitting import submit_instead

    if submit_instead("predict", flags["address"]):
        return
    with fetched(flags["checkpoint"]) as run_dir:
        _refuse_sum(run_dir)
        state = read_state(run_dir)
    with holding(lease_of_file(flags["out"]), flags["out"]):
        _predict(state, flags)


def _predict(state: dict[str, Any], flags: PredictFlags) -> None:
    """Predicts the samples, writes the file and prints what was done."""
    from mmcore.data.raw.index import Problem, check_faults
    from mmcore.predictor import samples_of

    source, folder, entries, problems = samples_of(state, flags["data"])
    check_faults(str(flags["data"]), problems, len(entries), flags["on_missing"])
    reports = list(_run(state, source, folder, entries, address=flags["address"], cpus=flags["cpus"]))
    problems += [Problem(**problem) for report in reports for problem in report["problems"]]
    num_rows = sum(len(report["sample_ids"]) for report in reports)
    check_faults(str(flags["data"]), problems, num_rows, flags["on_missing"])
    _write(flags["out"], reports, source.classes)
    left_out = [problem for problem in problems if problem.is_fault]
    if flags["as_json"]:
        print_json(
            {"out": str(flags["out"]), "num_rows": num_rows, "problems": [vars(problem) for problem in problems]}
        )
    else:
        click.echo(f"{flags['out']}: {num_rows} predictions, {len(left_out)} samples left out")
        for problem in left_out[:5]:
            click.echo(f"  {problem.sample_id}: {problem.kind}: {problem.reason}")


def _refuse_sum(run_dir: Path) -> None:
    """Raises a UsageError for a run that has no network of its own."""
    from mmcore.errors import UsageError
    from rayjobs.runs.result import read_result

    result = read_result(run_dir)
    if result and result.parts:
        raise UsageError(
            f"{run_dir} is a sum of networks, one for each modality ({', '.join(result.parts)}): predict with each "
            f"({run_dir.name}/{next(iter(result.parts))}), and add their logits by the weights in its result.json"
        )


def _run(
    state: dict[str, Any],
    source: RawSource,
    folder: RawFolder,
    entries: Sequence[Entry],
    *,
    address: str | None,
    cpus: int | None,
) -> Iterator[dict[str, Any]]:
    """Yields a report for each batch, in order: from this process, or by Ray Data where there are many."""
    from mmcore.predictor import Predictor

    batches = [tuple(entries[start : start + BATCH_SIZE]) for start in range(0, len(entries), BATCH_SIZE)]
    if address is None and len(batches) < MIN_BATCHES:
        yield from map(Predictor(state, source, folder), batches)
        return
    from rayjobs.cluster import session

    with session.start(address, num_cpus=cpus) as nodes:
        yield from _run_by_ray_data(state, source, folder, batches, int(sum(node.cpus for node in nodes)))


def _run_by_ray_data(
    state: dict[str, Any], source: RawSource, folder: RawFolder, batches: Sequence[tuple[Entry, ...]], num_workers: int
) -> Iterator[dict[str, Any]]:
    """Yields a report for each batch, from actors that hold the model."""
    import ray
    import ray.data

    from rayjobs.feeding.streaming import quiet_ray_data

    quiet_ray_data()  # keeps the order, too
    items = [{"batch": pickle.dumps(batch)} for batch in batches]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    arguments = (ray.put(state), source, folder)
    strategy = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, num_workers))
    worker: Any = _Worker
    mapped = dataset.map(worker, fn_constructor_args=arguments, compute=strategy, num_cpus=1)
    for row in mapped.iter_rows():
        yield json.loads(row["report"])


class _Worker:
    """A predictor in a process of its own."""

    def __init__(self, state: Any, source: RawSource, folder: RawFolder):
        import ray

        from mmcore.predictor import Predictor

        self._predict = Predictor(ray.get(state), source, folder)

    def __call__(self, row: dict[str, bytes]) -> dict[str, Any]:
        return {"report": json.dumps(self._predict(pickle.loads(row["batch"])))}  # noqa: S301 (made by this command)


def _write(path: Path, reports: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    """Writes the predictions, whole or not at all: id, class, its probability, and each head's probabilities."""
    heads = next(report["probabilities"] for report in reports if report["sample_ids"])
    columns: dict[str, Any] = {"sample_id": [name for report in reports for name in report["sample_ids"]]}
    by_head = {head: [row for r in reports for row in r["probabilities"].get(head, [])] for head in heads}
    fused = by_head["fused"]
    columns["prediction"] = [classes[max(range(len(row)), key=row.__getitem__)] for row in fused]
    columns["probability"] = pa.array([max(row) for row in fused], pa.float32())
    columns |= {
        f"probabilities_{head}": pa.array(rows, pa.list_(pa.float32(), len(classes))) for head, rows in by_head.items()
    }
    table = pa.table(columns).replace_schema_metadata({"classes": json.dumps(list(classes))})
    path.parent.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        with whole_file(path) as temporary:
            pq.write_table(table, temporary)

    patiently(write, path)


if __name__ == "__main__":
    # The module's own name, so that the workers' class does not live in `__main__`.
    from rayjobs.predict import main as command

    command()
