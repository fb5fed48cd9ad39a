"""Other checkouts of this project: their processes, and what to give them so that it is their code that runs.

`git worktree add ../before COMMIT` makes one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Rounds

HERE = Path(__file__).resolve().parent
THIS = HERE.parent


def add_option(arguments: argparse.ArgumentParser) -> None:
    """Gives a benchmark `--against`; without it, both sides are this build: how much noise there is."""
    arguments.add_argument("--against", type=Path, default=THIS, metavar="FOLDER", help="another checkout")


def environment(checkout: Path) -> dict[str, str]:
    """Returns the environment in which `python -P` finds a checkout's packages, then its benchmarks, then these."""
    folders = [checkout.resolve(), checkout.resolve() / "benchmarks", HERE]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}


class Build:
    """A process that runs a script of these benchmarks, called with `--serve`, on the code of one checkout.

    Args:
        script: It calls `serve`, and imports nothing that the other checkout lacks.
        checkout: Whose code it runs.
    """

    def __init__(self, script: str | Path, checkout: Path):
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script), "--serve"], env=environment(checkout), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, question: object) -> Any:
        """Returns what the script answers.

        Raises:
            SystemExit: It ended instead.
        """
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(question), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the other process ended with exit code {self._process.wait()}; its message is above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def serve(answer: Callable[[Any], object]) -> None:
    """Answers the questions on standard input, one a line, until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def in_turns(ask: Callable[[str], tuple[float, float]], rounds: int) -> dict[str, Rounds]:
    """Asks for the seconds of "this" and "against" in turns; the order changes from round to round."""
    results = {"this": Rounds(), "against": Rounds()}
    for turn in range(rounds):
        for name in results if turn % 2 == 0 else reversed(list(results)):
            wall, cpu = ask(name)
            results[name].wall.append(wall)
            results[name].cpu.append(cpu)
    return results
