"""The wheel in an environment of its own, outside the checkout: a search with a plug-in method, and its report.

The plug-in is CONTRIBUTING's own example, packaged as that page says. The environment borrows the libraries of the one
that runs the tests, but not the checkout installed there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from contributed import blocks, write_package
from wheels import build_wheel

PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "my-package"
version = "0.1"
"""


def call(folder: Path, *command: str | Path) -> str:
    """Runs a command in `folder`; returns what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=inherited, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment that holds the wheel and the plug-in."""
    plugin = tmp_path / "plugin"
    write_package(plugin)
    (plugin / "pyproject.toml").write_text(PROJECT + blocks("toml")[0])
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    build_wheel(wheels)
    call(tmp_path, sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", wheels, plugin)
    call(tmp_path, sys.executable, "-m", "venv", "env")
    python = tmp_path / "env" / "bin" / "python"
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    call(tmp_path, python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", *wheels.glob("*.whl"))
    return python


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_an_installed_wheel_tunes_a_plug_in_method_and_reports(python: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for package in ("mmcore", "rayjobs"):
        where = call(work, python, "-c", f"import {package}; print({package}.__file__)").strip()
        assert Path(where).is_relative_to(tmp_path / "env"), "the checkout would be tested instead of the wheel"
    small = ["--trials", "1", "--max-epochs", "1", "--final-seeds", "1", "--cpus", "2"]
    tune = [python, "-m", "rayjobs.tune", "--dataset", "digits", "--method", "my_method", *small, "--name", "mine"]
    assert "method.strength" in call(work, *tune, "--dry-run")  # the space the plug-in ships
    call(work, *tune)
    (table,) = json.loads((work / "results" / "mine" / "ranking.json").read_text())["rankings"]
    assert {row["method"] for row in table["rows"]} == {"my_method", "ensemble"}
    call(work, python, "-m", "rayjobs.report", "results/mine")
    (page,) = (work / "results" / "mine").rglob("*.html")
    assert "my_method" in page.read_text()
