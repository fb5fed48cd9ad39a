"""Prints the page of the encoders: `python -m mmcore.encoders > docs/encoders.md`."""

from mmcore.encoders.page import page

print(page(), end="")
