"""The installed package holds what the checkout holds: every package, and every file that is no Python."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest
from places import ROOT
from wheels import build_wheel

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed() -> None:
    folders = {path.parent for package in ("mmcore", "rayjobs") for path in (ROOT / package).rglob("__init__.py")}
    there = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(SETUPTOOLS["packages"]) == there | {"rayjobs.search_spaces"}


@pytest.mark.slow
def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    held = {name for name in zipfile.ZipFile(build_wheel(tmp_path)).namelist() if ".dist-info/" not in name}
    tracked = [path for package in ("mmcore", "rayjobs") for path in (ROOT / package).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in tracked if "__pycache__" not in path.parts}
    wanted |= {f"rayjobs/search_spaces/{path.name}" for path in (ROOT / "search_spaces").glob("*.yaml")}
    assert held == wanted
