"""What `prepare` says: the check of raw files, and the summary of what was prepared."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from rich.console import Console

from mmcore.config.plain import Settings
from mmcore.config.sections import parse_section
from mmcore.data.media import RawFolder
from mmcore.data.prepared.raw_check import examine
from mmcore.data.prepared.store import PreparedDataset
from mmcore.data.raw.source import RawSource
from mmcore.data.spec import DATASETS, SPLITS
from mmcore.data.split_report import SplitReport, report_split
from mmcore.errors import UsageError
from rayjobs.cli.options import print_json
from rayjobs.cli.terminal import progress_bar

if TYPE_CHECKING:
    from rayjobs.preparing.raw_tasks import RayParts


class PrepareFlags(TypedDict):
    """The flags of `prepare`, by click's names for them."""

    dataset: str
    raw_dir: Path | None
    split_dir: Path | None
    vocab: Path | None
    on_missing: Literal["fail", "skip"]
    demo: bool
    encoders: tuple[str, ...]
    views: int | None
    values: tuple[str, ...]
    check: bool
    address: str | None
    cpus: int | None
    options: tuple[str, ...]
    data_dir: Path
    as_json: bool


def check_raw(dataset: str, values: Settings, raw_dir: Path | None, flags: PrepareFlags, run: RayParts) -> None:
    """Prints the doctor's report; ends with 1 if raw files are at fault, or training would be refused as it is."""
    from rayjobs.preparing.check_report import print_report

    source = DATASETS.get(dataset)(cast(Any, parse_section(DATASETS.get(dataset).Config, values, "dataset.options")))
    if not isinstance(source, RawSource):
        raise UsageError(f"--check: {dataset} has no lists to check; preparing it checks its files")
    root = raw_dir or flags["split_dir"]
    if root is None:
        raise UsageError(f"--check needs --raw-dir, or --split-dir for the lists alone. {source.raw_help}")
    if not root.is_dir():
        raise UsageError(f"{dataset}: folder {root} does not exist. {source.raw_help}")
    folder = RawFolder(root, flags["split_dir"], flags["vocab"]).absolute()
    with progress_bar(f"checking {dataset}") as progress:
        report = examine(source, folder, with_media=raw_dir is not None, run=run, progress=progress)
    if flags["as_json"]:
        print_json(report)
    else:
        print_report(report)
    refused = report["split"] and report["split"]["refused"]
    sys.exit(1 if report["num_faults"] or refused else 0)


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
        "split": split_of(prepared).to_dict(),
        "constructed": prepared.constructed,
        "encoded": prepared.encoded,
        "left_out": left_out_by_kind(prepared),
        "skipped": prepared.metadata["skipped"],
        "noted": prepared.metadata.get("noted", []),
        "card": prepared.card,
    }


def split_of(prepared: PreparedDataset) -> SplitReport:
    """Returns the split that training will use."""
    known = prepared.columns_to_fill()
    return report_split(prepared.index, prepared.rules, prepared.spec.classes, prepared.name, known)


def left_out_by_kind(prepared: PreparedDataset) -> dict[str, int]:
    """Returns how many samples were left out, by kind, the most frequent first."""
    kinds = (sample.get("kind", "by rule") for sample in prepared.metadata["skipped"])  # none in earlier versions' data
    return dict(Counter(kinds).most_common())


def noted_by_rule(prepared: PreparedDataset) -> dict[str, tuple[int, str]]:
    """Returns what was done to samples that are in -> (to how many, the first of them), the most frequent first."""
    notes = prepared.metadata.get("noted", [])  # none in what earlier versions prepared
    counts = Counter(note["rule"] for note in notes)
    first = {note["rule"]: f"{note['sample_id']}: {note['reason']}" for note in reversed(notes)}
    return {rule: (number, first[rule]) for rule, number in counts.most_common()}


def print_summary(prepared: PreparedDataset) -> None:
    """Prints what was prepared, the split of the default protocol, and what is to be known before training."""
    from rayjobs.preparing.check_report import left_out_line

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{prepared.directory}: {_rows(prepared)}; {prepared.num_bytes / 2**20:.0f} MiB in memory")
    for modality in prepared.spec.modalities:
        console.print(f"  {modality.name}: {modality.kind}, {modality.dtype} {modality.shape}")
    for name, entry in prepared.encoded.items():
        console.print(
            f"    {name} by {entry['encoder']['name']} (weights {entry['weights_sha256'][:12]}): {entry['layer']}; "
            f"pooling: {entry['pooling']}; views: {entry['views']}"
        )
    skipped = prepared.metadata["skipped"]
    if skipped:
        first = f"{skipped[0]['sample_id']}: {skipped[0]['reason']}"
        console.print(f"  {left_out_line(left_out_by_kind(prepared))}; first {first}; all in dataset.json")
    for rule, (number, first) in noted_by_rule(prepared).items():
        console.print(f"  {rule}: {number} (first {first})")
    for sentence in split_of(prepared).sentences():
        console.print(f"  {sentence}")
    console.print(prepared.card)


def _rows(prepared: PreparedDataset) -> str:
    """Returns the samples there are, by published split where there is one."""
    if not prepared.rules.published:
        return f"{prepared.num_samples} samples"
    return ", ".join(f"{prepared.metadata['splits'][split]['num_rows']} {split}" for split in SPLITS)
