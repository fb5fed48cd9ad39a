"""The page of the methods is what the registry and the methods' files say."""

from __future__ import annotations

import re

import pytest
from places import ROOT

from mmcore.methods import METHODS
from mmcore.methods.page import RULINGS, attributes, own_methods, page, paragraphs

PAGE = ROOT / "docs" / "methods.md"
every_method = pytest.mark.parametrize("method", own_methods())


def test_the_page_is_up_to_date() -> None:
    assert page() == PAGE.read_text(), "write it anew: python -m mmcore.methods > docs/methods.md"


@every_method
def test_a_methods_file_says_what_the_page_needs(method: str) -> None:
    said = paragraphs(METHODS.get(method))
    told = f"the docstring of mmcore/methods/{method}.py"
    assert len(re.findall(r"[.?](?: |$)", said.get("In short", ""))) == 2, (
        f"{told} has no 'In short: ' of two sentences"
    )
    assert "Paper" in said or "Source" in said, f"{told} has no 'Paper: ' and no 'Source: '"
    assert "Cost" in said, f"{told} has no 'Cost: ' of a step beside joint's"
    assert "Paper" not in said or said[RULINGS].startswith("1. "), f"{told} lists no rulings"


@every_method
def test_every_setting_is_described_with_its_values(method: str) -> None:
    config = METHODS.get(method).Config
    assert attributes(config).keys() == set(config.model_fields)
    section = page().partition(f"## `{method}`\n")[2].partition("\n## ")[0]
    for key in config.model_fields:
        assert re.search(rf"\| `{key}` \| \S.*\| `?\S.*\| \S.* \|", section), key
    for variant in METHODS.get(method).variants(("audio", "image")):
        assert f"| `{method}-{variant}` | `" in section


def test_what_is_inherited_is_described_where_it_stands() -> None:
    described = attributes(METHODS.get("mmpareto").Config)
    assert described["predict"] == attributes(METHODS.get("joint_unimodal").Config)["predict"]
    assert "factor" in described["gamma"]


def test_values_are_written_as_in_yaml() -> None:
    text = page()
    assert "| `tau` | number, at least 0 | `0.01` |" in text
    assert "| `sigma` | number, at least 1 | `1.0` |" in text
    assert "`aug-single` | `method.max_classifiers=1` |" in text
    assert "| `modality` | text | none: to be named |" in text
