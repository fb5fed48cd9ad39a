"""Looks whether the newest Ray still has what `rayjobs.ray_internals` uses, and passes the quick tests of a search.

Never fails: a new Ray is not this project's fault, but it should be known before the pinned one is raised. The last
line says what was found. Ray alone is installed anew, beside the tested versions of everything else.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = [
    "tests/jobs/test_ray_internals.py",
    "tests/jobs/search/test_population.py",
    "tests/jobs/commands/test_tune_faults.py",
    "tests/jobs/trials/test_group_reports.py",
    "tests/jobs/trials/test_group_room.py",
]
INSTALL_S = 180
TESTS_S = 100
UNREACHABLE = (
    "Connection",
    "Could not find a version",
    "No matching distribution",
    "timed out",
    "ProxyError",
    "SSLError",
)


class NotDone(Exception):
    """Nothing was looked at, for the reason that is its text."""


def install(folder: Path) -> Path:
    """Installs the newest Ray into a new environment, which takes all else from this one; returns its Python.

    Raises:
        NotDone: It cannot be had.
    """
    python = folder / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=INSTALL_S)
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", "ray"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        raise NotDone(f"Ray could not be installed ({type(error).__name__})") from None
    if done.returncode:
        raise NotDone(reason(done.stderr))
    own = next((folder / "lib").glob("python*/site-packages"))
    (own / "tested.pth").write_text(sysconfig.get_path("purelib") + "\n")  # looked through after its own
    return python


def reason(stderr: str) -> str:
    """Returns why pip installed nothing."""
    if any(sign in stderr for sign in UNREACHABLE):
        return "the package registry cannot be reached from here"
    return f"Ray could not be installed ({(stderr.strip().splitlines() or ['no message'])[-1]})"


def version_in(python: Path) -> str:
    """Returns which Ray an environment has."""
    code = "import importlib.metadata as found; print(found.version('ray'))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def run_tests(python: Path) -> tuple[int, str]:
    """Runs the tests with an environment's Ray; returns pytest's exit code (-1: too slow) and what it printed."""
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--tb=line", *TESTS]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": f"{python.parent}:/usr/bin:/bin"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TESTS_S)
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout + done.stderr


def verdict(tested: str, newest: str, code: int, printed: str) -> list[str]:
    """Returns what to print: each test that failed, then what was found."""
    failed = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if code == 0:
        return [f"Ray {newest} FITS: it has all that is used of Ray {tested}"]
    what = {-1: f"its tests took longer than {TESTS_S} s"}.get(code, f"{len(failed)} tests fail with it")
    if not failed and code > 0:
        failed = printed.strip().splitlines()[-5:]
    return [*failed, f"Ray {newest} DOES NOT FIT YET: {what}, none with Ray {tested}; see rayjobs/ray_internals"]


def main() -> int:
    """Says what the newest Ray is and whether it fits; 0 whatever that is."""
    with tempfile.TemporaryDirectory(prefix="equipoise-newest-ray-") as folder:
        try:
            python = install(Path(folder))
            tested, newest = version("ray"), version_in(python)
            if newest == tested:
                raise NotDone(f"there is no Ray newer than {tested}, the tested one")
            lines = verdict(tested, newest, *run_tests(python))
        except NotDone as problem:
            lines = [f"NOT DONE: {problem}"]
    print("\n".join(f"newest ray: {line}" for line in lines), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
