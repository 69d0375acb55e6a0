"""Problems that belong to no single entry: of f, which must allow finite differences, and of backward."""

from typing import Any

import numpy as np

from .finite_differences import Point, displaced, evaluate

_REPEATABLE = 1e-9  # BLAS may sum in a different order from run to run
_FLOAT64_ROUNDS = 1e-10  # rounding of outputs: float64 stays below 1e-13 in sane code, float32 reaches 1e-7


def forward_problems(point: Point, rng: np.random.Generator) -> list[str]:
    """Why f cannot be checked; empty if it is repeatable, finite, in float64 and leaves its inputs alone."""
    problems = list(point.side_effects)
    again, _ = evaluate(point.f, [x.copy() for x in point.inputs])
    if not problems and not all(map(_equal, point.outputs, again)):
        problems.append(
            "f is not deterministic: two runs on the same inputs differ; "
            "create the random generator inside f, from a fixed seed"
        )
    for i, y in enumerate(point.outputs):
        if y.dtype != np.float64:
            problems.append(f"output {i} is {y.dtype} for float64 inputs: look for where that type comes in")
        elif not np.isfinite(y).all():
            problems.append(f"output {i} is not finite: {np.count_nonzero(~np.isfinite(y))} of {y.size} entries")
    if not point.outputs:
        problems.append("f has no floating-point output")
    if not problems and _is_coarse(point, rng):
        problems.append("the outputs change in steps as coarse as float32: look for float32 arithmetic inside forward")
    return problems


def backward_problems(point: Point, gradients: list[Any], rng: np.random.Generator) -> list[str]:
    """Where backward does not repeat ``gradients``, replaces .grad, or writes to the arrays it is given."""
    problems = []
    for name, first, second in zip(point.names, gradients, point.gradients(), strict=True):
        if not _equal(first, second):
            problems.append(f"{name}: a second backward, on a fresh graph, gives a different gradient")
    start = [rng.standard_normal(x.shape) for x in point.inputs]
    for name, first, total, old in zip(point.names, gradients, point.gradients(start), start, strict=True):
        if first is not None and not _equal(total, first + old):
            problems.append(f"{name}: backward replaces what .grad holds instead of adding to it")
    return problems + list(dict.fromkeys(point.side_effects))


def _is_coarse(point: Point, rng: np.random.Generator) -> bool:
    """Whether rounding is far beyond float64 here and nearby; a jump would show at one point only."""
    if point.rounding(rng) < _FLOAT64_ROUNDS:
        return False
    nearby = [displaced(point.inputs, rng) for _ in range(3)]
    return all(Point(point.f, inputs, point.names, rng).rounding(rng) > _FLOAT64_ROUNDS for inputs in nearby)


def _equal(a: Any, b: Any) -> bool:
    """Whether a equals b up to the order in which a library may sum."""
    if a is None or b is None or a.shape != b.shape:
        return a is b
    size = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    return np.allclose(a, b, rtol=0, atol=_REPEATABLE * size, equal_nan=True)
