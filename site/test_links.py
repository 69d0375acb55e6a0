"""No link of the built site is broken, and nothing comes from another site: it is complete without a connection."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from html_pages import page

HTML = Path(__file__).parent / "_build" / "html"
PAGES = sorted(path for path in HTML.rglob("*.html") if not {"_static", "lite"} & set(path.parts))
ROOT = Path(__file__).parent.parent


def target(path, link):
    """The file and the part that a link of a page leads to; None if it leaves the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    return (file / "index.html" if file.is_dir() else file), unquote(parts.fragment)


def broken(path, links):
    for link in links:
        found = target(path, link)
        if found is None:
            continue
        file, part = found
        if not file.is_file():
            yield f"{path.relative_to(HTML)}: {link}"
        elif file.suffix == ".html" and part and part not in page(file).anchors:
            yield f"{path.relative_to(HTML)}: {link} has no such part"


def test_the_site_is_built():
    assert len(PAGES) > 100


def test_every_link_and_every_file_is_there():
    assert [told for path in PAGES for told in broken(path, page(path).links + page(path).loads)] == []


def test_nothing_is_loaded_from_elsewhere():
    elsewhere = [(path.name, load) for path in PAGES for load in page(path).loads if urlsplit(load).netloc]
    assert elsewhere == []


def test_every_picture_says_what_it_shows():
    silent = [(path.name, source) for path in PAGES for source, alt in page(path).pictures if len(alt or "") < 10]
    assert silent == []


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_figure_of_a_notebook_is_on_its_page(notebook):
    shown = [source for source, _ in page(HTML / "notebooks" / f"{notebook.stem}.html").pictures]
    figures = sorted(path.name for path in (HTML / "figures").glob(f"{notebook.stem[:2]}-*"))
    assert figures
    assert sorted(Path(source).name for source in shown if "figures/" in source) >= figures
