"""`python -m rayjobs.submit`: runs a command on a cluster as a Ray job, follows its log, or looks after it.

    python -m rayjobs.submit --address http://HEAD:8265 -- tune --dataset sarcasm --output /shared/results ...

The job continues without the client. `tune --address http://...` does the same.
"""

from __future__ import annotations

from typing import Unpack

import click

from mmcore.errors import UsageError
from rayjobs.cli.options import friendly_errors
from rayjobs.commands.submitting import (
    SubmitFlags,
    ask_head,
    connect,
    described_job,
    follow_job,
    print_jobs,
    stop_job,
    submit,
)


@click.command()
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--address", required=True, metavar="URL", help="The cluster's job server, http://HEAD:8265.")
@click.option("--python", metavar="PATH", help="The cluster's Python.  [default: python; on this machine: this one]")
@click.option("--detach", is_flag=True, help="Do not follow the job's log.")
@click.option("--logs", metavar="JOB", help="Follow the log of a job submitted before.")
@click.option("--status", metavar="JOB", help="Print a job's status.")
@click.option("--stop", metavar="JOB", help="End a job; what it finished is kept.")
@click.option("--list", "wants_list", is_flag=True, help="List the jobs of the cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
@friendly_errors
def main(**flags: Unpack[SubmitFlags]) -> None:
    """Submit a command (after --) to a cluster as a job: prepare, train, tune, compare, predict or report."""
    asked = [flags["command"], flags["logs"], flags["status"], flags["stop"], flags["wants_list"]]
    if sum(map(bool, asked)) != 1:
        raise UsageError("give either a command after --, or one of --logs, --status, --stop, --list")
    if flags["command"]:
        verb, *arguments = flags["command"]
        submit(
            flags["address"], verb, arguments, python=flags["python"], detach=flags["detach"], as_json=flags["as_json"]
        )
        return
    with connect(flags["address"]) as client:
        if flags["logs"]:
            follow_job(client, flags["logs"], flags["address"])
        elif flags["stop"]:
            stop_job(client, flags["stop"])
        else:
            jobs = [ask_head(client.get_job_info, flags["status"])] if flags["status"] else client.list_jobs()
            print_jobs([described_job(job) for job in jobs], as_json=flags["as_json"])


if __name__ == "__main__":
    main()
