"""How far one walks through the project's files to follow a job and an experiment from entry to result.

Every call between two functions of the project is watched (`sys.setprofile`) while one run trains (`rayjobs.train`) and
while the driver of one search of one trial works (`rayjobs.tune --trials 1`, no final models' reference). What modules
do when they are imported is left out. Two numbers for each:

- rooms: files entered;
- returns: ways from one file to another, each counted once, that lead to a file entered before.

With --against, the same of another checkout, and the ratio. These are counts, not times: one run is enough.

    python benchmarks/rooms.py [--against FOLDER] [--quick] [--json PATH]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path
from types import FrameType

from builds import THIS, add_option, environment
from common import Ratio, Report, parser

WALKS = {
    "job": ("rayjobs.train", ["--dataset", "digits", "--method", "iprm", "--max-epochs", "1"]),
    "experiment": (
        "rayjobs.tune",
        ["--dataset", "digits", "--method", "iprm", "--reference", "none", "--trials", "1", "--max-epochs", "1",
         "--final-seeds", "1"],
    ),
}  # fmt: skip


class Walk:
    """The files of one checkout that calls lead to, in order, and the ways between them."""

    def __init__(self, checkout: Path):
        self._roots = tuple(f"{checkout.resolve() / package}/" for package in ("mmcore", "rayjobs"))
        self.rooms: list[str] = []
        self.ways: set[tuple[str, str]] = set()

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Notes a call of one of the project's functions by another, however many frames lie between."""
        room = frame.f_code.co_filename
        if event != "call" or not room.startswith(self._roots) or frame.f_code.co_name == "<module>":
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(self._roots):
            caller = caller.f_back
        outer = caller
        while outer is not None:
            if outer.f_code.co_name == "<module>" and outer.f_code.co_filename.startswith(self._roots):
                return  # a module is being imported
            outer = outer.f_back
        if room not in self.rooms:
            self.rooms.append(room)
        if caller is not None and caller.f_code.co_filename != room:
            self.ways.add((caller.f_code.co_filename, room))

    @property
    def returns(self) -> int:
        """Ways that lead to a file entered before: all but the first into each."""
        first: set[str] = {target for _, target in self.ways}
        return len(self.ways) - len(first)


def walk(name: str, checkout: Path, data_dir: str) -> None:
    """Runs in a process of its own: follows one command, prints the two numbers and the files."""
    module, arguments = WALKS[name]
    command = import_module(module).main
    watched = Walk(checkout)
    threading.setprofile(watched.profile)
    sys.setprofile(watched.profile)
    try:
        command([*arguments, "--data-dir", data_dir], standalone_mode=False)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    files = [str(Path(room).relative_to(checkout.resolve())) for room in watched.rooms]
    Path("walk.json").write_text(json.dumps({"rooms": files, "returns": watched.returns}))


def followed(name: str, checkout: Path, data_dir: Path) -> dict[str, float]:
    """Returns the two numbers of one walk through a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", __file__, "--walk", name, str(checkout.resolve()), str(data_dir.resolve())]
        done = subprocess.run(command, env=environment(checkout), cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads((Path(folder) / "walk.json").read_text())
    return {"rooms": len(found["rooms"]), "returns": found["returns"]}


def main() -> None:
    arguments = parser(str(__doc__).split("\n", 1)[0])
    add_option(arguments)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"), help="where prepared data sets lie")
    options = arguments.parse_args()
    report = Report("files entered, this build ÷ another", f"counts, not times; against {options.against}")
    for name in list(WALKS)[: 1 if options.quick else None]:
        ours, theirs = (followed(name, checkout, options.data_dir) for checkout in (THIS, options.against))
        for kind, count in ours.items():
            report.add(Ratio(f"{name}/{kind}", {}, count / theirs[kind], bar=1.0, note=f"{count:g} ÷ {theirs[kind]:g}"))
    report.finish(options.json)


if __name__ == "__main__":
    walk(sys.argv[2], Path(sys.argv[3]), sys.argv[4]) if sys.argv[1:2] == ["--walk"] else main()
