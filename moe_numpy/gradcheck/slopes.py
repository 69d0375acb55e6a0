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
from .point import Point, flattened
from .stencil import EPSILON, Obstacle, Stencil, stencil

VISIBLE = 1e-3  # a slope is visible if its error is below this fraction of the terms it is the sum of
HIDDEN = "rounding of the outputs hides so small a slope"
_CLEAR = 1e-5  # at this fraction one step is enough
_CANCELLED = 1e3  # terms that cancel in an output are taken to be at most this much larger than the inputs
_SIGMAS = 6
_NEAR = 50  # a flat stretch is doubted if a step up to this multiple of the usual one shows a clear slope
_AGREE = 0.1  # how far a slope from a coarse step may be from that of the next finer one
_SMALLEST = float(np.finfo(np.float64).smallest_subnormal)
_RUNGS = [32.0**k for k in (3, 2, 1, 0, -1, -2, -3, -4, -5)]  # of the ladder, relative to the usual step
_UNTRIED = 2  # the finest rungs only show how large rounding is


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
    noise = _SIGMAS * (point.rounding + 2 * EPSILON * np.abs(point.flat) + _SMALLEST)
    sizes = _sizes(point.inputs[which], entries)
    for n, entry in enumerate(map(int, entries)):
        result.scale[:, n] = weights.scale / min(sizes[n], 1)
        found = stencil(point, _along(point, which, entry), _power_of_two(eps * float(sizes[n])))
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
        steps = _steps(eps, float(size), abs(float(x.flat[entries[n]])), largest)
        _climb(point, _along(point, which, int(entries[n])), steps, eps * float(size), coarse, n, weights)


def along_direction(point: Point, direction: Sequence[Any], eps: float) -> Slopes:
    """The one slope along a direction in the space of all inputs."""
    result = empty(len(point.every_cotangent), 1)

    def shifted(t: float) -> list[Any]:
        return [x + t * d for x, d in zip(point.inputs, direction, strict=True)]

    weights = _Weights(point)
    result.scale[:, 0] = weights.scale
    _climb(point, shifted, [eps * rung for rung in _RUNGS[2:]], eps, result, 0, weights)
    return result


def contributions(point: Point, which: int, entry: int, eps: float) -> list[Any]:
    """The terms of dL/d(entry) before they are summed: cotangent · d(output)/d(entry) for each output."""
    x = point.inputs[which]
    size = float(_sizes(x, [entry])[0])
    steps = _steps(eps, size, abs(float(x.flat[entry])), float(np.abs(x).max()))
    found = [stencil(point, _along(point, which, entry), h) for h in steps]
    rungs = [rung for rung in found if isinstance(rung, Stencil)]
    slope = _best(point, rungs, eps * size)[0] if len(rungs) > _UNTRIED else np.full(point.flat.size, np.nan)
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
    if len(rungs) <= _UNTRIED:
        obstacles = [rung for rung in found if isinstance(rung, Obstacle)]
        result.reason[n], result.error[:, n] = obstacles[-1].reason, np.inf
        return
    slope, error = _best(point, rungs, usual)
    weights.fill(result, n, slope, error, np.any([rung.reach > 0 for rung in rungs], axis=0))
    if not (result.error[:, n] <= VISIBLE * result.terms[:, n]).all():
        result.reason[n] = _why_hidden(point, rungs[: len(rungs) - _UNTRIED][-3:], weights)


def _best(point: Point, rungs: list[Stencil], usual: float) -> tuple[Any, Any]:
    """Per output, the slope from the step with the smallest error, and that error; ``usual`` is the usual step."""
    step = np.array([rung.step for rung in rungs])[:, None]
    slope, bend, reach = (np.array([getattr(rung, name) for rung in rungs]) for name in ("slope", "bend", "reach"))
    # Rounding is as large at coarse steps as at fine ones, where it cannot hide as the absence of a bend.
    bend = np.maximum.accumulate(bend[::-1], axis=0)[::-1]
    largest = reach.max(axis=0)
    noise = _SIGMAS * (point.rounding + 2 * EPSILON * (np.abs(point.flat) + reach) + _SMALLEST)
    # Where fine steps move nothing and coarse ones do, small changes are absorbed. A flat stretch is then known no
    # better than the coarse change allows, and a moving one no better than the least change.
    least = np.where(reach > 0, reach, np.inf).min(axis=0)
    absorbs = (reach == 0).any(axis=0) & (largest > 0)
    noise = noise + np.where(absorbs, np.where(reach == 0, 16 * EPSILON * largest, np.minimum(least, reach)), 0.0)
    error = np.where(largest > 0, (bend + noise) / step, 0.0)
    # Steps that span whole periods show no bend either. Finer ones contradict them, or at least do not agree.
    apart = np.abs(slope[:-1] - slope[1:])
    agrees = apart <= _AGREE * np.maximum(np.abs(slope[:-1]), np.abs(slope[1:]))
    error[:-1] = np.where(agrees | (step[:-1] <= usual), np.maximum(error[:-1], 2 * apart), np.inf)
    slope, error = slope[:-_UNTRIED], error[:-_UNTRIED]
    proper = (step[: len(slope)] <= _NEAR * usual) & (error < 0.3 * np.abs(slope))
    absorbed = np.where(proper, np.abs(slope), 0.0).max(axis=0)
    error = np.where((reach[: len(slope)] == 0) & (largest > 0), np.maximum(error, absorbed), error)
    apart = np.abs(slope[:, None] - slope) - 3 * error
    finer = np.arange(len(slope))[:, None] < np.arange(len(slope))
    error = np.maximum(error, np.where(finer[:, :, None], apart, 0.0).max(axis=1))
    best = error.argmin(axis=0)[None]
    return np.take_along_axis(slope, best, 0)[0], np.take_along_axis(error, best, 0)[0]


def _why_hidden(point: Point, rungs: list[Stencil], weights: "_Weights") -> str:
    """What keeps a slope from being seen: a bend that does not vanish with the step, or rounding."""
    bends = np.array([weights.absolute[0] @ rung.bend for rung in rungs])
    slopes_change = bends / [rung.step for rung in rungs]
    rounding = weights.absolute[0] @ (point.rounding + EPSILON * np.abs(point.flat))
    steady = min(slopes_change) > 0.3 * max(slopes_change) or min(bends) > 0.99 * max(bends)
    if steady and len(rungs) > 1 and min(bends) > 100 * rounding:
        return f"a kink or a jump (or a bend as sharp) within {2 * rungs[-1].step:.0e}"
    return HIDDEN


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


def _steps(eps: float, size: float, own: float, largest: float) -> list[float]:
    """Steps to try: around the usual one, on the scale of the entry itself, and to that of the largest one."""
    largest = largest or size
    steps = {_power_of_two(eps * size * rung) for rung in _RUNGS}
    if 0 < own < 1e-3 * size:
        steps |= {_power_of_two(eps * own * rung) for rung in _RUNGS[2:6]}
    steps |= {2.2 * largest, 0.55 * largest}  # out of the shadow of the largest entry
    while max(steps - {2.2 * largest, 0.55 * largest}) < 0.01 * largest:
        steps.add(32 * max(steps - {2.2 * largest, 0.55 * largest}))
    return sorted(steps, reverse=True)


def _along(point: Point, which: int, entry: int) -> Callable[[float], list[Any]]:
    def shifted(t: float) -> list[Any]:
        x = point.inputs[which].copy()
        x.reshape(-1)[entry] += t
        return [*point.inputs[:which], x, *point.inputs[which + 1 :]]

    return shifted


def _power_of_two(size: float) -> float:
    return float(2.0 ** np.floor(np.log2(size)))
