"""`python -m rayjobs.tune` with the stand-in for the worker's body; takes the same arguments, and --gpus N first."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import stub_body

import rayjobs.tune


def main() -> None:
    gpus = int(sys.argv.pop(2)) if sys.argv[1] == "--gpus" else None
    if gpus is not None:
        del sys.argv[1]
    real = rayjobs.tune.machine_of

    def machine(flags: dict[str, Any], per_search: int | None = None) -> Any:
        return dataclasses.replace(real(flags, per_search), body=stub_body.body, gpus=gpus)

    rayjobs.tune.machine_of = machine
    rayjobs.tune.main()


if __name__ == "__main__":
    main()
