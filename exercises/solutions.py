"""Solutions to read and to run: the library's own code as a learner's file, with the known mistakes as notes."""

import ast
import re
import textwrap
import tokenize
from functools import cache
from io import StringIO
from typing import Any

from .exercise import Exercise
from .source import ModuleSource, first_line, names_in, parts_of
from .stubs import import_lines

_WIDTH = 118


@cache
def runnable_solution(exercise: Exercise) -> str:
    """A file that passes: imports, the library's own code, and what goes wrong at its lines.

    Kernels stand in it as the plain functions that define them.
    """
    parts = parts_of(exercise.target)
    kernels = [node.name for _, node in parts if _kernel_of(node) is not None]
    code = "\n\n\n".join(_without_kernel(source, node) for source, node in parts)
    if kernels:
        code = re.sub(rf"\b({'|'.join(kernels)})\.definition\b", r"\1", code)
    defined = {node.name for _, node in parts} | {"kernel"}
    uses = [(source, set(names_in(node)) - defined) for source, node in parts]
    imports = import_lines(uses, exercise.imports)
    return "\n\n".join([_head(exercise), imports, "\n" + _marked(exercise, code), "\n" + _notes(exercise)])


def _head(exercise: Exercise) -> str:
    """What it is, and the way there: the hints."""
    steps = [
        textwrap.fill(hint, _WIDTH, initial_indent=f"{i}. ", subsequent_indent="   ", break_long_words=False)
        for i, hint in enumerate(exercise.hints, 1)
    ]
    title = f"Exercise {exercise.label}, solved: {exercise.title}."
    text = "\n".join([title, "", textwrap.fill(exercise.teaches, _WIDTH), "", *steps])
    return f'"""{text.replace(chr(92), chr(92) * 2)}\n"""'


def _notes(exercise: Exercise) -> str:
    """The known mistakes, numbered."""
    notes = [
        textwrap.fill(f"{m.name}: {m.why}", _WIDTH, initial_indent=f"# {i:2}  ", subsequent_indent="#     ")
        for i, m in enumerate(exercise.mistakes, 1)
    ]
    return "\n".join(["# What goes wrong, at the lines above that name the number, or as a whole:", *notes]) + "\n"


def _marked(exercise: Exercise, code: str) -> str:
    """The code with the numbers of the mistakes that begin in a line behind it; not where the line ends in a text."""
    marks: dict[int, list[int]] = {}
    for number, mistake in enumerate(exercise.mistakes, 1):
        at = code.find(mistake.replacements[0][0]) if mistake.replacements else -1
        if at >= 0:
            marks.setdefault(code.count("\n", 0, at), []).append(number)
    lines, inside = code.splitlines(), _lines_that_end_in_a_text(code)
    for i in marks.keys() - inside:
        lines[i] += f"  # see {', '.join(map(str, marks[i]))}"
    return "\n".join(lines)


def _lines_that_end_in_a_text(code: str) -> set[int]:
    """Counted from 0."""
    return {
        line
        for token in tokenize.generate_tokens(StringIO(code).readline)
        if token.type == tokenize.STRING
        for line in range(token.start[0] - 1, token.end[0] - 1)
    }


def _without_kernel(source: ModuleSource, node: Any) -> str:
    kernel = _kernel_of(node)
    drop = set() if kernel is None else set(range(kernel.lineno, kernel.end_lineno + 1))
    kept = range(first_line(node), node.end_lineno + 1)
    return textwrap.dedent("\n".join(source.lines[n - 1] for n in kept if n not in drop))


def _kernel_of(node: Any) -> Any:
    """The decorator that makes a kernel of it, if there is one."""
    return next((d for d in node.decorator_list if ast.unparse(d).partition("(")[0] == "kernel"), None)
