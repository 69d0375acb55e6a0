"""The links of a page, as the site needs them.

The sources lie in the site as they lie in the repository, so links among pages and pictures hold. A link to a module of
the package leads to its highlighted source; one to a package, to its reference; any other file comes along to be
downloaded.
"""

import posixpath
import re
from collections.abc import Container
from pathlib import Path

from sources import page_of

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL)
_MADE_HERE = {"site/cheatsheet.typ": "cheatsheet.md"}


class LinkError(ValueError):
    """A link leads to nothing in the repository."""


class Links:
    """Rewrites the links of pages.

    Attributes:
        downloads: the files that links need besides the pages; grows while pages are rewritten.
    """

    def __init__(self, root: Path, pages: Container[str], references: Container[str]):
        """``pages`` and ``references`` are paths in the repository: of the pages, and of packages with a reference."""
        self._root, self._pages, self._references = root, pages, references
        self.downloads: set[str] = set()

    def rewrite(self, text: str, page: str) -> str:
        """The Markdown of a page with the site's links; code between fences stays. LinkError for a broken one."""
        parts, end = [], 0
        for fence in _FENCE.finditer(text):
            parts += [self._outside_of_code(text[end : fence.start()], page), fence[0]]
            end = fence.end()
        return "".join(parts) + self._outside_of_code(text[end:], page)

    def _outside_of_code(self, text: str, page: str) -> str:
        return _LINK.sub(lambda match: self._rewritten(match, page), text)

    def _rewritten(self, match: re.Match[str], page: str) -> str:
        words, target = match[2], match[3]
        file = target.partition("#")[0]
        if not file or ":" in file:
            return match[0]
        above = posixpath.dirname(page)
        name = posixpath.normpath(posixpath.join(above, file))
        if name in self._pages:
            return match[0]
        if name in _MADE_HERE:
            return f"[{words}]({posixpath.relpath(_MADE_HERE[name], above)})"
        if not (self._root / name).exists():
            raise LinkError(f"{page}: the link to {target} leads nowhere")
        if name.startswith("moe_numpy/") and name.endswith(".py"):
            return f'<a href="{posixpath.relpath(page_of(name), above)}">{words}</a>'
        if (self._root / name).is_dir():
            package = "/".join(name.split("/")[:2])
            if package not in self._references:
                return words
            return f"[{words}]({posixpath.relpath('reference/' + package.partition('/')[2], above)}.rst)"
        if name.endswith((".md", ".ipynb")):
            raise LinkError(f"{page}: {target} is no page of the site; build.py has PAGES")
        self.downloads.add(name)
        return match[0]
