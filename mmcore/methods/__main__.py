"""Prints the page of the methods: `python -m mmcore.methods > docs/methods.md`."""

from mmcore.methods.page import page

print(page(), end="")
