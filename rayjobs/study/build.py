"""From a study's files to its document: the same bytes for the same files, whenever and wherever it is built."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rayjobs.reporting.comparison import all_folds
from rayjobs.results_layout import CELL_FILE
from rayjobs.study.document import (
    SCHEMA,
    Comparison,
    DatasetEntry,
    LockEntry,
    MethodEntry,
    OverDatasets,
    PowerEntry,
    StudyDocument,
    StudyEntry,
)
from rayjobs.study.evidence.budgets import budgets
from rayjobs.study.evidence.cells import cell_entries
from rayjobs.study.evidence.checklist import checklist
from rayjobs.study.evidence.hardware import environment_of, hardware
from rayjobs.study.evidence.ledger import ledger_entry
from rayjobs.study.evidence.noise import best_of
from rayjobs.study.evidence.over_datasets import over_datasets
from rayjobs.study.judging.blocks import POINTS, Blocks, blocks_of, counted, family_name, fit_label, terms_now
from rayjobs.study.judging.comparisons import OF_THESE_DATA, comparisons_of
from rayjobs.study.judging.power import power_of
from rayjobs.study.judging.scores import ordered_labels, reference_labels, scores_of
from rayjobs.study.judging.sentences import sentence_of, sentence_over
from rayjobs.study.results import StudyResults, load_study

EQUAL_TRIALS = "Equal trials are not equal compute: compare epochs and device-seconds too."
OUTPUT_FLAG = "--output"


def document_of(folder: Path) -> StudyDocument:
    """Returns what the study in a folder has found so far.

    Raises:
        UsageError: The folder holds no study.
        ConfigError: Its `study.yaml` breaks a rule.
        DataError: A file is damaged, or cells of different data or splits stand under one name.
    """
    return build_document(load_study(folder))


def build_document(results: StudyResults) -> StudyDocument:
    """Returns all that a study says, a function of its files alone.

    Raises:
        DataError: As `document_of`.
    """
    everything = blocks_of(results)
    comparisons, scores, cells = comparisons_of(results), scores_of(results), cell_entries(results)
    power = [power_of(blocks, comparisons) for blocks in everything]
    over, ledger = over_datasets(results, scores, comparisons), ledger_entry(results)
    chosen = [best_of(results, blocks.dataset) for blocks in everything if blocks.folds]
    return StudyDocument(
        schema=SCHEMA,
        sentences=_sentences(results, everything, comparisons, power, over),
        study=_study(results, everything),
        lock=_lock(results),
        software=_software(results),
        hardware=hardware(results.cells),
        datasets=[_dataset(blocks) for blocks in everything],
        methods=_methods(results, everything),
        scores=scores,
        cells=cells,
        comparisons=comparisons,
        over_datasets=over,
        best_of=[each for each in chosen if each is not None],
        budgets=[entry for dataset in results.datasets for entry in budgets(results, dataset)],
        power=power,
        checklist=checklist(results, cells=cells, comparisons=comparisons, power=power, ledger=ledger),
        ledger=ledger,
        commands=_commands(results),
        notes=_notes(results, everything),
    )


def _sentences(
    results: StudyResults,
    everything: Sequence[Blocks],
    comparisons: Sequence[Comparison],
    power: Sequence[PowerEntry],
    over: OverDatasets | None,
) -> list[str]:
    terms = terms_now(results)
    own = [sentence_of(blocks, comparisons, entry) for blocks, entry in zip(everything, power, strict=True)]
    return [*own, *sentence_over(over, terms.reference, terms.alpha)]


def _study(results: StudyResults, everything: Sequence[Blocks]) -> StudyEntry:
    return StudyEntry(
        name=results.folder.name,
        command=results.study.command,
        created=results.study.created,
        cells=len(results.cells),
        done=sum(each.status != "open" for each in results.cells),
        blocks={blocks.dataset: blocks.folds for blocks in everything},
    )


def _lock(results: StudyResults) -> LockEntry:
    """Returns the terms in force; what they were before is in the changes."""
    terms, lock = terms_now(results), results.lock
    trials = set(terms.trials.values())
    return LockEntry(
        when=lock.when if lock else "",
        metric=terms.metric,
        reference=terms.reference,
        margins=terms.margins,
        alpha=terms.alpha,
        families={family_name(terms, reference): labels for reference, labels in terms.families.items()},
        folds=terms.folds,
        seeds=terms.seeds,
        trials=trials.pop() if len(trials) == 1 else None,
        changes=lock.changes if lock else [],
    )


def _software(results: StudyResults) -> dict[str, str]:
    """Returns package -> version of all finished cells; of several all that occurred, joined by commas."""
    known: dict[str, set[str]] = {}
    for each in results.cells:
        for name, version in each.cell.software.items():
            known.setdefault(name, set()).add(version)
    software = {name: ", ".join(sorted(versions)) for name, versions in known.items()}
    environment = environment_of(*results.cells)
    if environment:
        software |= environment.software
        software |= {"commit": environment.commit} if environment.commit else {}
    return dict(sorted(software.items()))


def _dataset(blocks: Blocks) -> DatasetEntry:
    cells = blocks.cells
    first, complete = cells[0], [cell for cell in cells if (cell.fold or 0) in blocks.folds]
    return DatasetEntry(
        name=blocks.dataset,
        unit=first.unit,
        fingerprint=first.fingerprint,
        protocol=first.protocol if first.fold is None else all_folds(first.protocol),
        folds=blocks.planned,
        cross_validated=first.fold is not None,
        groups=sum(cell.test_groups for cell in cells) if first.by_group else None,
        n=sum(cell.num_test for cell in complete),
        num_train=[cell.num_train for cell in complete],
        chance=POINTS * float(np.mean([cell.chance for cell in cells])),
        rho=blocks.rho,
        constructed=first.constructed,
        card=first.card,
    )


def _methods(results: StudyResults, everything: Sequence[Blocks]) -> list[MethodEntry]:
    methods = [_method(results, everything, label) for label in ordered_labels(results)]
    fitted = [each for each in methods if any(blocks.fits(each.label) for blocks in everything)]
    return [*methods, *(replace(each, label=fit_label(each.label), role="fit") for each in fitted)]


def _method(results: StudyResults, everything: Sequence[Blocks], label: str) -> MethodEntry:
    cells = [each.cell for each in results.cells if each.cell.label == label]
    reasons = {blocks.dataset: blocks.reason(label) for blocks in everything if label in blocks.labels}
    return MethodEntry(
        label=label,
        version=max(cell.version for cell in cells),
        role="reference" if label in reference_labels(results) else "method",
        space={path: words for cell in cells for path, words in cell.space.items()},
        failed={dataset: reason for dataset, reason in reasons.items() if reason},
    )


def _commands(results: StudyResults) -> dict[str, str]:
    output = _output_of(results.study.command)
    ending = f" {OUTPUT_FLAG} {shlex.quote(output)}" if output else ""
    verb, name = "python -m rayjobs.compare", shlex.quote(results.folder.name)
    return {
        results.study.command: "begins it",
        f"{verb} run {name}{ending}": "trains what is missing; also after an interruption",
        f"{verb} report {name} --tables latex,csv{ending}": "makes this report again, from the files alone",
        f"{verb} add {name} --method METHOD{ending}": "compares one more method; only its own cells are trained",
    }


def _output_of(command: str) -> str:
    """Returns the value of `--output PLACE` or `--output=PLACE` in a command line; "" where there is none."""
    try:
        given = shlex.split(command)
    except ValueError:  # study.yaml was edited by hand, and a quotation mark has no other
        given = command.split()
    for at, word in enumerate(given):
        if word.startswith(f"{OUTPUT_FLAG}="):
            return word.partition("=")[2]
        if word == OUTPUT_FLAG:
            return "".join(given[at + 1 : at + 2])
    return ""


def _notes(results: StudyResults, everything: Sequence[Blocks]) -> list[str]:
    waiting = sum(each.status == "open" for each in results.cells)
    notes = [EQUAL_TRIALS]
    notes += [f"{what}: it counts as none until run has made it again." for what in results.damage]
    for dataset in results.datasets:
        notes += [
            f"On {dataset}, fold {fold}, {', '.join(labels)} has no {CELL_FILE}: run makes it again."
            for fold, labels in results.gaps(dataset).items()
        ]
    if waiting:
        notes.append(f"{waiting} of {counted(len(results.cells), 'cell')} are not finished: run goes on with them.")
    notes += [
        f"On {blocks.dataset} all is said of one split: {OF_THESE_DATA}." for blocks in everything if blocks.is_split
    ]
    for each in results.cells:
        notes += [f"{each.cell.row_name}: final-{number} failed: {why}." for number, why in each.failures.items()]
        notes += [f"{each.cell.row_name}: {what}; it alone is run again." for what in each.damage]
    return notes
