"""The file that a learner edits, made from the library's own source: signature and docstring stay, the body goes."""

import ast
import importlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

from moe_numpy.kernels import on_numpy

from .exercise import Exercise

_BODY = 'raise NotImplementedError("your turn")'


def make_stub(exercise: Exercise) -> str:
    """The source of an exercise's file before anything is solved."""
    module_name, _, qualname = exercise.target.partition(":")
    module = importlib.import_module(module_name)
    source = Path(inspect.getsourcefile(module) or "").read_text(encoding="utf-8")
    tree = ast.parse(source)
    node = _find(tree, qualname)
    lines = source.splitlines()
    body = _class_stub(node, lines) if isinstance(node, ast.ClassDef) else _function_stub(node, lines)
    body = textwrap.dedent(body)
    imports = _imports(tree, module, body, exercise)
    owner = qualname.rpartition(".")[0]
    head = [
        f'"""Exercise {exercise.label}: {exercise.title}.',
        "",
        *textwrap.wrap(exercise.teaches, 100),
        *([f"A method of {owner} in {module_name}: self is one."] if owner else []),
        "",
        f"Check it:  python -m exercises check {exercise.label}",
        f"A hint:    python -m exercises hint {exercise.label}",
        '"""',
    ]
    return "\n".join(head) + "\n\n" + imports + "\n\n\n" + body + "\n"


def solution_source(exercise: Exercise) -> str:
    """The library's source of the solution, with the module's private helpers that it calls."""
    module_name, _, qualname = exercise.target.partition(":")
    module = importlib.import_module(module_name)
    source = Path(inspect.getsourcefile(module) or "").read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    parts = [_find(tree, qualname)]
    for node in parts:  # grows while it is walked
        for name in sorted(_names(node)):
            if name.startswith("_") and not name.startswith("__"):
                helper = next((n for n in tree.body if getattr(n, "name", None) == name), None)
                if helper is not None and helper not in parts:
                    parts.append(helper)
    texts = [textwrap.dedent("\n".join(lines[_first_line(n) - 1 : n.end_lineno])) for n in parts]
    return "\n\n\n".join(texts) + "\n"


def kernels_source(exercise: Exercise) -> str:
    """The kernels that the solution calls, as NumPy defines them; empty if there are none."""
    called = {
        node.attr
        for node in ast.walk(ast.parse(solution_source(exercise)))
        if isinstance(node, ast.Attribute) and _is_kernels(node.value)
    }
    return "\n\n".join(inspect.getsource(getattr(on_numpy, name)) for name in sorted(called) if hasattr(on_numpy, name))


def _is_kernels(node: ast.expr) -> bool:
    """``kernels.of(...)``, or the name k that the library gives it."""
    if isinstance(node, ast.Name):
        return node.id == "k"
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "kernels.of"


def _find(tree: ast.Module, qualname: str) -> Any:
    node: Any = tree
    for part in qualname.split("."):
        node = next(n for n in node.body if getattr(n, "name", None) == part)
    return node


def _class_stub(node: ast.ClassDef, lines: list[str]) -> str:
    """The class with its docstring, its plain attributes and its public methods without bodies."""
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = first.end_lineno if has_docstring else first.lineno - 1
    parts = ["\n".join(lines[_first_line(node) - 1 : end])]
    for member in node.body[1 if has_docstring else 0 :]:
        if isinstance(member, ast.FunctionDef):
            if not member.name.startswith("_") or member.name == "__init__":
                parts.append(_function_stub(member, lines))
        else:
            parts.append("\n".join(lines[member.lineno - 1 : member.end_lineno]))
    return "\n\n".join(parts)


def _function_stub(node: Any, lines: list[str]) -> str:
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = first.end_lineno if has_docstring else first.lineno - 1
    indent = " " * (node.col_offset + 4)
    return "\n".join([*lines[_first_line(node) - 1 : end], indent + _BODY])


def _first_line(node: Any) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def _imports(tree: ast.Module, module: Any, body: str, exercise: Exercise) -> str:
    """Import lines for the names that the stub uses, and for those that its author says a body will need."""
    used = _names(ast.parse(body)) - {exercise.attribute}
    wanted: dict[str, set[str]] = {}
    plain: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) in used:
                    plain.add(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
        elif isinstance(node, ast.ImportFrom):
            package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            origin = ".".join(p for p in (package if node.level else "", node.module) if p)
            for alias in node.names:
                if (alias.asname or alias.name) in used:
                    wanted.setdefault(origin, set()).add(alias.name + (f" as {alias.asname}" if alias.asname else ""))
        elif used.intersection(_defined(node)):
            wanted.setdefault(module.__name__, set()).update(used.intersection(_defined(node)))
    plain.add("import numpy as np")
    lines = sorted(plain) + [f"from {origin} import {', '.join(sorted(names))}" for origin, names in wanted.items()]
    lines += [line for line in exercise.imports if line not in lines]
    ours = [line for line in lines if "moe_numpy" in line]
    standard = [line for line in lines if line not in ours and "numpy" not in line and "numba" not in line]
    others = [line for line in lines if line not in ours and line not in standard]
    return "\n\n".join("\n".join(sorted(group)) for group in (standard, others, ours) if group)


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement at the top level of a module gives a meaning: classes, functions, aliases."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
