"""The library's source of a solution, and what comes of running a changed copy of it."""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class ModuleSource(NamedTuple):
    """A module with its source, as a tree and as lines."""

    module: Any
    tree: ast.Module
    lines: list[str]

    def find(self, qualname: str) -> Any:
        """The definition of this name. StopIteration if there is none."""
        node: Any = self.tree
        for part in qualname.split("."):
            node = next(n for n in node.body if getattr(n, "name", None) == part)
        return node

    def text(self, node: Any) -> str:
        """The source of a definition with its decorators, not indented."""
        return textwrap.dedent("\n".join(self.lines[first_line(node) - 1 : node.end_lineno]))


@cache
def source_of(module: str) -> ModuleSource:
    """The source of a module, by its name."""
    loaded = importlib.import_module(module)
    text = Path(inspect.getsourcefile(loaded) or "").read_text(encoding="utf-8")
    return ModuleSource(loaded, ast.parse(text), text.splitlines())


@cache
def solution_source(target: str) -> str:
    """The source of ``module:qualname``, followed by the kernels and the private helpers that it calls."""
    return "\n\n\n".join(source.text(node) for source, node in parts_of(target)) + "\n"


def run_edited(target: str, text: str, file: str) -> Any:
    """Run an edited :func:`solution_source` in a copy of its modules' names; return what it defines as the target.

    Its kernels are the plain functions: nothing is registered, and what is called is what the text defines.
    """
    names: dict[str, Any] = {"np": np}
    for source, _ in reversed(parts_of(target)):
        names |= vars(source.module)
    names["kernel"] = _plain_kernel
    exec(_compiled(text, file), names)
    return names[target.rpartition(":")[2].rpartition(".")[2]]


@cache
def _compiled(text: str, file: str) -> Any:
    return compile(text, file, "exec", dont_inherit=True)


def first_line(node: Any) -> int:
    """Of a definition: that of its first decorator, if it has one."""
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def names_in(node: ast.AST) -> list[str]:
    """The names that code uses, in the order of their first appearance."""
    found = sorted((n for n in ast.walk(node) if isinstance(n, ast.Name)), key=lambda n: (n.lineno, n.col_offset))
    return list(dict.fromkeys(n.id for n in found))


@cache
def parts_of(target: str) -> list[tuple[ModuleSource, Any]]:
    """The definitions that make up a solution, the target first."""
    module, _, qualname = target.partition(":")
    parts = [(source_of(module), source_of(module).find(qualname))]
    for source, node in parts:  # grows while it is walked
        for part in _called(source, node):
            if part not in parts:
                parts.append(part)
    return parts


def _called(source: ModuleSource, node: Any) -> Iterator[tuple[ModuleSource, Any]]:
    helpers = {getattr(n, "name", ""): n for n in source.tree.body}
    for name in names_in(node):
        definition = getattr(vars(source.module).get(name), "definition", None)
        if inspect.isfunction(definition):
            elsewhere = source_of(definition.__module__)
            yield elsewhere, elsewhere.find(definition.__name__)
        elif name.startswith("_") and name in helpers:
            yield source, helpers[name]


def _plain_kernel(function: Any = None, **settings: Any) -> Callable[..., Any]:
    """In the place of ``@kernel``: the function itself."""
    if function is None:
        return _plain_kernel
    function.definition = function
    return function
