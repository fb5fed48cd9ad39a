"""CONTRIBUTING's own example of a method, read from the page: as a package, and installed in a folder."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from places import ROOT

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n"


def blocks(language: str) -> list[str]:
    """The page's blocks of code in a language, in their order."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def write_package(folder: Path) -> None:
    """Writes `my_package` of the page into a folder: its method and the method's space."""
    package = folder / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "my_method.py").write_text(blocks("python")[0])
    (package / "my_method.yaml").write_text(blocks("yaml")[0])


def install(folder: Path) -> None:
    """Puts the page's package into a folder as an installer would: whoever has it on the path has the method."""
    write_package(folder)
    write_metadata(folder, "my-package", tomllib.loads(blocks("toml")[0])["project"]["entry-points"])


def write_metadata(folder: Path, name: str, groups: dict[str, dict[str, str]]) -> None:
    """Writes what an installer leaves of a distribution: its name and its entry points by group."""
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA.format(name=name))
    lines = [line for group, points in groups.items()
             for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
