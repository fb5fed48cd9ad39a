"""Tells one failure of Ray from another where it has no class of its own: by its text."""

from __future__ import annotations

SLOW_START = "timed out during startup"
NO_AGENT = "No available agent"
NOT_FOUND = "404"
LOG_FOLLOWS = ", last available logs"


def is_slow_start(error: BaseException) -> bool:
    """Tells whether Ray's own processes took longer to start than it gives them."""
    return SLOW_START in str(error)


def has_no_agent_yet(error: BaseException) -> bool:
    """Tells whether a head refused a job because it has just started itself."""
    return NO_AGENT in str(error)


def is_unknown_job(error: BaseException) -> bool:
    """Tells whether a head refused a question because it knows no such job."""
    return NOT_FOUND in str(error)


def without_log(message: str) -> str:
    """Returns what a job's end is said to come from, without the log that is quoted after it."""
    return message.partition(LOG_FOLLOWS)[0]
