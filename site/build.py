"""Build the site: make site, which installs what this needs and lets it import the repository.

    site/_source/       what Sphinx reads: copies of the repository's pages, and pages made here
    site/_build/html/   the site

The address of the repository, if there is one, comes from the environment variable MOE_NUMPY_REPOSITORY. With it, every
notebook has buttons for Binder and Colab, and every page one for its source.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import typst
import yaml

import exercise_list
import reference
import slides
import sources
from contents import contents
from figures import Shown, extract
from links import Links
from lite import edition

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCE, BUILT, NODE = HERE / "_source", HERE / "_build", HERE / "node_modules"
HTML = BUILT / "html"
PAGES = ("*.md", "docs/*.md", "exercises/*.md", "exercises/instructors/*.md", "benchmarks/README.md")
PAGES += ("notebooks/*.ipynb",)
PICTURES = ("docs/figures/*.png", "docs/notebooks/*.png")
REPOSITORY = "MOE_NUMPY_REPOSITORY"
# jupyter-book loads them in any case; thebe twice, which is an error in a browser's console.
UNUSED = (
    "sphinx_thebe",
    "sphinx_togglebutton",
    "sphinx_comments",
    "sphinx_jupyterbook_latex",
    "sphinx.ext.intersphinx",
)


def main() -> int:
    """Build everything. The exit code is that of Sphinx, which takes a warning for an error."""
    begin = time.monotonic()
    for folder in (SOURCE, BUILT):
        shutil.rmtree(folder, ignore_errors=True)
    figures = write_sources()
    failed = sphinx()
    if failed:
        return failed
    for page in HTML.rglob("*.html"):
        page.write_text(accessible(page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copytree(NODE / "mathjax" / "es5", HTML / "_static" / "mathjax", dirs_exist_ok=True)
    shutil.copytree(SOURCE / "figures", HTML / "figures")
    sources.write(ROOT / "moe_numpy", HTML / "source", reference.packages(ROOT / "moe_numpy"))
    slides.write(figures, NODE / "reveal.js" / "dist", HTML / "slides")
    edition.write(ROOT, BUILT / "lite", HTML / "lite")
    print(f"Built in {time.monotonic() - begin:.0f} s: {HTML.relative_to(ROOT) / 'index.html'}")
    return 0


def write_sources() -> list[Shown]:
    """Write all that Sphinx reads. The figures of the notebooks come back."""
    pages, pictures = (
        {path.relative_to(ROOT).as_posix() for shape in shapes for path in ROOT.glob(shape)}
        for shapes in (PAGES, PICTURES)
    )
    packages = reference.packages(ROOT / "moe_numpy")
    links = Links(ROOT, pages | pictures, [f"moe_numpy/{name}" for name in packages])
    figures: list[Shown] = []
    for page in sorted(pages):
        text = (ROOT / page).read_text(encoding="utf-8")
        if page.endswith(".ipynb"):
            notebook = json.loads(text)
            figures += extract(notebook, Path(page).name[:2], SOURCE / "figures")
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = links.rewrite("".join(cell["source"]), page)
            text = json.dumps(notebook)
        else:
            text = links.rewrite(text, page)
        _write(page, text)
    for name in sorted(pictures | links.downloads):
        (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, SOURCE / name)
    reference.write_pages(ROOT / "moe_numpy", SOURCE / "reference")
    shutil.copytree(HERE / "pages", SOURCE, dirs_exist_ok=True)
    _write("exercises/list.md", exercise_list.page(ROOT / "notebooks"))
    shutil.copy(ROOT / "docs" / "references.bib", SOURCE / "docs")
    for suffix in ("pdf", "svg"):
        typst.compile(HERE / "cheatsheet.typ", output=SOURCE / f"cheatsheet.{suffix}", format=suffix)
    _write("_toc.yml", yaml.safe_dump(contents(pages, packages), sort_keys=False))
    _write("_config.yml", yaml.safe_dump(configuration(os.environ.get(REPOSITORY, "")), sort_keys=False))
    return figures


def configuration(repository: str) -> dict[str, Any]:
    """The settings of jupyter-book; with buttons where the repository has an address."""
    settings: dict[str, Any] = yaml.safe_load((HERE / "_config.yml").read_text(encoding="utf-8"))
    if repository:
        settings["repository"] = {"url": repository, "branch": "main", "path_to_book": ""}
        settings["launch_buttons"] = {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
        settings["html"] |= {"use_repository_button": True, "use_issues_button": True}
    return settings


def sphinx() -> int:
    """Run Sphinx with the settings that jupyter-book makes of ours."""
    book = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([book, "config", "sphinx", SOURCE], check=True, stdout=subprocess.DEVNULL)
    with (SOURCE / "conf.py").open("a", encoding="utf-8") as settings:
        settings.write(f"extensions = [name for name in extensions if name not in {UNUSED!r}]\n")
        settings.write(f"html_search_scorer = {str(HERE / 'search_scorer.js')!r}\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)])}  # docstrings.py, moe_numpy
    return subprocess.run([*command, "-d", BUILT / "doctrees", SOURCE, HTML], env=environment, check=False).returncode


FAULTS = (  # of the theme and of sphinxcontrib-bibtex, as axe-core finds them
    ('<summary><span class="toctree-toggle"', '<summary aria-label="Pages below"><span class="toctree-toggle"'),
    ('<div class="pst-scrollable-table-container">', '<div class="pst-scrollable-table-container" tabindex="0">'),
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),
    ('button-field search-button__button" title="Search" aria-label="Search"', 'button-field search-button__button"'),
)


def accessible(page: str) -> str:
    """A page whose arrows have names and whose wide tables the keyboard reaches, among others."""
    for fault, repaired in FAULTS:
        page = page.replace(fault, repaired)
    return page


def _write(name: str, text: str) -> None:
    path = SOURCE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
