"""An encoding writer whose process is killed once, in the middle of a part."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from scenes import register

from mmcore.features.encoded_set import EncodedPart, EncodedWriter

register()  # in Ray's processes, too


class DyingWriter(EncodedWriter):
    """An `EncodedWriter` that dies: the process that finds the file `marker` removes it and is killed."""

    marker: Path

    @classmethod
    def of(cls, writer: EncodedWriter, marker: Path) -> DyingWriter:
        dying = cls.__new__(cls)
        dying.__dict__.update(writer.__dict__)
        dying.marker = marker
        return dying

    def _written(self, part: EncodedPart) -> dict[str, Any]:
        if self.marker.exists():
            self.marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._written(part)
