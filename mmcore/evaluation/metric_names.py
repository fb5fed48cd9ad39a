"""Reads the names of metrics: `val/<modality>/accuracy`, `val/<modality>/probe_accuracy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def own_accuracies(row: Mapping[str, Any], *, probes: bool = True) -> dict[str, float]:
    """Returns modality -> validation accuracy in an epoch's row, by its own head, else by its linear probe.

    Args:
        row: Metric -> value, as in `metrics.jsonl`: `val/<modality>/accuracy`, `val/<modality>/probe_accuracy`.
        probes: Whether a probe counts where a modality has no head.
    """
    found: dict[str, float] = {}
    for metric in ("probe_accuracy", "accuracy") if probes else ("accuracy",):  # what comes later counts
        for key, value in row.items():
            parts = key.split("/")
            if len(parts) == 3 and parts[0] == "val" and parts[1] != "fused" and parts[2] == metric:
                found[parts[1]] = value
    return found
