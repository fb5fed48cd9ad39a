"""`python -m rayjobs.prepare`: makes a prepared data set from raw files, or finds it made already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmcore.data.spec import SPLITS
from mmcore.data.store import PreparedDataset, prepare
from mmcore.data.writer import Progress as ReportProgress
from rayjobs.cli import friendly_errors, parse_overrides, print_json


@click.command()
@click.option("--dataset", required=True, help="Name of the data set, for example digits or avdigits.")
@click.option("--raw-dir", type=click.Path(path_type=Path), help="Its raw files; not needed where there are none.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the data set; repeatable.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Where it is put."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@friendly_errors
def main(dataset: str, raw_dir: Path | None, options: tuple[str, ...], data_dir: Path, as_json: bool) -> None:
    """Prepare a data set: read its raw files once, and store what training needs."""
    values = parse_overrides(options)
    with progress_bar(f"preparing {dataset}") as progress:
        prepared = prepare(dataset, values, raw_dir, data_dir, progress)
    if as_json:
        print_json(summary(prepared))
    else:
        _print_summary(prepared)


@contextmanager
def progress_bar(title: str) -> Iterator[ReportProgress]:
    """Shows a bar on standard error; yields the function that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def summary(prepared: PreparedDataset) -> dict[str, Any]:
    """Returns what was prepared as plain JSON values."""
    return {
        "directory": str(prepared.directory),
        "name": prepared.name,
        "options": prepared.options,
        "fingerprint": prepared.fingerprint,
        "num_bytes": prepared.num_bytes,
        "classes": list(prepared.spec.classes),
        "modalities": {m.name: {"shape": m.shape, "dtype": m.dtype} for m in prepared.spec.modalities},
        "splits": prepared.metadata["splits"],
        "default_protocol": prepared.default_protocol,
        "constructed": prepared.constructed,
        "skipped": prepared.metadata["skipped"],
        "card": prepared.card,
    }


def _print_summary(prepared: PreparedDataset) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    rows = ", ".join(f"{prepared.metadata['splits'][split]['num_rows']} {split}" for split in SPLITS)
    console.print(f"{prepared.directory}: {rows}; {prepared.num_bytes / 2**20:.0f} MiB in memory")
    for modality in prepared.spec.modalities:
        console.print(f"  {modality.name}: {modality.kind}, {modality.dtype} {modality.shape}")
    skipped = prepared.metadata["skipped"]
    if skipped:
        first = f"{skipped[0]['sample_id']}: {skipped[0]['reason']}"
        console.print(f"  left out or cropped: {len(skipped)} (first {first}); all in dataset.json")
    console.print(f"  default protocol: {prepared.default_protocol}")
    console.print(prepared.card)


if __name__ == "__main__":
    main()
