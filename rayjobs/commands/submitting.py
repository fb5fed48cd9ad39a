"""Submits a command to a cluster as a job, and follows it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypedDict, TypeVar
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from mmcore.config.plain import Plain
from mmcore.errors import EquipoiseError, UsageError
from rayjobs.cli.options import print_json
from rayjobs.cluster.joining import find
from rayjobs.ray_internals import environment
from rayjobs.ray_internals.errors import has_no_agent_yet, is_unknown_job, without_log

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

T = TypeVar("T")
POLL_S = 0.5
READY_S = 60.0


class SubmitFlags(TypedDict):
    """The flags of `submit`, by click's names for them."""

    command: tuple[str, ...]
    address: str
    python: str | None
    detach: bool
    logs: str | None
    status: str | None
    stop: str | None
    wants_list: bool
    as_json: bool


class JobFailed(EquipoiseError):
    """The job ended with an error of its own, which its log tells."""


def submit_instead(verb: str, address: str | None) -> bool:
    """Submits the command being run, where its `--address` is a job server's; returns whether it did.

    Raises:
        UsageError: The address is another one, and cannot be joined: said before anything else is done.
    """
    if address is None:
        return False
    if not address.startswith(("http://", "https://")):
        find(address)
        return False
    submit(address, verb, _without_address(sys.argv[1:]))
    return True


def submit(
    address: str,
    verb: str,
    arguments: Sequence[str],
    *,
    python: str | None = None,
    detach: bool = False,
    as_json: bool = False,
) -> None:
    """Submits a command and follows it.

    Args:
        address: URL of the job server.
        verb: `tune`, ...
        arguments: Its own.
        python: The interpreter on the cluster; None: `python`, on this machine the one that runs now.
        detach: Return when it is submitted.
        as_json: Print the job's name as JSON, and return.

    Raises:
        UsageError: The command is refused, or the job server cannot be reached.
        JobFailed: It ended with an error, or was stopped.
    """
    from rayjobs.commands.job_bundle import check_command

    check_command(verb, arguments)
    with connect(address) as client:
        job = _submit_with(client, address, verb, arguments, python)
        if as_json:
            print_json({"job": job})
            return
        click.echo(f"job {job} is submitted; it continues without this terminal", err=True)
        if detach:
            click.echo(_care(address, job), err=True)
        else:
            follow_job(client, job, address)


def _submit_with(
    client: JobSubmissionClient, address: str, verb: str, arguments: Sequence[str], python: str | None
) -> str:
    """Submits a command with the files it names; returns the job's name."""
    from rayjobs.commands.job_bundle import pack, takes_address

    interpreter = python or (sys.executable if _is_this_machine(address) else "python")
    with tempfile.TemporaryDirectory(prefix="equipoise-job-") as folder:
        packed = pack(Path(folder), arguments)
        joining = ["--address", "auto"] if takes_address(verb, arguments) else []
        entry = shlex.join([interpreter, "-m", f"rayjobs.{verb}", *packed, *joining])
        return _when_ready(
            lambda: client.submit_job(
                entrypoint=entry,
                runtime_env={"working_dir": folder, "env_vars": dict(environment.JOB)},
                metadata={"command": shlex.join([verb, *arguments])},
            )
        )


def _when_ready(submission: Callable[[], str]) -> str:
    """Submits as soon as the cluster takes jobs: a head that has just started answers some seconds before."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return submission()
        except RuntimeError as error:
            if not has_no_agent_yet(error):
                raise
            if time.monotonic() > deadline:
                raise UsageError(f"the cluster took no job for {READY_S:.0f} s: {_first_line(error)}") from None
        time.sleep(POLL_S)


@contextmanager
def connect(address: str) -> Iterator[JobSubmissionClient]:
    """Yields a client of a job server, having asked it once; the client is quiet for the time of the `with` block.

    Raises:
        UsageError: It cannot be reached, or wants a token there is none of.
    """
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"--address must be a job server's, http://HEAD:8265, got {address!r}")
    with environment.typed_job_server(), environment.logging_at(logging.ERROR, environment.JOB_LOGGERS):
        yield _client(address)


def _client(address: str) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address, headers=_headers())
    except AuthenticationError:
        raise UsageError(f"--address {address}: {environment.TOKEN_HELP}") from None
    except (ConnectionError, RuntimeError, OSError) as error:
        raise UsageError(f"--address {address}: no job server answers there ({_first_line(error)})") from None


def _headers() -> dict[str, str]:
    """Returns what sends the token there is."""
    token = environment.stored_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def follow_job(client: JobSubmissionClient, job: str, address: str) -> None:
    """Prints a job's log as it grows, until it ends."""
    printed = 0

    async def tail() -> None:
        nonlocal printed
        seen = 0  # a new connection sends the log from its start
        async for text in client.tail_job_logs(job):
            fresh = text[max(0, printed - seen) :]
            seen += len(text)
            printed = max(printed, seen)
            click.echo(fresh, nl=False)

    # A handler of our own: asyncio's would only cancel the awaited call, which may swallow the cancellation.
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        while not ask_head(client.get_job_status, job).is_terminal():
            try:
                asyncio.run(tail())
            except (RuntimeError, OSError) as error:
                click.echo(f"lost the log ({_first_line(error)}), asking again", err=True)
            time.sleep(POLL_S)
        asyncio.run(tail())
    except KeyboardInterrupt:
        click.echo(f"\nthe job continues.\n{_care(address, job)}", err=True)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)
    info = client.get_job_info(job)
    if str(info.status) != "SUCCEEDED":
        reason = without_log(_first_line(info.message or ""))
        raise JobFailed(f"job {job}: {str(info.status).lower()}. {reason}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def stop_job(client: JobSubmissionClient, job: str) -> None:
    """Stops a job and waits until it has ended."""
    ask_head(client.stop_job, job)
    while not (status := ask_head(client.get_job_status, job)).is_terminal():
        time.sleep(POLL_S)
    click.echo(f"job {job}: {str(status).lower()}; `tune --resume` continues an interrupted search", err=True)


def ask_head(question: Callable[[str], T], job: str) -> T:
    """Asks the head for something; its own refusal is a message."""
    try:
        return question(job)
    except RuntimeError as error:
        if is_unknown_job(error):
            raise UsageError(f"there is no job {job} on this cluster; --list shows those there are") from None
        raise


def described_job(job: JobDetails) -> dict[str, Plain]:
    """Returns a job in a line."""
    return {
        "job": job.submission_id or job.job_id,
        "status": str(job.status),
        "command": (job.metadata or {}).get("command", job.entrypoint),
        "started": job.start_time,
        "ended": job.end_time,
        "message": job.message,
    }


def print_jobs(jobs: Sequence[dict[str, Plain]], *, as_json: bool) -> None:
    """Prints the jobs of a cluster, newest first."""
    if as_json:
        print_json({"jobs": jobs})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("job", "status", "command"):
        table.add_column(title, overflow="fold")
    for job in jobs:
        table.add_row(str(job["job"]), str(job["status"]).lower(), str(job["command"]))
    Console(highlight=False, markup=False).print(table)


def _care(address: str, job: str) -> str:
    verb = f"python -m rayjobs.submit --address {address}"
    return f"its log: {verb} --logs {job}\nto end it: {verb} --stop {job}"


def _without_address(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--address" and not argument.startswith("--address="):
            kept.append(argument)
        skip = argument == "--address"
    return kept


def _is_this_machine(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first_line(error: BaseException | str) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
