"""The file that a learner edits, made from the library's own source: signature and docstring stay, the body goes."""

import ast
import textwrap
from typing import Any

from .exercise import Exercise
from .source import first_line, names_in, source_of

_BODY = 'raise NotImplementedError("your turn")'


def make_stub(exercise: Exercise) -> str:
    """The source of an exercise's file before anything is solved."""
    module_name, _, qualname = exercise.target.partition(":")
    module, tree, lines = source = source_of(module_name)
    node = source.find(qualname)
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


def _class_stub(node: ast.ClassDef, lines: list[str]) -> str:
    """The class with its docstring, its plain attributes and its public methods without bodies."""
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = first.end_lineno if has_docstring else first.lineno - 1
    parts = ["\n".join(lines[first_line(node) - 1 : end])]
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
    decorators = [lines[d.lineno - 1] for d in node.decorator_list if ast.unparse(d).partition("(")[0] != "kernel"]
    return "\n".join([*decorators, *lines[node.lineno - 1 : end], indent + _BODY])


def _imports(tree: ast.Module, module: Any, body: str, exercise: Exercise) -> str:
    """Import lines for the names that the stub uses, and for those that its author says a body will need."""
    used = set(names_in(ast.parse(body))) - {exercise.attribute}
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
