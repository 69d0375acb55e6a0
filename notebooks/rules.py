"""What a committed notebook must keep to. Each rule yields its objections, in words."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from exercises.catalog import numbers

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
PICTURES = PROJECT / "docs" / "notebooks"
NAMES = tuple(sorted(path.stem for path in HERE.glob("[0-9][0-9]_*.ipynb")))
MAX_BYTES, MAX_CELLS, MAX_LINES, MAX_COLUMNS = 512 * 1024, 40, 15, 100
_CHECK = re.compile(r'^exercises\.check\("(\d\d)"\)$', re.MULTILINE)
_ALT = re.compile(r'<img [^>]*\balt="([^"]*)"')
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_ABSOLUTE = re.compile(
    r"(?<![\w.:/-])(/(home|root|tmp|usr|var|opt|work|private|Users)/\S*|[A-Z]:\\\S*)"
)

Rule = Callable[[str, NotebookNode], Iterator[str]]


def objections(name: str) -> list[str]:
    """Everything that is wrong with a committed notebook, by all rules."""
    path = HERE / f"{name}.ipynb"
    if not path.exists():
        return ["there is no such file"]
    notebook = nbformat.read(path, as_version=4)
    found = [objection for rule in RULES for objection in rule(name, notebook)]
    if path.stat().st_size > MAX_BYTES:
        found.append(f"the file has {path.stat().st_size} bytes, more than {MAX_BYTES}")
    return found


def noise(notebook: NotebookNode) -> Iterator[str]:
    """Errors, stderr and absolute paths among the outputs."""
    for cell in code(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"an error in cell {cell.id}: {output.ename}: {output.evalue}"
            elif output.get("name") == "stderr":
                yield f"stderr of cell {cell.id}: {output.text.strip()[:500]}"
            for path in _ABSOLUTE.finditer(_text(output)):
                yield f"cell {cell.id} prints an absolute path: {path[0]}"


def code(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells with code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def images(notebook: NotebookNode) -> list[tuple[NotebookNode, NotebookNode]]:
    """Each figure: its cell and its output."""
    return [
        (cell, out)
        for cell in code(notebook)
        for out in cell.outputs
        if "image/png" in out.get("data", {})
    ]


def _outputs(name: str, notebook: NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for cell in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not run from top to bottom in a clean kernel: the cells' numbers are {counts}"
    yield from noise(notebook)


def _metadata(name: str, notebook: NotebookNode) -> Iterator[str]:
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"nbformat {notebook.nbformat}.{notebook.nbformat_minor} instead of 4.5"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"
    if any("execution" in cell.metadata for cell in notebook.cells):
        yield "cells carry the times at which they ran"


def _cells(name: str, notebook: NotebookNode) -> Iterator[str]:
    cells = code(notebook)
    if len(cells) > MAX_CELLS:
        yield f"{len(cells)} cells of code, more than {MAX_CELLS}"
    for cell in cells:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if not lines:
            yield f"cell {cell.id} is empty"
        if len(lines) > MAX_LINES:
            yield f"cell {cell.id} has {len(lines)} lines, more than {MAX_LINES}"
        for line in lines:
            if len(line) > MAX_COLUMNS:
                yield f"cell {cell.id}: {len(line)} characters in a line: {line[:40]}..."


def _sections(name: str, notebook: NotebookNode) -> Iterator[str]:
    first, text = notebook.cells[0].source, _prose(notebook)
    if not first.startswith(f"# {name[:2]} · "):
        yield f"the first cell does not start with '# {name[:2]} · '"
    for part in ("You will learn", "Time", "Before this"):
        if f"**{part}" not in first:
            yield f"the first cell has no **{part}**"
    ends = [text.find(f"\n## {part}\n") for part in ("Summary", "Exercises", "Papers")]
    if -1 in ends or ends != sorted(ends):
        yield "it does not end with ## Summary, ## Exercises, ## Papers"


def _headings(name: str, notebook: NotebookNode) -> Iterator[str]:
    above = 0
    for level, title in re.findall(r"^(#+) (.*)", _prose(notebook), re.MULTILINE):
        if len(level) > above + 1:
            yield f"{level} {title}: a level is left out, above is {'#' * above or None}"
        if len(level) == 1 and above:
            yield f"# {title}: a second title"
        above = len(level)


def _alternative_texts(name: str, notebook: NotebookNode) -> Iterator[str]:
    found = images(notebook)
    if not found:
        yield "it has no figure"
    for cell, output in found:
        if max(map(len, _ALT.findall(output.data.get("text/html", ""))), default=0) < 20:
            yield f"the figure of cell {cell.id} has no alt text in its HTML, or a few letters"
    for _, alt, target in (link for link in _links(notebook) if link[0]):
        if not alt:
            yield f"the picture {target} has no alt text"


def _navigation(name: str, notebook: NotebookNode) -> Iterator[str]:
    for _, _, target in _links(notebook):
        file = target.partition("#")[0]
        if "://" not in target and file and not (HERE / file).exists():
            yield f"the link {target} leads nowhere"
    place = NAMES.index(name)
    for neighbour in (*NAMES[max(place - 1, 0) : place], *NAMES[place + 1 : place + 2]):
        for cell, where in ((notebook.cells[0], "first"), (notebook.cells[-1], "last")):
            if f"({neighbour}.ipynb)" not in cell.source:
                yield f"the {where} cell does not link {neighbour}.ipynb"


def _exercises(name: str, notebook: NotebookNode) -> Iterator[str]:
    asked = [_CHECK.findall(cell.source) for cell in code(notebook)]
    if not any(asked):
        yield 'no cell calls exercises.check("NN")'
    for number in (n for cell in asked for n in cell):
        if int(number) not in numbers():
            yield f"there is no exercise {number}"


def _browser(name: str, notebook: NotebookNode) -> Iterator[str]:
    """What the metadata say of the browser's edition: see site/lite/for_browser.py."""
    sizes = notebook.metadata.get("browser", {}).keys()
    tagged = {tag: _tagged(notebook, tag) for tag in ("parameters", "no-asserts-in-browser")}
    if len(tagged["parameters"]) != bool(sizes):
        yield f"{len(tagged['parameters'])} cells with the tag parameters, sizes {sorted(sizes)}"
    for cell in tagged["parameters"]:
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
        for size in sorted(sizes - {x.id for x in found if isinstance(x.ctx, ast.Store)}):
            yield f"cell {cell.id} does not set {size}"
        for size in sorted(sizes & {x.id for x in found if isinstance(x.ctx, ast.Load)}):
            yield f"cell {cell.id} uses {size}, which the browser sets after it"
    for cell in tagged["no-asserts-in-browser"]:
        if "assert " not in cell.source:
            yield f"cell {cell.id} has no assertion to leave out"


def _tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in code(notebook) if tag in cell.metadata.get("tags", [])]


RULES: tuple[Rule, ...] = (
    _outputs,
    _metadata,
    _cells,
    _sections,
    _headings,
    _alternative_texts,
    _navigation,
    _exercises,
    _browser,
)


def _prose(notebook: NotebookNode) -> str:
    """The text, without fenced code."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL) + "\n"


def _links(notebook: NotebookNode) -> list[tuple[str, str, str]]:
    """Of the prose: ``!`` for a picture, the text, the target."""
    return _LINK.findall(_prose(notebook))


def _text(output: Any) -> str:
    return output.get("text", "") + "".join(
        v for k, v in output.get("data", {}).items() if k.startswith("text/")
    )
