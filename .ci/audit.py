"""Looks up the known advisories on every package of constraints.txt.

0: none, or the advisory services cannot be reached from here, which is said; 1: there are some, each in a line;
2: the look-up itself failed. (`pip-audit` alone reports "no known vulnerabilities" where nobody answered it.)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SERVICES = ("pypi", "osv")
"""In this order; the first that knows any package is taken at its word."""
TIMEOUT_S = 80
UNREACHABLE = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "SSLError", "ProxyError", "HTTPError", "timed out")


class LookUpFailed(Exception):
    """The tool failed for another reason than an unreachable service."""


def ask(service: str) -> list[dict[str, Any]] | None:
    """Returns each package with what a service knows of it; None where the service cannot be reached."""
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip",
        "--format", "json", "--progress-spinner", "off", "--timeout", "10", "--vulnerability-service", service,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    return parse(done.stdout, done.stderr)


def parse(stdout: str, stderr: str) -> list[dict[str, Any]] | None:
    """Returns what the tool printed, as `ask` does.

    Raises:
        LookUpFailed: It printed no report, and not because of the network.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError):
        if any(sign in stderr for sign in UNREACHABLE):
            return None
        raise LookUpFailed((stderr.strip().splitlines() or ["no message"])[-1]) from None
    # A package index without advisories answers each question by "not found".
    return packages if any("vulns" in package for package in packages) else None


def verdict(packages: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Returns the exit code and what to print."""
    lines = [
        f"{package['name']} {package['version']}: {found['id']}"
        + (f", fixed in {', '.join(found['fix_versions'])}" if found.get("fix_versions") else ", no fix yet")
        for package in packages
        for found in package.get("vulns", ())
    ]
    unknown = [package["name"] for package in packages if "vulns" not in package]
    asked = f"{len(packages) - len(unknown)} packages were looked up: {len(lines)} advisories"
    if unknown:
        asked += f"; not known to the service: {', '.join(unknown)}"
    return (1 if lines else 0), [*lines, asked]


def main() -> int:
    """Asks one service after the other."""
    for service in SERVICES:
        try:
            packages = ask(service)
        except LookUpFailed as failure:
            print(f"audit: the look-up failed: {failure}")
            return 2
        if packages is not None:
            code, lines = verdict(packages)
            print("\n".join(f"audit: {line}" for line in lines))
            return code
    print("audit: NOT DONE: no advisory service can be reached from here; nothing is known of these versions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
