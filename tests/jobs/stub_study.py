"""`python -m rayjobs.compare` with the stand-in for the worker's body; takes the same arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

import stub_body

import rayjobs.commands.tune_flags
import rayjobs.compare


def main() -> None:
    real = rayjobs.commands.tune_flags.machine_of

    def machine(flags: Any, per_search: int | None = None) -> Any:
        return dataclasses.replace(real(flags, per_search), body=stub_body.body)

    rayjobs.commands.tune_flags.machine_of = machine
    rayjobs.compare.main()


if __name__ == "__main__":
    main()
