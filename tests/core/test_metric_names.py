"""Names of metrics: what is built is taken apart again, and nothing else writes one."""

from __future__ import annotations

import re

import pytest
from places import ROOT

from mmcore import metric_names
from mmcore.metric_names import own_accuracies, own_metrics

PARTS = ("val/", "/accuracy", "/probe_accuracy", "/gradient_norm", "/cosine", "time/", "/class_", "/added_", '/loss"')


def test_a_head_counts_before_a_probe_and_the_fused_prediction_is_no_modality() -> None:
    test = {"fused/accuracy": 0.9, "a/accuracy": 0.8, "a/probe_accuracy": 0.7, "b/probe_accuracy": 0.6, "b/ece": 0.1}
    assert own_metrics(test) == {"a": "a/accuracy", "b": "b/probe_accuracy"}
    assert own_metrics(test, probes=False) == {"a": "a/accuracy"}
    assert own_metrics({"a/class_0/accuracy": 1.0}) == {}, "one class is not the modality"


def test_of_an_epochs_row_validation_counts() -> None:
    row = {"val/fused/accuracy": 0.9, "val/b/accuracy": 0.5, "val/a/probe_accuracy": 0.7, "train/a/accuracy": 0.1}
    assert own_accuracies(row) == {"b": 0.5, "a": 0.7}
    assert own_accuracies(row, probes=False) == {"b": 0.5}


def test_additions_come_in_the_order_they_were_made() -> None:
    row = [metric_names.moved("head/a", number) for number in (10, 2, 1)] + [metric_names.moved("head/b", 1)]
    assert metric_names.additions(row, "a") == [metric_names.moved("head/a", number) for number in (1, 2, 10)]


@pytest.mark.parametrize("package", ["mmcore", "rayjobs"])
def test_no_other_module_spells_a_name(package: str) -> None:
    spelt = re.compile(r'"[^"\s]*"')
    found = [
        (path.relative_to(ROOT).as_posix(), text)
        for path in (ROOT / package).rglob("*.py")
        if path.name != "metric_names.py"
        for text in spelt.findall(path.read_text())
        if any(part in text for part in PARTS)
    ]
    assert found == []
