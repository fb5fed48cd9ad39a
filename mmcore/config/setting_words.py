"""What a setting may be, in words, for the pages made from the registries."""

from __future__ import annotations

from typing import Any


def values_in_words(schema: dict[str, Any]) -> str:
    """Returns the values a setting takes, from its JSON schema: `number, at least 0`."""
    if "anyOf" in schema:
        return ", or ".join(values_in_words(part) for part in schema["anyOf"])
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema["type"] == "object":
        return f"mapping of names to: {values_in_words(schema['additionalProperties'])}"
    low = f"at least {schema['minimum']:g}" if "minimum" in schema else ""
    high = f"at most {schema['maximum']:g}" if "maximum" in schema else ""
    if "exclusiveMaximum" in schema:
        high = f"less than {schema['exclusiveMaximum']:g}"
    kind = {"string": "text", "boolean": "true or false"}.get(schema["type"], schema["type"])
    return ", ".join(word for word in (kind, low, high) if word)
