"""float32 arithmetic inside a function of float64 arrays."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .comparison import Comparison, Gradients
from .draws import displaced
from .point import Graph, Point, evaluate

_FLOAT64_ROUNDS = 1e-10  # rounding of outputs: float64 stays below 1e-13 in sane code, float32 reaches 1e-7
_FLOAT64_LOSES = 3e-9  # a float32 number in the path of the gradient costs 3e-8, the 4-point rule about 1e-11


def coarse_forward(point: Point, rng: np.random.Generator) -> list[str]:
    """Outputs that change in coarse steps, here and nearby, where float32 arrays are seen inside forward.

    The cancellation of large float64 numbers looks the same from outside; that is no mistake.
    """
    places = [point, *(point.elsewhere(displaced(point.inputs, rng), rng) for _ in range(2))]
    if not all(p is not None and _is_coarse(p) for p in places):
        return []
    if _holds_float32(point.flat[np.abs(point.flat) > 100 * point.rounding]) or _saw_float32(
        lambda: evaluate(point.f, point.inputs)
    ):
        return ["the outputs change in steps as coarse as float32: look for float32 arithmetic inside forward"]
    return []


def coarse_backward(point: Point, gradients: Gradients, which: int, found: Comparison) -> list[str]:
    """A gradient that is off everywhere by more than float64 loses, though within tolerance."""
    analytic, numeric = found.analytic[0], found.slopes.value[0]
    counted = found.told & (analytic != 0)
    error = np.abs(analytic - numeric)[counted] / np.abs(analytic[counted])
    if counted.sum() < 3 or np.median(error) < _FLOAT64_LOSES or found.wrong.any():
        return []
    graph = Graph(point.f, point.inputs)
    if not _holds_float32(analytic) and not _saw_float32(lambda: graph.backward(point.cotangents)):
        return []
    return [
        f"{point.names[which]}: the gradient is off by about {np.median(error):.0e} "
        "everywhere. That passes the tolerance, but it looks like float32 arithmetic inside"
    ]


def _is_coarse(point: Point) -> bool:
    size = np.abs(point.flat).max(initial=0.0)
    return bool((point.rounding > _FLOAT64_ROUNDS * size).any())


def _holds_float32(values: Any) -> bool:
    """Whether all are numbers of float32, and not multiples of one coarse quantum, as cancellation leaves them."""
    some = values[(np.abs(values) > 1e-30) & (np.abs(values) < 1e30)]
    if some.size < 3 or not (some == some.astype(np.float32)).all():
        return False
    in_quanta = np.ldexp(some, 27 - np.frexp(np.abs(some).max())[1])
    return bool((in_quanta != np.round(in_quanta)).any())


def _saw_float32(run: Callable[[], Any]) -> bool:
    """Whether a Python frame of the run holds, returns or calls a method of a float32 array."""
    seen = False

    def look(frame: Any, event: str, arg: Any) -> None:
        nonlocal seen
        if seen or event == "call":
            return
        values = [getattr(arg, "__self__", None)] if event.startswith("c_") else [arg, *frame.f_locals.values()]
        seen = any(isinstance(v, np.ndarray | np.generic) and v.dtype in (np.float32, np.float16) for v in values)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(before)
    return seen
