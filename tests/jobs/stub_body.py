"""A stand-in for the worker's body: no training, but the same files, resumes and faults. Faults are told by STUB_PLAN.

STUB_PLAN is JSON: name of a run, with its folder or its two folders -> {"fatal": message}, or one of these, done once:
{"kill_at": epoch}, {"hold_at": epoch} (until the file `held` is there), {"hang_at": epoch} (for ever; all ranks, or the
one in "hang_rank").
STUB_EPOCH_S is the length of an epoch, STUB_WAITS_S (JSON) what failing storage is waited for, instead of four minutes,
STUB_SHARES (JSON) method -> share of test that it answers rightly.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from ray import train

from mmcore import storage
from mmcore.errors import TrainingError
from mmcore.storage import append_whole, patiently, write_whole
from mmcore.training.heartbeat import heartbeat_file

NUM_TEST, NUM_CLASSES = 60, 3


if "STUB_WAITS_S" in os.environ:  # of the driver, too, which imports this
    storage.WAITS_S = tuple(json.loads(os.environ["STUB_WAITS_S"]))


def body(job: Any, reporter: Any) -> dict[str, Any]:
    run_dir = Path(job.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    plans = json.loads(os.environ.get("STUB_PLAN", "{}"))
    plan = plans.get("/".join(run_dir.parts[-2:])) or plans.get("/".join(run_dir.parts[-3:])) or {}
    if "fatal" in plan:
        raise TrainingError(plan["fatal"])
    max_epochs = job.config["trainer"]["max_epochs"]
    state = run_dir / f"stub-epoch{rank_suffix()}"
    first = int(state.read_text()) + 1 if state.exists() else 1
    append_whole(run_dir / "starts", f"{os.getpid()} {first}\n".encode())
    row: dict[str, float] = {}
    for epoch in range(first, max_epochs + 1):
        time.sleep(float(os.environ.get("STUB_EPOCH_S", "0.01")))
        if plan.get("kill_at") == epoch and not rank_suffix() and once(run_dir / "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        while plan.get("hold_at") == epoch and not (run_dir / "held").exists():
            time.sleep(0.05)
        if plan.get("hang_at") == epoch and plan.get("hang_rank", "") in {"", rank_suffix()}:
            hang(run_dir / f"hung{rank_suffix()}")
        patiently(heartbeat_file(run_dir, int(rank_suffix()[1:] or 0)).touch)
        row = {"epoch": epoch, "val/fused/accuracy": accuracy(job.config, epoch), "val/fused/loss": 1 / epoch}
        reporter.report(row)
        write_whole(state, str(epoch).encode())
    row = row or {"epoch": max_epochs, "val/fused/accuracy": accuracy(job.config, max_epochs), "val/fused/loss": 0.0}
    if first > max_epochs:
        reporter.report(row)
    return {} if rank_suffix() else write_result(job, run_dir, row)


def rank_suffix() -> str:
    """Returns "" on rank 0 or in a process of its own, "-1" on rank 1, ..."""
    try:
        rank = train.get_context().get_world_rank()
    except (RuntimeError, DeprecationWarning):
        return ""
    return f"-{rank}" if rank else ""


def accuracy(config: dict[str, Any], epoch: int) -> float:
    """Best at a learning rate of 0.02; grows with the epochs."""
    return max(0.05, 0.9 - 0.3 * abs(math.log10(config["optimizer"]["lr"] / 0.02))) * (1 - 0.5**epoch)


def write_result(job: Any, run_dir: Path, row: dict[str, float], right: float | None = None) -> dict[str, Any]:
    """Writes what a final model writes; the share of right answers is the method's."""
    shares = {"iprm": 0.9, "aug": 0.8} | json.loads(os.environ.get("STUB_SHARES", "{}"))
    share = shares.get(job.config["method"]["name"], 0.7) if right is None else right
    fold = job.config.get("protocol", {}).get("fold", 0)
    generator = np.random.default_rng([job.config["seed"], fold] if fold else job.config["seed"])
    labels = np.arange(NUM_TEST) % NUM_CLASSES
    answers = np.where(generator.random(NUM_TEST) < share, labels, (labels + 1) % NUM_CLASSES)
    predictions = io.BytesIO()
    np.savez(
        predictions,
        sample_ids=np.array([f"s{number:03d}" for number in range(NUM_TEST)]),
        labels=labels,
        groups=np.array([f"g{number % 6}" for number in range(NUM_TEST)]),
        sources=np.array([f"s{number:03d}" for number in range(NUM_TEST)]),
        **{"logits/fused": np.eye(NUM_CLASSES)[answers]},
    )
    write_whole(run_dir / "predictions.npz", predictions.getvalue())
    measured = float((answers == labels).mean())
    test = {"epoch": row["epoch"], "fused/accuracy": measured, "image/accuracy": 0.6, "audio/probe_accuracy": 0.5}
    result = {
        "best": row,
        "last": row,
        "monitor": "val/fused/accuracy",
        "epochs": int(row["epoch"]),
        "seconds": 1.0,
        "device_seconds": 1.0,
        "test": test if getattr(job, "test", True) else None,
        "conditions": {},
        "shapley": None,
        "readings": [],
        "config": job.config,
        "config_fingerprint": "c",
        "data_fingerprint": "d",
        "protocol": "holdout (stub)",
        "selects_on_test": False,
        "variants": [],
        "workers": 1,
        "notices": [],
        **({"teachers": dict(job.teachers)} if getattr(job, "teachers", None) else {}),
    }
    write_whole(run_dir / "result.json", json.dumps(result).encode())
    return result


def hang(marker: Path) -> None:
    while once(marker) or marker.read_text() == str(os.getpid()):
        marker.write_text(str(os.getpid()))
        time.sleep(0.05)


def once(marker: Path) -> bool:
    """Tells whether this is the first call for `marker`."""
    if marker.exists():
        return False
    marker.touch()
    return True
