"""The README's own commands and example, run as a reader would, with a small budget."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, SHARED

README = (ROOT / "README.md").read_text()
AVDIGITS = SHARED / "data" / "avdigits"
SMALL = ["--trials", "1", "--max-epochs", "1", "--final-seeds", "1"]


def shell_commands() -> list[list[str]]:
    """Every `python -m rayjobs.…` line of the README's sh blocks, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.partition("#")[0].split() for block in blocks for line in block.splitlines()]
    return [words for words in lines if words[:2] == ["python", "-m"]]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=550
    )


def test_the_example_is_valid_python_and_names_what_exists() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    imports = "\n".join(line for line in example.splitlines() if line.startswith(("from ", "import ")))
    exec(compile(imports, "README.md", "exec"), {})
    compile(example, "README.md", "exec")


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    short = example.replace('"alpha": 0.8}', '"alpha": 0.8}, "trainer": {"max_epochs": 1}')
    assert short != example
    done = run(tmp_path, "-c", short)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.split()[-1]) <= 1


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    commands = shell_commands()
    assert len(commands) >= 5
    makefile = (ROOT / "Makefile").read_text()
    (demo,) = re.findall(r"\$\(BIN\)/python (-m rayjobs\.tune --dataset digits .*)", makefile)
    first = run(tmp_path, *demo.split(), *SMALL, "--json")
    assert first.returncode == 0, first.stderr
    ranking = json.loads(first.stdout)
    assert {row["method"] for row in ranking["rankings"][0]["rows"]} == {"joint", "iprm", "aug", "ensemble"}
    for words in commands:
        if "avdigits" in words and not AVDIGITS.is_dir():
            continue
        words = [str(AVDIGITS) if word == "RAW" else word for word in words]
        verb = words[2]
        if verb == "rayjobs.train":
            words[words.index("--seeds") + 1] = "1"
            words += ["--max-epochs", "1"]
        if verb == "rayjobs.tune":
            words += SMALL + (["--raw-dir", str(AVDIGITS)] if "avdigits" in words else [])
            words += ["--folds", "3"] if "cv" in words else []
        done = run(tmp_path, *words[1:])
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
