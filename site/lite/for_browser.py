"""A notebook as the browser's edition has it. What differs there stands in the notebook's own metadata.

of the notebook   "browser": {"STEPS": 40}      smaller sizes, set after the cell with the tag "parameters"
                  "browser_packages": [...]     what it needs besides the library's own requirements
of a cell         "not_in_browser": "why"       it says so instead of running
                  tag "no-asserts-in-browser"   its assertions, on full sizes or on times, become comments
"""

import ast
import json
from typing import Any

NOT_RUN = "%%not_in_browser"
KERNEL = {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}
FIRST_CELL = """\
# In the browser only: installs the library into this page, which takes a minute and a connection.
import os
import piplite
from IPython.core.magic import register_cell_magic

os.environ["MOE_NUMPY_KERNELS"] = "numpy"
await piplite.install({packages})
await piplite.install("moe_numpy", deps=False)
%load_ext exercises


@register_cell_magic
def not_in_browser(why, cell):
    print("Not run in the browser:", why)"""
SMALLER = "# In the browser only: smaller sizes. Numbers and pictures in the text belong to those above."


def for_browser(notebook: dict[str, Any], packages: list[str]) -> dict[str, Any]:
    """The notebook with a first cell that installs these packages and the library, and with what differs."""
    title, *others = notebook["cells"]
    needed = json.dumps(packages + notebook["metadata"].get("browser_packages", []))
    cells = [title, _cell("in-the-browser", FIRST_CELL.format(packages=needed))]
    sizes = notebook["metadata"].get("browser", {})
    for cell in others:
        cells.append(_changed(cell) if cell["cell_type"] == "code" else cell)
        if sizes and "parameters" in tags(cell):
            cells.append(_cell("smaller-in-the-browser", smaller(sizes)))
    return notebook | {"cells": cells, "metadata": notebook["metadata"] | {"kernelspec": KERNEL}}


def smaller(sizes: dict[str, Any]) -> str:
    """The cell that sets them."""
    return "\n".join([SMALLER, *(f"{name} = {value!r}" for name, value in sizes.items())])


def tags(cell: dict[str, Any]) -> list[str]:
    """The tags of a cell."""
    return cell["metadata"].get("tags", [])


def without_assertions(source: str) -> str:
    """The source with its assertions as comments."""
    lines = source.splitlines()
    blocks = [getattr(node, name, []) for node in ast.walk(ast.parse(source)) for name in ("body", "orelse")]
    for block in (block for block in blocks if isinstance(block, list)):
        for statement in block:
            if isinstance(statement, ast.Assert):
                for i in range(statement.lineno - 1, statement.end_lineno or statement.lineno):
                    lines[i] = f"{' ' * statement.col_offset}# not in the browser: {lines[i][statement.col_offset :]}"
        if block and all(isinstance(statement, ast.Assert) for statement in block) and block[0].col_offset:
            lines[block[-1].end_lineno - 1] += f"\n{' ' * block[0].col_offset}pass"
    return "\n".join(lines)


def _changed(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell of code."""
    source = "".join(cell["source"])
    if why := cell["metadata"].get("not_in_browser"):
        return cell | {"source": f"{NOT_RUN} {why}\n{source}"}
    return cell | {"source": without_assertions(source)} if "no-asserts-in-browser" in tags(cell) else cell


def _cell(name: str, source: str) -> dict[str, Any]:
    new = {"cell_type": "code", "execution_count": None, "id": name, "metadata": {}, "outputs": []}
    return new | {"source": source}
