"""A page of results as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a reader gets: text, tables by caption, pictures, and every tag with its attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.tables = "", {}
        self._caption = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        if tag in {"th", "td"}:
            self.tables[self._caption][-1].append("")
        if tag == "caption":
            self._caption = ""
        if tag in {"th", "td", "caption"}:
            self._within = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._within = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._within == "caption":
            self._caption += data
        elif self._within:
            self.tables[self._caption][-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, caption: str, first: str) -> list[str]:
        (found,) = [row for row in self.tables[caption] if row[0] == first]
        return found

    def table(self, begins: str) -> dict[str, list[str]]:
        """First cell -> the cells after it, of the first table whose caption begins so."""
        rows = next(rows for caption, rows in self.tables.items() if caption.startswith(begins))
        return {row[0]: row[1:] for row in rows}
