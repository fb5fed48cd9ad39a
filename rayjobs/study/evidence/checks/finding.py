"""What a check finds, and how several findings are told as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rayjobs.study.document import CheckState
from rayjobs.study.results import CellResult, StudyResults

MOST = 4
"""Entries of a list that are named; the others are counted."""
GRAVITY: Sequence[CheckState] = ("not applicable", "pass", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """How an item stands, and what shows it."""

    state: CheckState
    evidence: str


def listed(entries: Iterable[str]) -> str:
    """Returns entries in words, the first of them by name and how many more there are; each once."""
    names = list(dict.fromkeys(entries))
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def together(findings: Iterable[Finding], otherwise: str) -> Finding:
    """Returns several findings as one: the gravest state, and the evidence of those that are in it.

    Args:
        findings: Those there are.
        otherwise: What is said where there is none, or none applies.
    """
    applying = [each for each in findings if each.state != "not applicable"]
    if not applying:
        return Finding("not applicable", otherwise)
    gravest = max((each.state for each in applying), key=GRAVITY.index)
    return Finding(gravest, "; ".join(dict.fromkeys(each.evidence for each in applying if each.state == gravest)))


def name_of(cell: CellResult) -> str:
    """Returns a cell's name for a person: `avdigits iprm fold 2`."""
    of = cell.cell
    return f"{of.dataset} {of.label}" + ("" if of.fold is None else f" fold {of.fold}")


def done(results: StudyResults) -> list[CellResult]:
    """Returns the cells that have a result."""
    return [each for each in results.cells if each.status == "done"]


def by_dataset(cells: Iterable[CellResult]) -> Mapping[str, list[CellResult]]:
    """Returns data set -> its cells."""
    found: dict[str, list[CellResult]] = {}
    for each in cells:
        found.setdefault(each.cell.dataset, []).append(each)
    return found
