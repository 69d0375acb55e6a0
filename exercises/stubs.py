"""The file that a learner edits, made from the library's own source: signature and docstring stay, the body goes."""

import ast
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from .exercise import Exercise, is_function_class
from .source import ModuleSource, first_line, names_in, source_of

_BODY = 'raise NotImplementedError("your turn")'
_UNDERIVED = "The formula of the derivative is left out: derive it on paper first. The hints lead to it."


def make_stub(exercise: Exercise, *, derive: bool = False) -> str:
    """The source of an exercise's file before anything is solved.

    Args:
        exercise: any.
        derive: leave out the formula of the derivative, so that it has to be derived.

    Raises:
        ValueError: ``derive`` of an exercise without a derivative.
    """
    if derive and not has_derivative(exercise):
        raise ValueError(f"exercise {exercise.label} has no derivative to derive; those of Functions have")
    module_name, _, qualname = exercise.target.partition(":")
    source = source_of(module_name)
    node = source.find(qualname)
    if isinstance(node, ast.ClassDef):
        body = _class_stub(node, source.lines, derive)
    else:
        body = _function_stub(node, source.lines)
    body = textwrap.dedent(body)
    used = set(names_in(ast.parse(body))) - {exercise.attribute}
    owner = qualname.rpartition(".")[0]
    teaches = _UNDERIVED if derive else exercise.teaches  # which may say what the gradient is
    head = [
        f'"""Exercise {exercise.label}: {exercise.title}.',
        "",
        *textwrap.wrap(teaches, 100),
        *([f"A method of {owner} in {module_name}: self is one."] if owner else []),
        "",
        f"Check it:  python -m exercises check {exercise.label}",
        f"A hint:    python -m exercises hint {exercise.label}",
        '"""',
    ]
    return "\n".join(head) + "\n\n" + import_lines([(source, used)], exercise.imports) + "\n\n\n" + body + "\n"


def has_derivative(exercise: Exercise) -> bool:
    """Whether there is a stub without the formula of a derivative."""
    return is_function_class(exercise.solution)


def stubs_of(exercise: Exercise) -> list[str]:
    """What a learner's file may hold before anything is written into it."""
    kinds = (False, True) if has_derivative(exercise) else (False,)
    return [make_stub(exercise, derive=derive) for derive in kinds]


def _class_stub(node: ast.ClassDef, lines: list[str], derive: bool) -> str:
    """The class with its docstring, its plain attributes and its public methods without bodies."""
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = first.end_lineno if has_docstring else first.lineno - 1
    parts = ["\n".join(lines[first_line(node) - 1 : end])]
    for member in node.body[1 if has_docstring else 0 :]:
        if isinstance(member, ast.FunctionDef):
            if derive and member.name == "backward":
                parts.append(_backward_to_derive(member, node, lines))
            elif not member.name.startswith("_") or member.name == "__init__":
                parts.append(_function_stub(member, lines))
        else:
            parts.append("\n".join(lines[member.lineno - 1 : member.end_lineno]))
    return "\n\n".join(parts)


def _backward_to_derive(backward: Any, owner: ast.ClassDef, lines: list[str]) -> str:
    """Its signature, with a docstring made from that of forward."""
    forward = next(m for m in owner.body if isinstance(m, ast.FunctionDef) and m.name == "forward")
    names = ", ".join(a.arg for a in forward.args.args[1:])
    indent = " " * (backward.col_offset + 4)
    given = " and ".join(f"``{a.arg}``" for a in backward.args.args[1:])
    docstring = [
        f'{indent}"""The gradients of {names}, from {given}, the gradient of what forward returned.',
        "",
        f"{indent}Derive them. An argument of integers has none: None in its place.",
        f'{indent}"""',
    ]
    signature = lines[backward.lineno - 1 : backward.body[0].lineno - 1]
    return "\n".join([*signature, *docstring, indent + _BODY])


def _function_stub(node: Any, lines: list[str]) -> str:
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = first.end_lineno if has_docstring else first.lineno - 1
    indent = " " * (node.col_offset + 4)
    decorators = [lines[d.lineno - 1] for d in node.decorator_list if ast.unparse(d).partition("(")[0] != "kernel"]
    return "\n".join([*decorators, *lines[node.lineno - 1 : end], indent + _BODY])


def import_lines(uses: Iterable[tuple[ModuleSource, set[str]]], further: Sequence[str] = ()) -> str:
    """Import lines for the names that code taken from these modules uses, and further ones."""
    wanted: dict[str, set[str]] = {}
    plain = {"import numpy as np"}
    for (module, tree, _), used in uses:
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
                        name = alias.name + (f" as {alias.asname}" if alias.asname else "")
                        wanted.setdefault(origin, set()).add(name)
            elif used.intersection(_defined(node)):
                wanted.setdefault(module.__name__, set()).update(used.intersection(_defined(node)))
    lines = sorted(plain) + [f"from {origin} import {', '.join(sorted(names))}" for origin, names in wanted.items()]
    lines += [line for line in further if line not in lines]
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
