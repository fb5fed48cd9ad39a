"""Where the tests find what lies outside their own folder."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
"""The checkout."""
SHARED = ROOT.parent / "shared"
"""Real data beside the checkout, where there is some."""
