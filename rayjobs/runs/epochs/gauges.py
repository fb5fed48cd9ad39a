"""Where each trial stands, as Ray's own metrics: every node serves those of its trials to Prometheus."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import ray
from ray.util.metrics import Gauge

TAGS = ("experiment", "search", "trial")
DESCRIPTIONS = {
    "epoch": "Finished epochs of a trial",
    "objective": "Validation accuracy of the epoch that would be tested",
    "samples_per_s": "Training samples of the last epoch, divided by its seconds, validation included",
    "device_seconds": "Seconds a trial's workers have spent, restarts included",
}
PREFIX = "equipoise_trial_"
"""Ray puts `ray_` before it."""


def publish(run_dir: Path, values: Mapping[str, float]) -> None:
    """Sets a trial's gauges; in a process without Ray it does nothing.

    Args:
        run_dir: The trial's folder: its name and those of the folders around it are the tags.
        values: Some of `DESCRIPTIONS`.
    """
    if not ray.is_initialized():
        return
    for name, value in values.items():
        _gauge(name).set(value, tags=tags_of(run_dir))


def tags_of(run_dir: Path) -> dict[str, str]:
    """Returns the tags of a run: `results/mine/digits-iprm/fold-2/trial-001` is of the search `digits-iprm/fold-2`."""
    parts = run_dir.parts
    start = -2 - sum(name.startswith(("fold-", "part-")) for name in parts[-3:-1])
    return dict(zip(TAGS, (parts[start - 1], "/".join(parts[start:-1]), parts[-1]), strict=True))


@functools.cache
def _gauge(name: str) -> Gauge:
    return Gauge(PREFIX + name, description=DESCRIPTIONS[name], tag_keys=TAGS)
