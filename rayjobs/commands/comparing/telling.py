"""Writes what a study has found."""

from __future__ import annotations

from pathlib import Path

from mmcore.storage import patiently
from rayjobs.storage.mirror import Mirror
from rayjobs.study.build import document_of
from rayjobs.study.document import StudyDocument
from rayjobs.study.showing.report import write_report


def write_results(folder: Path, mirror: Mirror) -> StudyDocument:
    """Writes what a study has found, and returns it."""
    document = document_of(folder)
    written = write_report(document, folder, ("csv", "latex"))
    if mirror:
        patiently(lambda: mirror.push(written))
    return document
