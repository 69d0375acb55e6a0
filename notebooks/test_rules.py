"""Each rule objects to what it is there for, and to nothing in a notebook that keeps to all."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import rules

NAME = rules.NAMES[1]
BEFORE, AFTER = rules.NAMES[0], rules.NAMES[2]
LINKS = f"[← 00]({BEFORE}.ipynb) · [02 →]({AFTER}.ipynb)"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "HERE", tmp_path)
    for name in (BEFORE, AFTER):
        (tmp_path / f"{name}.ipynb").touch()
    return tmp_path


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def picture(alt="A curve that falls from left to right"):
    html = f'<figure><img src="data:," alt="{alt}"></figure>'
    return new_output("display_data", data={"image/png": "", "text/html": html})


def good():
    cells = [
        new_markdown_cell(
            f"# 01 · Title\n\n**You will learn**\n\n**Time**\n\n**Before this** nothing\n\n{LINKS}"
        ),
        new_code_cell("1 + 1", outputs=[stream("2"), picture()]),
        new_markdown_cell("## Part\n\n```\n# no heading\n```\n\n### Smaller part"),
        new_markdown_cell("## Summary"),
        new_markdown_cell("## Exercises"),
        new_code_cell(
            'exercises.check("11")', outputs=[stream("not yet: exercises/work/ex11_top_k.py")]
        ),
        new_markdown_cell(f"## Papers\n\n{LINKS}"),
    ]
    for i, cell in enumerate(c for c in cells if c.cell_type == "code"):
        cell.execution_count = i + 1
    return new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


def objections(notebook, folder):
    nbformat.write(notebook, folder / f"{NAME}.ipynb")
    return rules.objections(NAME)


def test_nothing_to_object_to(folder):
    assert objections(good(), folder) == []


def of_output(output):
    return lambda notebook: notebook.cells[1].outputs.append(output)


def of_source(cell, source):
    return lambda notebook: notebook.cells[cell].update(source=source)


def smaller(source, *tags):
    def change(notebook):
        notebook.metadata["browser"] = {"STEPS": 5}
        notebook.cells[1].update(source=source, metadata={"tags": list(tags)})

    return change


BAD = {
    "an error in cell": of_output(
        new_output("error", ename="ValueError", evalue="no", traceback=[])
    ),
    "stderr of cell": of_output(stream("careful", "stderr")),
    "an absolute path: /home/me/x": of_output(stream("saved in /home/me/x")),
    "absolute path: /tmp/ipykernel_7/1.py": of_output(stream("File /tmp/ipykernel_7/1.py")),
    "not run from top": lambda notebook: notebook.cells[1].update(execution_count=3),
    "kernel": lambda notebook: notebook.metadata.kernelspec.update(name="mine"),
    "times at which": lambda notebook: notebook.cells[1].metadata.update(execution={}),
    "41 cells": lambda notebook: notebook.cells.extend(new_code_cell("1") for _ in range(39)),
    "16 lines": of_source(1, "x = 1\n" * 16),
    "101 characters": of_source(1, "x" * 101),
    "is empty": of_source(1, "\n"),
    "start with '# 01 · '": of_source(0, "# Title"),
    "no **Time**": of_source(0, f"# 01 · Title\n\n**You will learn** **Before this** {LINKS}"),
    "## Summary, ## Exercises": lambda notebook: notebook.cells.insert(2, notebook.cells.pop(4)),
    "### Smaller: a level": of_source(2, "### Smaller"),
    "second title": of_source(2, "# Again"),
    "no figure": lambda notebook: notebook.cells[1].outputs.pop(),
    "no alt text": lambda notebook: notebook.cells[1].update(outputs=[picture(alt="")]),
    "no alt text in its HTML": of_output(new_output("display_data", data={"image/png": ""})),
    "has no alt": of_source(2, f"![]({BEFORE}.ipynb)"),
    "leads nowhere": of_source(2, "[here](there.ipynb)"),
    f"last cell does not link {AFTER}": of_source(6, f"## Papers\n\n[back]({BEFORE}.ipynb)"),
    "no cell calls": of_source(5, "1"),
    "no exercise 99": of_source(5, 'exercises.check("99")'),
    "0 cells with the tag parameters": smaller("STEPS = 10"),
    "does not set STEPS": smaller("steps = 10", "parameters"),
    "uses STEPS": smaller("STEPS = 10\nrange(STEPS)", "parameters"),
    "has no assertion": smaller("STEPS = 10", "parameters", "no-asserts-in-browser"),
    "more than 524288": of_output(stream("x" * 512 * 1024)),
}


@pytest.mark.parametrize("words", BAD)
def test_an_objection(words, folder):
    notebook = good()
    BAD[words](notebook)
    assert words in "\n".join(objections(notebook, folder))


def test_a_missing_notebook():
    assert rules.objections(NAME) == ["there is no such file"]
