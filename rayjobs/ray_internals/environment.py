"""Variables Ray reads, loggers it writes to, the places of its token.

Nothing of Ray is imported here: it reads some of them when it is imported itself.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmcore.config.texts import decoded

SESSION = {
    # A report of a worker group costs 0.03 s instead of 1 s, and a dead worker is seen in 0.2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A trial that fails before its first epoch has no metric to report beside the reason.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C is handled by `rayjobs.cluster.signals`, which can tell an interrupted search from a finished one.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # What a stream has given out is freed ten times a second, not once: a second of it may fill a small store.
    "RAY_free_objects_period_milliseconds": "100",
    # A reader that has waited for a second would be ended, and another one take seconds to start in mid-epoch.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # Tune prints nothing by itself.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Trials write to the folders of their runs, whose names may be relative.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A process that claims no GPU still sees those there are, as without Ray.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What a local or a joined Ray is run with."""
JOB = {"RAY_USAGE_STATS_ENABLED": "0"}
"""What a submitted command is run with."""
AUTO_CONNECT = "RAY_ENABLE_AUTO_CONNECT"
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"
ADDRESS = "RAY_ADDRESS"
JOB_SERVER = "RAY_API_SERVER_ADDRESS"
TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
MAX_TOKEN_BYTES = 2**16
TOKEN_FILE = Path(".ray", "auth_token")
"""Below the home folder."""
TOKEN_HELP = (
    f"the cluster asks for a token: put the one of its head (there: ray get-auth-token) into {TOKEN}, or into "
    f"the file ~/{TOKEN_FILE}"
)
LOGGERS = ("ray", "ray.tune", "ray.train", "ray.data", "hyperopt", "ray.tune.tune")
JOB_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


@contextmanager
def session() -> Iterator[None]:
    """Sets what Ray is to be run with for the time of a `with` block."""
    with _set(SESSION):
        yield


@contextmanager
def pending_trials(most: int) -> Iterator[None]:
    """Lets Tune start up to `most` trials at once for the time of a `with` block; a user's own setting stays.

    Without it Tune starts the trials of some searchers one at a time, each taking the seconds a new process needs.
    """
    with _set({PENDING: os.environ.get(PENDING, str(most))}):
        yield


@contextmanager
def typed_job_server() -> Iterator[None]:
    """Hides the job server's address of the environment, which Ray prefers to the one that was typed."""
    before = os.environ.pop(JOB_SERVER, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[JOB_SERVER] = before


def forbid_auto_connect() -> None:
    """Keeps Ray from starting by itself where it is used before `ray.init`; for good, and before Ray is imported."""
    os.environ.setdefault(AUTO_CONNECT, "0")


def stored_token() -> str:
    """Returns the token of the environment, else of its file; "" if there is none.

    Ray looks for one by itself, but only in a mode it reads when it is imported.

    Raises:
        UsageError: The file is named but not there, or holds no text.
    """
    place = token_place()
    if not place:
        return ""
    if place == TOKEN:
        return os.environ[TOKEN].strip()
    return decoded(Path(place), MAX_TOKEN_BYTES).strip()


def named_address() -> str:
    """Returns the cluster that the environment names; "" if it names none."""
    return os.environ.get(ADDRESS, "")


def token_place() -> str:
    """Returns what holds the token: the variable's name, or a file's; "" if there is none."""
    if os.environ.get(TOKEN):
        return TOKEN
    named, usual = os.environ.get(TOKEN_PATH), Path.home() / TOKEN_FILE
    return named or (str(usual) if usual.is_file() else "")


@contextmanager
def logging_at(level: int, names: tuple[str, ...] = LOGGERS) -> Iterator[None]:
    """Lets Ray's loggers tell what is at least of this level, for the time of a `with` block."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, own in zip(loggers, before, strict=True):
            logger.setLevel(own)


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
