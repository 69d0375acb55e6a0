"""Whether a solution calls the library's own answer: read off its source, which is never run here.

What no reading shows is seen while it runs, by ``grading.borrowing``.
"""

import ast
import sys
import warnings
from typing import Any

from .exercise import Exercise

_OURS = ("moe_numpy", "exercises")


def own_answer_in(exercise: Exercise, source: str) -> str:
    """The first name in the source that stands for the library's own answer; empty if there is none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    names = _imported(tree)
    if _is_answer(exercise, names.get(exercise.attribute, "")):  # imported under the required name
        return exercise.attribute
    for node in ast.walk(tree):
        path = _dotted(node)
        head, _, rest = path.partition(".")
        if head in names and _is_answer(exercise, ".".join(p for p in (names[head], rest) if p)):
            return path
        if _calls_own_method(exercise, node):
            return exercise.attribute
    return ""


def _imported(tree: ast.Module) -> dict[str, str]:
    """What the names that are imported from the project stand for, wherever the import is."""
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                names[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found = _public(node.module or "") if alias.name == "*" else [alias.name]
                names |= {alias.asname or name: f"{node.module}.{name}" for name in found}
    top = {n.asname or n.name for node in tree.body if isinstance(node, ast.ImportFrom) for n in node.names}
    own = {name for name in defined if name not in top}  # a definition stands where a star would have put its name
    return {name: path for name, path in names.items() if path.partition(".")[0] in _OURS and name not in own}


def _public(module: str) -> list[str]:
    if module.partition(".")[0] not in _OURS:
        return []
    loaded = _resolved(module)
    return [] if loaded is None else list(getattr(loaded, "__all__", None) or vars(loaded))


def _dotted(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _is_answer(exercise: Exercise, path: str) -> bool:
    """Whether it leads to the answer, through it (``Softmax.apply``), to a kernel of its name, or to an oracle."""
    parts = path.split(".")
    found = [_resolved(".".join(parts[:n])) for n in range(1, len(parts) + 1)]
    if any(getattr(thing, "definition", thing) is exercise.solution for thing in found):
        return True
    defined_in = path if found[-1] is None else getattr(found[-1], "__module__", None) or ""
    return is_namesake(exercise, parts[-1]) or defined_in.startswith(("exercises.catalog", "exercises.reference"))


def is_namesake(exercise: Exercise, name: str) -> bool:
    """Whether it is called as the answer is: a kernel of a Function, forward or backward."""
    return _plain(name).removesuffix("gradient") == _plain(exercise.attribute)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _resolved(path: str) -> Any:
    """What a dotted path leads to among the loaded modules; None if to nothing. Nothing is imported for a solution."""
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        thing: Any = sys.modules.get(".".join(parts[:n]))
        if thing is not None:
            for part in parts[n:]:
                thing = getattr(thing, part, None)
            return thing
    return None


def _calls_own_method(exercise: Exercise, node: ast.AST) -> bool:
    """``self.fits(...)``, or calling self, where the exercise is that method of a class of the library."""
    owner, _, method = exercise.target.partition(":")[2].rpartition(".")
    if not owner or not isinstance(node, ast.Call):
        return False
    function = node.func
    if method == "__call__":
        return isinstance(function, ast.Name) and function.id == "self"
    if not isinstance(function, ast.Attribute) or function.attr != method:
        return False
    of = function.value.func if isinstance(function.value, ast.Call) else function.value
    return _dotted(of).rpartition(".")[2] in ("self", "super", "type", owner)  # also super().f(), Owner().f()
