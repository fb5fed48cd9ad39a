"""How long a trial may be silent; apart from the watchdog, since a dry run reads them without Ray Tune."""

from __future__ import annotations

DEFAULT_LIMIT_S = 600.0
START_LIMIT_S = 600.0
"""Shortest limit for the first batch: processes start, libraries are loaded, a stream begins."""
