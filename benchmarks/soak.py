"""Searches killed, ended, starved of disk and damaged at random, over and over; then what must hold is checked.

An experiment on `digits` is run once undisturbed, then over and over, each time with some disturbances drawn by a seed:
its command or a trial is killed, its process group gets SIGTERM, its disk is full for some seconds, one of its files is
truncated, and it is resumed until it ends. Its results and shared memory lie on small file systems of this script's
own, so it needs `unshare` (no rights). It ends with 1 where anything did not hold.

    python benchmarks/soak.py [--minutes 60] [--seed 0] [--quick] [--json PATH]
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from common import Ratio, Report, parser

from mmcore.data.prepared.prepare import prepare
from mmcore.errors import CheckpointError
from mmcore.storage import read_json_lines
from mmcore.training.checkpoint import CheckpointFolder
from rayjobs.results_layout import JOURNAL_FILE, LEDGER_FILE
from rayjobs.storage.files import read_json
from rayjobs.trials.watchdog import kill

ROOT = Path(__file__).resolve().parent.parent
WAYS = (["unshare", "--map-root-user", "--mount"], ["unshare", "--mount"])
INSIDE = "EQUIPOISE_SOAK_INSIDE"
DISK_BYTES, MEMORY_BYTES = 256 * 2**20, 2 * 2**30
NAME, METHODS, TRIALS, EPOCHS = "soak", ("joint", "iprm"), 3, 4
EVENTS = ("kill the command", "kill a trial", "end the group", "fill the disk")
FULL_S = (0.5, 6.0)
ENDED_S = 40.0
"""How long Ray's own processes may take to end after their command."""
FORBIDDEN = ("Traceback", "unexpected")


@dataclass
class Disk:
    """A small file system, mounted where nobody else sees it."""

    path: Path
    size: int

    def __post_init__(self) -> None:
        self.path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.path)], check=True)

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return shutil.disk_usage(self.path).used

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Takes all of its room for the time of a `with` block."""
        filler = self.path / "filler"
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 65_536):
                pass
        try:
            yield
        finally:
            filler.unlink()


@dataclass
class Tally:
    """What was done, and what did not hold."""

    events: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def check(self, what: str, holds: bool, detail: str = "") -> None:
        """Counts a check; keeps what did not hold."""
        self.checks[what] += 1
        if not holds:
            self.broken.append(f"{what}: {detail}" if detail else what)


class Command:
    """A `tune` command in a process group of its own, and every process that was seen beneath it."""

    def __init__(self, arguments: Sequence[str], folder: Path):
        self._log = (folder / "output").open("w+")
        self.seen: set[psutil.Process] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rayjobs.tune", *arguments],
            cwd=folder, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        )  # fmt: skip

    def runs_for(self, seconds: float) -> bool:
        """Waits so long, or until it ends; returns whether it still runs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                self.seen.update(psutil.Process(self.process.pid).children(recursive=True))
            time.sleep(0.1)
        return self.process.poll() is None

    def end(self, number: signal.Signals, *, group: bool = False) -> None:
        """Sends a signal, and waits for the end."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)
        self.process.wait(timeout=120)

    def left_over(self) -> list[str]:
        """Returns the processes that are still there when they have had time to end, and ends them."""
        _, alive = psutil.wait_procs(list(self.seen), timeout=ENDED_S)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return [str(process) for process in alive]

    def output(self) -> str:
        """Returns what it printed."""
        self._log.flush()
        self._log.seek(0)
        return self._log.read()


@dataclass
class Soak:
    """The experiment that is run, and where.

    Attributes:
        folder: Of this script; holds the prepared data.
        disk: Holds the results.
        memory: Holds Ray's shared memory.
        random: Draws the disturbances.
        tally: What came of it.
        reread: Run's folder -> readings of test that a kill came into, before their predictions were written.
    """

    folder: Path
    disk: Disk
    memory: Disk
    random: random.Random
    tally: Tally = field(default_factory=Tally)
    reread: Counter[str] = field(default_factory=Counter)

    @property
    def output(self) -> Path:
        """The folder of results."""
        return self.disk.path / "results"

    @property
    def experiment(self) -> Path:
        """The experiment's folder."""
        return self.output / NAME

    def arguments(self, *, resume: bool) -> list[str]:
        """Returns the arguments of the command that begins the experiment, or goes on with it."""
        places = ["--output", str(self.output), "--cpus", "2", "--concurrent", "2", "--max-failures", "1000"]
        if resume:
            return ["--resume", NAME, *places]
        methods = [part for method in METHODS for part in ("--method", method)]
        return ["--dataset", "digits", *methods, "--reference", "none", "--name", NAME, "--trials", str(TRIALS),
                "--max-epochs", str(EPOCHS), "--final-seeds", "1", "--per-search", "1",
                "--data-dir", str(self.folder / "data"), *places]  # fmt: skip

    def begin(self, *, resume: bool) -> Command:
        """Starts the command."""
        return Command(self.arguments(resume=resume), self.folder)

    def look_at_end(self, command: Command, codes: Sequence[int]) -> None:
        """Checks what a command left when it ended, whatever ended it."""
        code, printed = command.process.returncode, command.output()
        self.tally.check("exit code", code in codes, f"{code} is none of {list(codes)}: {printed[-2000:]}")
        bad = [line for line in printed.splitlines() if any(word in line for word in FORBIDDEN)]
        self.tally.check("every message is in words", not bad, "; ".join(bad[:3]))
        left = command.left_over()
        self.tally.check("no process is left over", not left, "; ".join(left))
        self.tally.check("no shared memory is left over", self.memory.used < 2**20, f"{self.memory.used} bytes")

    def run_undisturbed(self) -> float:
        """Runs the experiment once from beginning to end; returns the seconds it took."""
        start = time.monotonic()
        command = self.begin(resume=False)
        command.runs_for(3600)
        seconds = time.monotonic() - start
        self.look_at_end(command, [0])
        return seconds

    def run_disturbed(self, pace_s: float, most: int) -> float:
        """Runs it with at most `most` disturbances, each within `pace_s` of the last; returns the seconds it took."""
        start = time.monotonic()
        left = self.random.randint(1 + most // 3, most)
        finished: dict[Path, bytes] = {}
        damages = self.random.choice((self.journals, self.run_files))
        command = self.begin(resume=False)
        while True:
            if not command.runs_for(self.random.uniform(0.2, 1.0) * pace_s if left else 3600):
                self.look_at_end(command, [0])
                if command.process.returncode != 0:
                    break
                self.look_at_results(finished)
                return time.monotonic() - start
            left -= 1
            event = self.random.choice(EVENTS)
            self.tally.events[event] += 1
            if event == "fill the disk":
                with self.disk.full():
                    command.runs_for(self.random.uniform(*FULL_S))
                continue
            if event == "kill a trial":
                self.kill_a_trial()
                continue
            if event == "kill the command":
                command.end(signal.SIGKILL)
                self.look_at_end(command, [-signal.SIGKILL, 0])
            else:
                command.end(signal.SIGTERM, group=True)
                # Before its own handler is in place the signal ends it as any process, and while Ray starts Ray's
                # own does, or aborts it.
                self.look_at_end(command, [130, 0, -signal.SIGTERM, -signal.SIGABRT])
            self.note_rereadings()
            finished |= {path: path.read_bytes() for path in self.experiment.glob("*/*/result.json")}
            self.truncate(damages())
            command = self.begin(resume=(self.experiment / "experiment.json").is_file())
        return time.monotonic() - start

    # Disturbances

    def kill_a_trial(self) -> None:
        """Kills the process of a run that has not ended."""
        running = [path for path in self.experiment.glob("*/*/process-trial.json") if not _has_ended(path.parent)]
        if running:
            process = read_json(self.random.choice(sorted(running))) or {"pid": -1, "created": 0.0}
            kill(process["pid"], process["created"])
            self.note_rereadings()

    def journals(self) -> list[Path]:
        """Returns the journals of the searches that have not ended; of another one nothing reads it."""
        found = sorted(self.experiment.glob(f"*/{JOURNAL_FILE}"))
        return [path for path in found if not path.with_name("search.json").is_file()]

    def run_files(self) -> list[Path]:
        """Returns files of runs that have not ended: rows, summaries, curves, the newest checkpoint."""
        found: list[Path] = []
        for run_dir in self.experiment.glob("*/*-*/"):
            if not _has_ended(run_dir):
                found += [path for name in ("metrics.jsonl", "progress.json", "events*") for path in run_dir.glob(name)]
                found += sorted(run_dir.glob("checkpoints/epoch-*/checkpoint.pt"))[-1:]
        return sorted(found)

    def truncate(self, files: Sequence[Path]) -> None:
        """Cuts one of the files, in half of all cases."""
        if files and self.random.random() < 0.5:
            path = self.random.choice(files)
            os.truncate(path, int(path.stat().st_size * self.random.random()))
            self.tally.events[f"truncate {path.name.partition('.')[0]}"] += 1

    def note_rereadings(self) -> None:
        """Notes the final models whose reading of test is entered, and which were killed before they had a result."""
        for run_dir, number in self.readings().items():
            if number > self.reread[run_dir] and not _has_ended(Path(run_dir)):
                self.reread[run_dir] += 1

    def readings(self) -> Counter[str]:
        """Returns run's folder -> entries in the ledger."""
        return Counter(line["run_dir"] for line in read_json_lines(self.output / LEDGER_FILE)[0])

    # What must hold

    def look_at_results(self, finished: dict[Path, bytes]) -> None:
        """Compares an experiment that ended with the undisturbed one."""
        self.tally.events["experiments ended"] += 1
        for path, content in finished.items():
            same = path.is_file() and path.read_bytes() == content
            self.tally.check("a run that had ended stays as it was", same, str(path))
        readings = self.readings()
        for method in METHODS:
            search, other = self.experiment / f"digits-{method}", self.folder / "undisturbed" / f"digits-{method}"
            found, wanted = _trials(search), _trials(other)
            self.tally.check("trials are those of the undisturbed search", found == wanted, f"{found} for {wanted}")
            lines, problems = read_json_lines(search / JOURNAL_FILE)
            self.tally.check("a search's journal is whole", not problems, "; ".join(problems))
            ends = Counter(line["trial"] for line in lines if line["event"] == "end")
            self.tally.check(
                "no trial is lost or done twice", ends == dict.fromkeys(range(1, TRIALS + 1), 1), str(ends)
            )
            final = search / "final-1"
            number = readings[str(final.resolve())]
            most = 1 + self.reread[str(final.resolve())]
            self.tally.check("test is read once", 1 <= number <= most, f"{final}: {number} readings")
            self.tally.check("final weights are those of the undisturbed run", _same_weights(final, other / "final-1"))

    def keep_undisturbed(self) -> None:
        """Puts the results aside that others are compared with."""
        shutil.copytree(self.experiment, self.folder / "undisturbed")
        self.clear()

    def clear(self) -> None:
        """Removes all results."""
        shutil.rmtree(self.output)
        self.reread.clear()


def _has_ended(run_dir: Path) -> bool:
    return (run_dir / "result.json").is_file()


def _trials(search: Path) -> list[tuple[object, ...]]:
    """Returns name, values, end and objective of each trial of a search."""
    stored = read_json(search / "search.json") or {"trials": []}
    return [(each["name"], str(each["values"]), each["status"], each["objective"]) for each in stored["trials"]]


def _same_weights(run_dir: Path, other: Path) -> bool:
    try:
        mine, theirs = (CheckpointFolder(each / "checkpoints").best()["method"] for each in (run_dir, other))
    except CheckpointError:
        return False
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())


def describe(events: Counter[str]) -> str:
    """Returns what was done, for a person: `2 kill a trial, 1 fill the disk`."""
    return ", ".join(f"{number} {what}" for what, number in sorted(events.items()))


def inside() -> None:
    """Runs this script again where it may mount, unless it does already."""
    if os.environ.get(INSIDE):
        return
    able = [way for way in WAYS if subprocess.run([*way, "true"], capture_output=True).returncode == 0]
    if not able:
        raise SystemExit("neither `unshare --map-root-user --mount` nor `unshare --mount` goes here")
    os.environ[INSIDE] = "1"
    os.execvp(able[0][0], [*able[0], sys.executable, *sys.argv])


def main() -> None:
    arguments = parser(str(__doc__).split("\n", 1)[0])
    arguments.add_argument("--minutes", type=float, default=60.0)
    arguments.add_argument("--seed", type=int, default=0, help="of the disturbances")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    inside()
    os.environ.setdefault("RAY_worker_niceness", "0")
    minutes, most = (0.2, 2) if options.quick else (options.minutes, 8)
    report = Report("a soak of searches", f"{minutes:g} minutes at least, seed {options.seed}")
    folder = Path(tempfile.mkdtemp(prefix="equipoise-soak-"))
    try:
        options.data_dir.mkdir(parents=True, exist_ok=True)
        (folder / "data").symlink_to(options.data_dir.resolve())
        prepare("digits", None, None, folder / "data")
        soak = Soak(folder, Disk(folder / "disk", DISK_BYTES), Disk(Path("/dev/shm"), MEMORY_BYTES),
                    random.Random(options.seed))  # fmt: skip
        end = time.monotonic() + 60 * minutes
        alone = soak.run_undisturbed()
        if not soak.tally.broken:
            soak.keep_undisturbed()
        disturbed = []
        before: Counter[str] = Counter()
        while not soak.tally.broken and (not disturbed or time.monotonic() < end):
            disturbed.append(soak.run_disturbed(max(2.0, alone / 5), most))
            done, before = soak.tally.events - before, soak.tally.events.copy()
            report.part(f"experiment {len(disturbed)}", disturbed[-1], describe(done))
            soak.clear() if not soak.tally.broken else None
    finally:
        subprocess.run(["umount", "--lazy", str(folder / "disk")], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    for what, number in sorted(soak.tally.events.items()):
        report.say(f"  did: {what:<58} {number:6d}")
    for what, number in sorted(soak.tally.checks.items()):
        broken = sum(entry.startswith(what) for entry in soak.tally.broken)
        report.say(f"  held: {what:<57} {number - broken:6d} of {number}")
    for entry in soak.tally.broken:
        report.say(f"DID NOT HOLD: {entry}")
    if disturbed:
        mean = sum(disturbed) / len(disturbed)
        report.add(Ratio("disturbed÷alone", {"disturbed": mean, "alone": alone}, mean / alone))
    report.finish(options.json)
    if soak.tally.broken:
        sys.exit(1)


if __name__ == "__main__":
    main()
