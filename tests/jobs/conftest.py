"""Makes the stand-ins beside this file importable, in Ray's worker processes too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([_HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
# As `rayjobs` itself has it; here because tests import Ray first. A stream that is closed late would start a Ray of its
# own, whose end would end the tests a minute later.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
