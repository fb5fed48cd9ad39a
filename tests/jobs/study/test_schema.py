"""Documents of all kinds of studies are as the schema that is shipped says, and the schema is as the code says."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from places import ROOT
from study_files import MadeData, MadeStudy, write_study

from rayjobs.study import document as records
from rayjobs.study.build import build_document
from rayjobs.study.results import StudyResults, load_study
from rayjobs.study.schema import as_text

PATH = ROOT / "rayjobs" / "schemas" / "compare-1.json"


def strict(schema: Any) -> Any:
    """The schema with no key but those it names, so that a document cannot hold more than it tells of."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(each) for name, each in schema.items()}
    return {"additionalProperties": False, **closed} if isinstance(schema.get("properties"), dict) else closed


VALIDATOR = Draft202012Validator(strict(json.loads(PATH.read_text())))


def stored(results: StudyResults) -> Any:
    """What `compare.json` holds of a study: NaN is null in it."""
    return json.loads(json.dumps(build_document(results).to_dict()), parse_constant=lambda name: None)


def problems(results: StudyResults) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(stored(results))]


def test_the_schema_is_the_codes_own_and_a_schema() -> None:
    assert PATH.read_text() == as_text(), "renew it: python -m rayjobs.study.schema > rayjobs/schemas/compare-1.json"
    Draft202012Validator.check_schema(json.loads(PATH.read_text()))


def test_every_field_of_every_record_is_described() -> None:
    whole = json.loads(PATH.read_text())
    for name, schema in {**whole["$defs"], "StudyDocument": whole}.items():
        record = getattr(records, name)
        assert list(schema["properties"]) == [each.name for each in fields(record)]
        documented = [key for key, value in schema["properties"].items() if "description" in value]
        assert documented in ([], list(schema["properties"])), f"{name} describes some of its fields alone"


KINDS: dict[str, dict[str, Any]] = {
    "one split": {"data": [MadeData(folds=None)]},
    "one fold": {"folds": [1]},
    "two folds": {"folds": [0, 1]},
    "three groups": {"data": [MadeData(folds=3, groups=1)], "seeds": 3},
    "five folds": {"data": [MadeData(folds=5)]},
    "ties": {"data": [MadeData(folds=5)], "answers": lambda place, number: np.arange(100) % 4 > 0},
    "failed": {"data": [MadeData(folds=3)], "failed": {("made", "aug", 1): "loss nan"}},
    "its reference failed": {"data": [MadeData(folds=3)], "failed": {("made", "joint", 1): "loss nan"}},
    "open": {"data": [MadeData(folds=3)], "open": frozenset({("made", "aug", 2)}), "locked": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_of_any_kind(tmp_path: Path, kind: str) -> None:
    made = MadeStudy(**{"methods": {"aug": 0.8, "joint": 0.75}, "seeds": 2, **KINDS[kind]})
    assert problems(load_study(write_study(tmp_path / "results" / "study", made))) == []


def test_one_to_twelve_data_sets(tmp_path: Path) -> None:
    data = [MadeData(name=f"set{number:02d}", folds=None, samples=20 + number) for number in range(12)]
    made = MadeStudy(methods={"aug": 0.8, "joint": 0.75}, seeds=2, data=data)
    results = load_study(write_study(tmp_path / "results" / "study", made))
    for count in (1, 2, 4, 5, 6, 8, 12):  # where the statements over data sets change
        names = {each.name for each in data[:count]}
        part = replace(results, cells=[each for each in results.cells if each.cell.dataset in names])
        assert problems(part) == []


def test_what_the_schema_does_not_allow(tmp_path: Path) -> None:
    made = MadeStudy(methods={"aug": 0.8, "joint": 0.75}, seeds=2, data=[MadeData(folds=None)])
    results = load_study(write_study(tmp_path / "results" / "study", made))
    cells = list(results.cells)
    model = cells[0].finals[0]
    broken = replace(model, result=replace(model.result, test={**model.result.tested, "fused/ece": math.nan}))
    cells[0] = replace(cells[0], finals=[broken, *cells[0].finals[1:]])
    document = stored(replace(results, cells=cells))
    assert document["cells"][0]["finals"][0]["metrics"]["ece"] is None
    assert VALIDATOR.is_valid(document)
    for wrong in ({"schema": "equipoise.compare/2"}, {"more": 1}, {"sentences": "one"}, {"power": [{}]}):
        assert not VALIDATOR.is_valid({**document, **wrong})
