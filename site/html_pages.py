"""What the tests look at in a page: its links, anchors, pictures and what it loads."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path

_LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """One HTML file.

    Attributes:
        links: the targets of its ``a``, in order.
        anchors: what a ``#part`` can name.
        loads: the files that a browser fetches to show it.
        pictures: the source and the alternative text of each ``img``; None where there is no alt.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.loads: list[str] = []
        self.pictures: list[tuple[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.anchors |= {value for name in ("id", "name") if (value := known.get(name))}
        if tag == "a" and known.get("href"):
            self.links.append(str(known["href"]))
        if tag == "img":
            self.pictures.append((str(known.get("src")), known.get("alt")))
        if tag in _LOADS and known.get(_LOADS[tag]) and known.get("rel") not in ("canonical", "author", "license"):
            self.loads.append(str(known[_LOADS[tag]]))


@cache
def page(path: Path) -> Page:
    """The page, read once."""
    return Page(path)
