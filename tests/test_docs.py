"""What the documents say of the tests holds: each test they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
NAMED = re.compile(r"`((?:core|jobs|e2e)/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_test_a_document_names_exists(document: Path) -> None:
    for file, name in NAMED.findall(document.read_text()):
        assert (TESTS / file).is_file(), file
        assert not name or re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_the_fault_table_names_its_tests() -> None:
    lines = (ROOT / "docs/operations.md").read_text().splitlines()
    start = lines.index("| what breaks | what is done | what is lost | test |") + 2
    table = lines[start : lines.index("", start)]
    assert len(table) >= 15
    assert all(NAMED.search(row.rpartition("|")[0].rpartition("|")[2]) for row in table)


@pytest.mark.parametrize("document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_every_file_a_document_links_to_exists(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert all((document.parent / target).exists() for target in targets), targets


@pytest.mark.parametrize(
    "document",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda p: p.name,
)
def test_every_source_file_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"`([\w./]+\.py)(?:::\w+)?`", document.read_text()))
    there = {path.relative_to(ROOT).as_posix() for top in ("mmcore", "rayjobs", "benchmarks", "tests")
             for path in (ROOT / top).rglob("*.py")}  # fmt: skip
    assert {name for name in named if not any(path == name or path.endswith(f"/{name}") for path in there)} == set()
