"""Numeric derivatives with an error bound: one step where that is enough, a ladder of steps elsewhere.

Every output is differenced by itself and weighted afterwards. So an output that a step leaves alone contributes
exactly zero, however large it is, and each output takes the step that shows it best. None of this looks at the
analytic gradient: a wrong backward cannot pass for a kink.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .draws import typical_size
from .ladder import HIDDEN, RUNGS, SIGMAS, SMALLEST, UNTRIED, best, ladder_steps, power_of_two, why_hidden
from .point import Point, flattened
from .stencil import EPSILON, Obstacle, Stencil, stencil

VISIBLE = 1e-3  # a slope is visible if its error is below this fraction of the terms it is the sum of
_CLEAR = 1e-5  # at this fraction one step is enough
_CANCELLED = 1e3  # terms that cancel in an output are taken to be at most this much larger than the inputs


@dataclass
class Slopes:
    """dL/dx for some entries, for each cotangent; arrays of shape [cotangents, entries].

    ``error`` bounds what the finite difference loses, ``terms`` is Σ |cotangent · dy/dx|,
    ``scale`` is Σ |cotangent · y| over the size of the entry, ``moved`` the same over the
    outputs that the entry moves; a slope below ``absorbed`` moves no output at all. ``reason[i]`` says why entry i
    has no derivative, or none that can be seen; it is None where the slope is visible.
    """

    value: Any
    error: Any
    terms: Any
    scale: Any
    moved: Any
    absorbed: Any
    reason: list[str | None]
    decided: Any  # a mask of the entries where a recorded choice is too near

    @property
    def clear(self) -> Any:
        """A mask of the entries whose error is negligible."""
        return (self.error <= _CLEAR * self.terms).all(axis=0)

    def is_hidden(self, n: int) -> bool:
        """Whether rounding is what keeps entry n from being compared."""
        return self.reason[n] in (None, HIDDEN)


def empty(cotangents: int, entries: int) -> Slopes:
    """Room for slopes."""
    value, error, terms, scale, moved, absorbed = np.zeros((6, cotangents, entries))
    return Slopes(value, error, terms, scale, moved, absorbed, [None] * entries, np.zeros(entries, dtype=bool))


def slopes(point: Point, which: int, entries: Any, eps: float) -> Slopes:
    """Slopes from one step per entry, eps times its size."""
    result = empty(len(point.every_cotangent), len(entries))
    weights = _Weights(point)
    noise = SIGMAS * (point.rounding + 2 * EPSILON * np.abs(point.flat) + SMALLEST)
    sizes = _sizes(point.inputs[which], entries)
    for n, entry in enumerate(map(int, entries)):
        result.scale[:, n] = weights.scale / min(sizes[n], 1)
        found = stencil(point, _along(point, which, entry), power_of_two(eps * float(sizes[n])))
        if isinstance(found, Obstacle):
            result.reason[n], result.decided[n], result.error[:, n] = found.reason, found.decision, np.inf
            continue
        result.absorbed[:, n] = EPSILON * weights.outputs / found.step
        error = (found.bend + noise + 2 * EPSILON * found.reach) / found.step
        weights.fill(result, n, found.slope, np.where(found.reach > 0, error, 0.0), found.reach > 0)
    return result


def refine(point: Point, which: int, entries: Any, eps: float, coarse: Slopes, chosen: Any) -> None:
    """Measure the chosen positions of ``entries`` again, with a ladder of steps, into ``coarse``."""
    x = point.inputs[which]
    weights, largest = _Weights(point), float(np.abs(x).max(initial=0.0))
    for n, size in zip(map(int, chosen), _sizes(x, entries[chosen]), strict=True):
        steps = ladder_steps(eps, float(size), abs(float(x.flat[entries[n]])), largest)
        _climb(point, _along(point, which, int(entries[n])), steps, eps * float(size), coarse, n, weights)


def along_direction(point: Point, direction: Sequence[Any], eps: float) -> Slopes:
    """The one slope along a direction in the space of all inputs."""
    result = empty(len(point.every_cotangent), 1)

    def shifted(t: float) -> list[Any]:
        return [x + t * d for x, d in zip(point.inputs, direction, strict=True)]

    weights = _Weights(point)
    result.scale[:, 0] = weights.scale
    _climb(point, shifted, [eps * rung for rung in RUNGS[2:]], eps, result, 0, weights)
    return result


def contributions(point: Point, which: int, entry: int, eps: float) -> list[Any]:
    """The terms of dL/d(entry) before they are summed: cotangent · d(output)/d(entry) for each output."""
    x = point.inputs[which]
    size = float(_sizes(x, [entry])[0])
    steps = ladder_steps(eps, size, abs(float(x.flat[entry])), float(np.abs(x).max()))
    found = [stencil(point, _along(point, which, entry), h) for h in steps]
    rungs = [rung for rung in found if isinstance(rung, Stencil)]
    slope = best(point, rungs, eps * size)[0] if len(rungs) > UNTRIED else np.full(point.flat.size, np.nan)
    ends = np.cumsum([y.size for y in point.outputs])[:-1]
    parts = np.split(slope, ends)
    return [c * part.reshape(c.shape) for c, part in zip(point.cotangents, parts, strict=True)]


def _climb(
    point: Point,
    shifted: Callable[[float], Sequence[Any]],
    steps: Sequence[float],
    usual: float,
    result: Slopes,
    n: int,
    weights: "_Weights",
) -> None:
    """Slope n of ``result`` along a line, from a ladder of falling steps."""
    found = [stencil(point, shifted, h) for h in steps]
    rungs = [rung for rung in found if isinstance(rung, Stencil)]
    result.reason[n] = None
    if len(rungs) <= UNTRIED:
        obstacles = [rung for rung in found if isinstance(rung, Obstacle)]
        result.reason[n], result.error[:, n] = obstacles[-1].reason, np.inf
        return
    slope, error = best(point, rungs, usual)
    weights.fill(result, n, slope, error, np.any([rung.reach > 0 for rung in rungs], axis=0))
    if not (result.error[:, n] <= VISIBLE * result.terms[:, n]).all():
        result.reason[n] = why_hidden(point, rungs, weights.absolute[0])


class _Weights:
    """The cotangents of a point as a matrix, [cotangents, outputs]."""

    def __init__(self, point: Point):
        self.matrix = np.array([flattened(c) for c in point.every_cotangent])
        self.absolute = np.abs(self.matrix)
        self.outputs = self.absolute @ np.abs(point.flat)
        # Where an output is nothing but rounding, what cancelled in it was of this size.
        cancelled = np.minimum(point.rounding / EPSILON, _CANCELLED * (1 + max(map(typical_size, point.inputs))))
        self.sizes = np.maximum(np.abs(point.flat), cancelled)
        self.scale = self.absolute @ self.sizes

    def fill(self, result: Slopes, n: int, slope: Any, error: Any, moved: Any) -> None:
        result.value[:, n] = self.matrix @ slope
        result.error[:, n] = self.absolute @ error
        result.terms[:, n] = self.absolute @ np.abs(slope)
        share = self.absolute @ np.where(moved, self.sizes, 0.0) / np.where(self.scale > 0, self.scale, 1)
        result.moved[:, n] = share * result.scale[:, n]


def _sizes(x: Any, entries: Any) -> Any:
    return np.maximum(np.abs(x.ravel()[entries]), typical_size(x))


def _along(point: Point, which: int, entry: int) -> Callable[[float], list[Any]]:
    def shifted(t: float) -> list[Any]:
        x = point.inputs[which].copy()
        x.reshape(-1)[entry] += t
        return [*point.inputs[:which], x, *point.inputs[which + 1 :]]

    return shifted
