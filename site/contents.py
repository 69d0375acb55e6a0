"""The table of contents: what the folders hold, in the order in which it is read."""

from collections.abc import Collection
from typing import Any

# docs/ in this order; a page that is not named comes after those that are.
START = ("docs/paths", "docs/demo", "docs/browser")
USE = (
    "docs/using", "docs/commands", "docs/speed", "docs/gpu", "docs/published_models", "docs/number_formats",
    "docs/decoding", "docs/guesses_and_prefixes", "docs/serving", "docs/ranks", "docs/plan",
)  # fmt: skip
REFERENCE = ("docs/notation", "docs/glossary", "docs/history", "bibliography", "cheatsheet", "slides")
CODE = ("docs/reading_the_code", "docs/site", "CONTRIBUTING", "exercises/AUTHORING", "SECURITY", "CHANGELOG")


def contents(pages: Collection[str], packages: Collection[str]) -> dict[str, Any]:
    """The table for jupyter-book.

    Args:
        pages: paths in the repository.
        packages: those with a page of reference.
    """
    there = {page.rpartition(".")[0] for page in pages} | {"bibliography", "cheatsheet", "slides"}
    named = {*START, *USE, *REFERENCE, *CODE}
    topics = sorted(page for page in there - named if page.startswith("docs/"))
    notebooks = sorted(page for page in there if page.startswith("notebooks/"))
    teaching = sorted(page for page in there - named if page.startswith("exercises/") and page != "exercises/README")
    parts = {
        "Start": START,
        "Notebooks": notebooks,
        "Exercises": ("exercises/README", "exercises/list", *teaching),
        "Look up": REFERENCE,
        "Use it": USE,
        "Topics": topics,
        "Measurements": ("benchmarks/README",),
        "The code": CODE,
    }
    made = [
        {"caption": caption, "chapters": [{"file": page} for page in chapters if page in there | {"exercises/list"}]}
        for caption, chapters in parts.items()
    ]
    sections = [{"file": f"reference/{name}"} for name in packages]
    made[-1]["chapters"].append({"file": "reference/index", "sections": sections})
    return {"format": "jb-book", "root": "README", "parts": made}
