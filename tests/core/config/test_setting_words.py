"""Values of settings in words."""

from __future__ import annotations

import pytest

from mmcore.config.setting_words import values_in_words


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, "integer, at least 1, or null"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "mapping of names to: number"),
        ({"const": "none", "type": "string"}, "`none`"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "number, at least 0, at most 1"),
    ],
)
def test_what_a_setting_may_be_in_words(schema: dict, words: str) -> None:
    assert values_in_words(schema) == words
