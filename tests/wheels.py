"""Builds the project's wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from places import ROOT

SOURCES = ("mmcore", "rayjobs", "search_spaces", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(folder: Path) -> Path:
    """Returns a wheel in `folder`, built from a copy: in the checkout, what an older build left would come in too."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("equipoise-*.whl")
    return wheel
