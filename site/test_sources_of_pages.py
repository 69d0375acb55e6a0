"""How pages are made: links, figures, docstrings, contents."""

import base64
from pathlib import Path

import pytest
import typst

from build import configuration
from contents import contents
from docstrings import rewritten
from figures import extract
from links import LinkError, Links

HERE = Path(__file__).parent
ROOT = HERE.parent


@pytest.fixture
def links():
    return Links(ROOT, {"README.md", "docs/ranks.md"}, {"moe_numpy/serve"})


@pytest.mark.parametrize(
    ("link", "made"),
    [
        ("[x](../README.md#notebooks)", "[x](../README.md#notebooks)"),
        ("[x](#here) [y](https://example.org)", "[x](#here) [y](https://example.org)"),
        ("[`l`](../moe_numpy/moe/losses.py)", '<a href="../source/moe_numpy/moe/losses.html">`l`</a>'),
        ("[s](../moe_numpy/serve/static)", "[s](../reference/serve.rst)"),
        ("[c](../moe_numpy/commands)", "c"),
        ("[sheet](../site/cheatsheet.typ)", "[sheet](../cheatsheet.md)"),
        ("```\n[x](nowhere.md)\n```", "```\n[x](nowhere.md)\n```"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(links, link, made):
    assert links.rewrite(link, "docs/plan.md") == made
    assert links.downloads == set()


def test_another_file_is_downloaded(links):
    assert links.rewrite("[x](../LICENSE)", "docs/plan.md") == "[x](../LICENSE)"
    assert links.downloads == {"LICENSE"}


def test_a_link_to_nothing_is_an_error(links):
    with pytest.raises(LinkError, match=r"docs/plan.md: the link to nowhere.md leads nowhere"):
        links.rewrite("[x](nowhere.md)", "docs/plan.md")


def test_figures_become_files_with_their_texts(tmp_path):
    drawn = base64.b64encode(b"drawn").decode()
    shown = f'<figure><img src="data:image/svg+xml;base64,{drawn}" alt="A &lt; B" width="800"></figure>'
    png = {"data": {"image/png": drawn}, "metadata": {"image/png": {"alt": "A curve"}}}
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": ["# 05 · Balance\n", "## What it costs\n"]},
            {"cell_type": "code", "outputs": [{"data": {"text/html": [shown], "image/png": drawn}}, png]},
        ]
    }
    found = extract(notebook, "05", tmp_path)
    assert [(f.file, f.alt, f.section) for f in found] == [
        ("05-1.svg", "A < B", "What it costs"),
        ("05-2.png", "A curve", "What it costs"),
    ]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"05-1.svg": b"drawn", "05-2.png": b"drawn"}
    first, second = (output["data"] for output in notebook["cells"][1]["outputs"])
    assert '<img loading="lazy" src="../figures/05-1.svg" alt="A &lt; B" width="800">' in first["text/html"]
    assert second == {"text/html": '<img loading="lazy" src="../figures/05-2.png" alt="A curve" width="800">'}


def test_a_docstring_keeps_its_formulas():
    told = ["y = |w| x_ a * b, ``a * b``.", "", "    y = a * b", "      c", "", "Args:", "    x: of T * E."]
    made = [r"y = \|w\| x\_ a \* b, ``a * b``.", "", "", "::", "", "    y = a * b", "      c", "", "Args:"]
    assert rewritten(told) == [*made, r"    x: of T \* E."]


def test_a_new_page_appears_by_itself():
    made = contents(
        {"README.md", "docs/new.md", "docs/notation.md", "notebooks/00_a.ipynb", "notebooks/01_b.ipynb"}, ["moe"]
    )
    parts = {part["caption"]: [chapter["file"] for chapter in part["chapters"]] for part in made["parts"]}
    assert parts["Notebooks"] == ["notebooks/00_a", "notebooks/01_b"]
    assert parts["Topics"] == ["docs/new"]


def test_buttons_need_an_address():
    assert "launch_buttons" not in configuration("")
    assert configuration("https://example.org/a/b")["repository"]["url"] == "https://example.org/a/b"


def test_the_cheat_sheet_is_one_page():
    assert isinstance(typst.compile(HERE / "cheatsheet.typ", format="svg"), bytes)  # a list, were there several
