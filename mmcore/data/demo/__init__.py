"""Small raw copies that data sets write of themselves, for `--demo`."""
