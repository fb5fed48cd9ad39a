"""What is said of a ranking, word for word the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping

from rayjobs.reporting.ranking_table import OwnAccuracy, RankingRow, RankingTable
from rayjobs.runs.environment import Environment

CLASSES_NOTE = "Classes are of unequal size, or weighted: the report has the accuracy of each."
FIGURES = {"macro_f1": "macro-F1", "map": "mAP", "ece": "calibration error"}
"""Figures beside accuracy -> their headings, in the order they are shown in; all in percent."""
PROBE_NOTE = "* by a linear probe on its features, else by its own head"


def headline(table: RankingTable) -> str:
    """Returns what is compared: on which data set, by which measure."""
    return f"{table.dataset}: test accuracy"


def protocol_text(table: RankingTable, final_seeds: int) -> str:
    """Returns how samples were split, and what the figures are means of."""
    return f"Protocol: {table.protocol}; {table.num_test_samples} test samples, {_seeds(final_seeds, table.folds)}."


def card_text(card: str, *, constructed: bool) -> str:
    """Returns a data set's card; that of one made to show an effect says so first."""
    if not constructed or card.startswith("CONSTRUCTED"):
        return card
    return f"CONSTRUCTED to show an effect: {card}"


def table_notes(table: RankingTable) -> list[str]:
    """Returns what must be printed beside a table's intervals and searches."""
    classes = CLASSES_NOTE if table.classes else ""
    return [note for note in (table.interval_note, table.search_note, classes) if note]


def failure_lines(table: RankingTable) -> list[str]:
    """Returns a line for each row without a result, and for each trial and final model that failed."""
    rows = [
        f"{row.method} has no result: {row.failed_because}; it is not ranked by those that worked"
        for row in table.rows
        if row.failed_because
    ]
    return rows + [
        f"{row.method} {failure.trial} failed: {failure.reason}" for row in table.rows for failure in row.failures
    ]


def delta_heading(table: RankingTable, reference: str | None) -> str:
    """Returns the heading of what each method adds to the reference; "" without one."""
    with_interval = any(row.delta and row.delta.low is not None for row in table.rows)
    return f"Δ to {reference}" + (" (95 %)" if with_interval else "") if reference else ""


def test_text(row: RankingRow) -> str:
    """Returns a method's test accuracy: `99.1% ± 0.5`."""
    if row.failed_because:
        return "failed"
    text = "-" if row.accuracy is None else f"{row.accuracy:.1%}"
    return text + ("" if row.half_width is None else f" ± {100 * row.half_width:.1f}")


def trials_text(row: RankingRow) -> str:
    """Returns how many trials a method had, and how many of them failed."""
    return str(row.trials) + (f", {row.failed} failed" if row.failed else "")


def delta_text(row: RankingRow, reference: str | None) -> str:
    """Returns what a method adds to the reference, in percentage points: `+0.5 [-0.1, +1.0]`."""
    if row.method == reference:
        return "reference"
    delta = row.delta
    if not delta:
        return ""
    text = f"{100 * delta.mean:+.1f}"
    if delta.low is None or delta.high is None:
        return text
    return f"{text} [{100 * delta.low:+.1f}, {100 * delta.high:+.1f}]"


def fold_texts(table: RankingTable, row: RankingRow) -> list[str]:
    """Returns a row's test accuracy on each fold; nothing where folds are missing."""
    folds = row.folds or []
    return [f"{accuracy:.1%}" for accuracy in folds] if len(folds) == table.folds else []


def modality_names(table: RankingTable) -> list[str]:
    """Returns the modalities any method has an accuracy of."""
    return list(dict.fromkeys(name for row in table.rows for name in row.modalities))


def own_text(own: OwnAccuracy | None) -> str:
    """Returns a modality's own accuracy, marked where a probe measured it."""
    return "" if own is None else f"{own.accuracy:.1%}{'*' if own.by == 'probe' else ' '}"


def uses_probes(table: RankingTable) -> bool:
    """Tells whether any modality's own accuracy was measured by a probe."""
    return any(own.by == "probe" for row in table.rows for own in row.modalities.values())


def values_text(values: Mapping[str, object]) -> str:
    """Returns searched values for a person: `optimizer.lr 0.012, method.alpha 0.8`."""
    shown = {path: f"{value:.4g}" if isinstance(value, float) else str(value) for path, value in values.items()}
    return ", ".join(f"{path} {value}" for path, value in shown.items())


def figure_text(row: RankingRow, name: str) -> str:
    """Returns one of FIGURES in percent; "" where a row has none."""
    return f"{row.metrics[name]:.1%}" if name in row.metrics else ""


def mistakes_text(row: RankingRow) -> str:
    """Returns the most frequent mistakes: `four as nine 12.0%`."""
    return ", ".join(f"{each.label} as {each.answer} {each.share:.1%}" for each in row.mistakes)


def seeds_text(row: RankingRow) -> str:
    """Returns the test accuracy of each final model."""
    return "  ".join(f"{accuracy:.1%}" for accuracy in row.accuracies)


def environment_text(environment: Environment) -> str:
    """Returns with what and on what final models were trained, and when."""
    versions = ", ".join(f"{name} {version}" for name, version in environment.software.items())
    commit = f" (commit {environment.commit})" if environment.commit else ""
    return (
        f"Final models were trained on {environment.device} by {versions}{commit}, from {environment.begun} to "
        f"{environment.ended}."
    )


def _seeds(count: int, folds: int | None) -> str:
    if count == 0:
        return "no final models"
    seeds = f"{count} final {'seed' if count == 1 else 'seeds'}"
    return f"mean of {folds} folds with {seeds} each" if folds else f"mean of {seeds} each"
