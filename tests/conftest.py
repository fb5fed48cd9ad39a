"""Makes the helpers beside this file importable, in spawned processes too; orders and tempers what is slow."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

_HERE = str(Path(__file__).parent)
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([_HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
# Two test processes share two cores, and each starts others: at one thread each they do not wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's own 15, workers starve beside other tests
# Ray would start a process for each CPU before anything asks for one; a trial's is another one.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

LONGEST_FIRST = (
    "jobs/commands/test_tune_faults.py",
    "test_benchmarks.py",
    "jobs/commands/comparing/test_study_faults.py",
    "e2e/test_readme.py",
    "jobs/trials/test_node_loss.py",
    "jobs/commands/test_submitting.py",
    "core/methods/test_workers.py",
    "jobs/test_fuzz.py",
    "e2e/test_demos.py",
    "core/methods/test_precision.py",
    "core/methods/test_conformance.py",
)
"""Files of a minute and more of slow tests: begun last, one of them would keep one of two processes waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with long slow tests first; the others keep their order, as do the tests of a file."""
    places = {Path(_HERE, name): place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
