"""A failing case as a few lines of Python that can be pasted, and stepped through."""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import drivers
from .exercise import Case, Exercise, Same, Seeded, is_function_class, reference_to
from .grading.compare import Problem
from .grading.grade import Failure, Prepared, Result, prepare, without_answer

_MOST = 2000  # entries that are written out
_SHOWN = ("from numpy import inf, nan",)


def failing_case(result: Result, source: str) -> Failure | None:
    """The smallest case that fails; of a solution that did not answer the first that it does not answer.

    None if everything passed, or nothing of the file runs.
    """
    if result.smallest_failure is not None:
        return result.smallest_failure
    silent = next((c for c in result.checks if c.problem and c.problem.kind in ("process", "not allowed")), None)
    if silent is None:
        return None
    p = next(p for p in prepare(result.exercise, result.seed) if p.check.name == silent.name)
    position = without_answer(result.exercise, source, result.file, p)
    return Failure(p, position, p.expected[position], silent.problem or Problem("process", ""))


def snippet(exercise: Exercise, failure: Failure, seed: int, path: Path) -> str:
    """Python that runs the case on the learner's file and prints what comes out beside what is expected."""
    p, case = failure.prepared, failure.case
    problem = failure.problem
    head = [
        f"# Exercise {exercise.label}, {exercise.title}: the check {p.check.name!r} with seed {seed}.",
        f"# {' '.join(problem.message.split())}",
        f"# Next: {problem.next_step}",
    ]
    name = exercise.attribute
    learner = f"{name} = runpy.run_path({str(path.absolute())!r})[{name!r}]"
    imports = {"import runpy", "import numpy as np"}
    names, given = _arguments(exercise, p, case)
    if case.entries > _MOST and p.run is not None:
        number = next(i for i, c in enumerate(exercise.checks) if c.name == p.check.name)
        imports |= {
            "from exercises.catalog import find",
            "from exercises.drivers import prepared",
            "from exercises.grading.grade import prepare",
        }
        drawn = f"case = prepare(find({exercise.number}), {seed})[{number}]"
        values = [f"{drawn}.cases[{failure.position}]  # {case.entries:,} entries: too many to write out"]
        values += [f"{', '.join(names)}, = prepared(case).args"]
        words = list(names)
        expected = f"{drawn.partition(' = ')[2]}.expected[{failure.position}].value"
    else:
        values, words = given
        expected = literal(failure.expected.value)
    words += [f"{key}={literal(value)}" for key, value in case.settings.items()]
    if p.run is None:
        imports.add("from moe_numpy.autodiff import Tensor")
        lines = _gradient(name, words, names, failure)
    else:
        call = _call(p.run, name, words, imports, exercise)
        times = 2 if problem.kind == "state" else 1
        lines = [f'print("yours:", {call}, sep="\\n")'] * times
        lines += _expected(failure, expected)
    if problem.kind == "mutated":
        lines += [f'print("{each} afterwards:", {each}, sep="\\n")' for each in names]
    text = "\n".join([*values, "", *lines])
    if "inf" in text or "nan" in text:
        imports.update(_SHOWN)
    return "\n".join([*head, *_sorted(imports), "", learner, "", text]) + "\n"


def first_line_of(exercise: Exercise, source: str, failure: Failure) -> int:
    """Where in the learner's file the work begins, for a breakpoint; 1 if that cannot be seen."""
    method = "backward" if failure.prepared.run is None and failure.problem.kind != "exception" else "forward"
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return 1
    nodes = [n for n in tree.body if getattr(n, "name", None) == exercise.attribute]
    nodes += [n for c in nodes for n in getattr(c, "body", []) if getattr(n, "name", None) == method]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef)]
    if not functions:
        return 1
    body = functions[-1].body
    return body[1 if len(body) > 1 and ast.get_docstring(functions[-1]) is not None else 0].lineno


def literal(value: Any, layout: str = "C") -> str:
    """An expression that makes this value."""
    if isinstance(value, np.ndarray):
        return _array(value, layout)
    if isinstance(value, Seeded):
        return f"np.random.default_rng({value.seed})"
    if isinstance(value, tuple):
        return f"({', '.join(literal(v, layout) for v in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(literal(v, layout) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {literal(v, layout)}' for k, v in value.items())}}}"
    if isinstance(value, np.generic):
        return f"np.{value.dtype.name}({value})"
    return repr(value)


def _array(value: Any, layout: str) -> str:
    known = value.size and value.dtype in (np.float64, np.int64, np.bool_)  # by its entries
    dtype = "" if known else f", {'bool' if value.dtype == bool else f'np.{value.dtype.name}'}"
    order = ', order="F"' if layout == "F" else ""
    if not value.size:
        return f"np.zeros({value.shape}{dtype}{order})"
    text = np.array2string(value, separator=", ", threshold=sys.maxsize, floatmode="unique", max_line_width=80)
    text = re.sub(r" +(?=[,\]])", "", text).replace("\n", "\n    ")  # without what lined up the decimal points
    made = f"np.array({text}{dtype}{order})"
    if layout == "strided" and value.ndim:
        gaps = "".join(f".repeat(2, {axis})" for axis in range(value.ndim))
        return f"{made}{gaps}[{', '.join(['::2'] * value.ndim)}]"
    return made


def _arguments(exercise: Exercise, p: Prepared, case: Case) -> tuple[list[str], tuple[list[str], list[str]]]:
    """Names for the arguments; the lines that make arrays of them; and how each stands in the call."""
    solution = exercise.solution
    own = p.run is not None and p.run not in (drivers.call, drivers.forward)
    face = p.run if own else solution.forward if is_function_class(solution) else solution
    parameters = list(inspect.signature(face).parameters.values())[1 if own or is_function_class(solution) else 0 :]
    names = [each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD]
    if len(names) < len(case.args):  # *args
        names = [f"x{i}" for i in range(len(case.args))]
    names = [f"{name}_" if name == exercise.attribute else name for name in names[: len(case.args)]]
    lines, words = [], []
    for i, (name, value) in enumerate(zip(names, case.args, strict=True)):
        if isinstance(value, Same):
            words.append(names[value.position])
        elif _has_array(value):
            made = literal(value, case.layout)
            traced = p.run is None and i in drivers.differentiable(case)
            lines.append(f"{name} = Tensor({made}, requires_grad=True)" if traced else f"{name} = {made}")
            words.append(name)
        else:
            words.append(literal(value))
    return names, (lines, words)


def _has_array(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_array, value))
    return isinstance(value, np.ndarray)


def _call(run: Any, name: str, words: list[str], imports: set[str], exercise: Exercise) -> str:
    arguments = ", ".join(words)
    if run is drivers.call or (run is drivers.forward and not is_function_class(exercise.solution)):
        return f"{name}({arguments})"
    if run is drivers.forward:
        return f"{name}().forward({arguments})"
    module, _, driver = reference_to(run).partition(":")
    imports.add(f"from {module} import {driver}")
    return f"{driver}({', '.join([name, arguments] if arguments else [name])})"


def _gradient(name: str, words: list[str], names: list[str], failure: Failure) -> list[str]:
    """Forward, backward from the case's own gradients, and the gradients of the arguments."""
    case = failure.case
    outputs = failure.expected.forward
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    ys = [f"y{i}" for i in range(len(outputs))] if len(outputs) > 1 else ["y"]
    floats = [y for y, value in zip(ys, outputs, strict=True) if value.dtype.kind == "f"]
    lines = [f"{', '.join(ys)} = {name}.apply({', '.join(words)})"]
    for y, cotangent in zip(floats, case.cotangents or (), strict=True):
        again = ", retain_graph=True" if len(floats) > 1 else ""
        lines.append(f"{y}.backward({literal(cotangent, case.layout)}{again})")
    values = failure.expected.value or ()
    for i, expected in zip(drivers.differentiable(case), values, strict=True):
        lines.append(f'print("gradient of {names[i]}, yours:", {names[i]}.grad, sep="\\n")')
        lines.append(f'print("expected:", {literal(expected)}, sep="\\n")')
    return lines


def _expected(failure: Failure, expected: str) -> list[str]:
    error = failure.expected.error
    if error is not None:
        return [f'print("expected: {error["type"]}")']
    return [f'print("expected:", {expected}, sep="\\n")']


def _sorted(imports: set[str]) -> list[str]:
    return sorted(imports, key=lambda line: (line != "import runpy", "numpy" not in line, "moe" in line, line))
