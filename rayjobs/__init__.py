"""The Ray layer: the commands, and how runs, trials and searches are started, fed and recovered."""

import os

# A late finaliser that touches Ray while a process ends must not start a second Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
