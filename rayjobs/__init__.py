"""The Ray layer: the commands, and how runs, trials and searches are started, fed and recovered."""

from rayjobs.ray_internals import environment

# A late finaliser that touches Ray while a process ends must not start a second Ray.
environment.forbid_auto_connect()
