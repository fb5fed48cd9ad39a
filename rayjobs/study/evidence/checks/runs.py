"""Items 15 to 18: what failed, on what it ran, whose code it is, and who else read this test."""

from __future__ import annotations

from collections.abc import Sequence

from mmcore.methods import METHODS
from rayjobs.results_layout import FINALS_FILE, LEDGER_FILE, PREDICTIONS_FILE, RESULT_FILE, SEARCH_FILE
from rayjobs.study.document import CellEntry, LedgerEntry
from rayjobs.study.evidence.checks.finding import Finding, done, listed, name_of, together
from rayjobs.study.evidence.hardware import UNKNOWN, environment_of, hardware, one_device
from rayjobs.study.results import StudyResults

OWN_METHODS = "mmcore.methods."
"""Where this package's methods stand; those of others register from elsewhere."""
DIRTY = "-dirty"


def nothing_failed(results: StudyResults, cells: Sequence[CellEntry]) -> Finding:
    """Item 15: no cell, model or trial failed, no encoder died, no file is damaged."""
    findings = []
    failed = [f"{name_of(cell)} ({cell.reason})" for cell in results.cells if cell.status == "failed"]
    if failed:
        findings.append(Finding("fail", f"failed, and imputed where ranks are given: {listed(failed)}"))
    damaged = [text for cell in results.cells for text in cell.damage]
    models = [f"{name_of(cell)} final-{number}" for cell in results.cells for number in cell.failures]
    dead = [name_of(cell) for cell in done(results) for model in cell.finals if model.final.dead]
    trials = sum(cell.failed_trials for cell in cells)
    told = [
        f"final models failed: {listed(models)} ({FINALS_FILE})" if models else "",
        f"{trials} trials failed ({SEARCH_FILE})" if trials else "",
        f"{len(dead)} final models have a dead encoder: {listed(dead)} ({RESULT_FILE})" if dead else "",
        f"damaged, to be run again: {listed(damaged)}" if damaged else "",
    ]
    findings += [Finding("warn", text) for text in told if text]
    if done(results) and not findings:
        findings.append(Finding("pass", f"no cell, final model, encoder or trial of {len(results.cells)} cells failed"))
    return together(findings, "no cell has ended yet")


def recorded(results: StudyResults) -> Finding:
    """Item 16: one kind of device; versions, commit, seeds and command are known; predictions are kept."""
    cells = done(results)
    if not cells:
        return Finding("not applicable", "no cell has ended yet")
    findings = []
    devices = hardware(cells)
    if not one_device(cells):
        told = listed(f"{device} ({seconds:.0f} s)" for device, seconds in devices.items())
        findings.append(Finding("fail", f"device-seconds are of different devices and not compared: {told}"))
    unlike = [name_of(cell) for cell in cells if {model.result.seed for model in cell.finals}
              - {cell.cell.seeds_from + number for number in range(1, results.study.seeds + 1)}]  # fmt: skip
    if unlike:
        findings.append(Finding("fail", f"seeds of {listed(unlike)} are not those of the study ({RESULT_FILE})"))
    silent = [name_of(cell) for cell in cells if any(model.result.environment is None for model in cell.finals)]
    if silent:
        findings.append(Finding("warn", f"{RESULT_FILE} of {listed(silent)} says neither device nor versions"))
    found = environment_of(*cells)
    if found:
        several = [f"{name} {version}" for name, version in found.software.items() if ", " in version]
        several += [f"commit {found.commit}"] if ", " in found.commit else []
        if several:
            findings.append(Finding("warn", f"trained by several versions: {listed(several)}"))
        if DIRTY in found.commit:
            findings.append(Finding("warn", f"the code had changes that no commit has ({found.commit})"))
    if not findings:
        device = listed(device for device in devices if device != UNKNOWN)
        commit = f"commit {found.commit}" if found and found.commit else "an installed release"
        count = sum(len(cell.finals) for cell in cells)
        findings.append(Finding("pass", f"{device}; versions, {commit}, seeds and command are recorded "
                                f"({RESULT_FILE}); {count} {PREDICTIONS_FILE} are kept"))  # fmt: skip
    return together(findings, "")


def methods_are_tested(results: StudyResults) -> Finding:
    """Item 17: each method is one of this package, whose tests hold it to its paper's equations."""
    versions = {cell.cell.label: cell.cell.version for cell in results.cells}
    foreign = [label for label in versions if not _is_own(label.partition("-")[0])]
    if foreign:
        return Finding("warn", f"not of this package, so nothing is known of their tests: {listed(foreign)}")
    told = ", ".join(f"{label} version {number}" for label, number in versions.items() if number > 1)
    return Finding("pass", "all methods are of this package, whose tests/core/methods hold each to its equations, as "
                   f"docs/methods.md has them{f' ({told})' if told else ''}")  # fmt: skip


def _is_own(name: str) -> bool:
    return name in METHODS.names() and METHODS.get(name).__module__.startswith(OWN_METHODS)


def read_by_nobody_else(ledger: LedgerEntry) -> Finding:
    """Item 18: how often others read this test, and this study for models that were replaced."""
    if not ledger.readings:
        return Finding("not applicable", "test was not read yet")
    if ledger.elsewhere or ledger.superseded:
        text = f"{LEDGER_FILE}: {ledger.elsewhere} readings of the same data by others, {ledger.superseded} of "
        return Finding("warn", f"{text}{ledger.readings} own ones by models that were replaced; in all "
                       f"{ledger.configurations} configurations were tested on it")  # fmt: skip
    return Finding("pass", f"{LEDGER_FILE}: {ledger.readings} readings, all by this study's final models")
