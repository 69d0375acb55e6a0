"""A ladder of steps along one line, for slopes that the usual step does not settle.

Fine steps find the derivative beside a kink and where the second derivative jumps; coarse ones lift a slope above
rounding. Each output takes the step with the smallest error.
"""

from typing import Any

import numpy as np

from .draws import typical_size
from .point import Point
from .stencil import EPSILON, Stencil

SIGMAS = 6  # multiples of the measured rounding that are allowed for
SMALLEST = float(np.finfo(np.float64).smallest_subnormal)
HIDDEN = "rounding of the outputs hides so small a slope"
_NEAR = 50  # a flat stretch is doubted if a step up to this multiple of the usual one shows a clear slope
_STRAIGHT = 0.3  # a slope whose error is below this fraction of it
_GRAIN = 64 * EPSILON  # changes this small, beside inputs of size 1, may be rounding inside f
_CLEARLY = 100  # a bend is not rounding beyond this multiple of it
_AGREE = 0.1  # how far a slope from a coarse step may be from that of the next finer one
RUNGS = [32.0**k for k in (3, 2, 1, 0, -1, -2, -3, -4, -5)]  # of the ladder, relative to the usual step
UNTRIED = 2  # the finest rungs only show how large rounding is


def ladder_steps(eps: float, size: float, own: float, largest: float) -> list[float]:
    """Steps to try: around the usual one, on the scale of the entry itself, and to that of the largest one."""
    largest = largest or size
    steps = {power_of_two(eps * size * rung) for rung in RUNGS}
    if 0 < own < 1e-3 * size:
        steps |= {power_of_two(eps * own * rung) for rung in RUNGS[2:6]}
    coarsest = max(steps)
    while coarsest < 0.01 * largest:
        coarsest *= 32
        steps.add(coarsest)
    steps |= {2.2 * largest, 0.55 * largest}  # out of the shadow of the largest entry
    return sorted(steps, reverse=True)


def best(point: Point, rungs: list[Stencil], usual: float) -> tuple[Any, Any]:
    """Per output, the slope from the step with the smallest error, and that error; ``usual`` is the usual step."""
    step = np.array([rung.step for rung in rungs])[:, None]
    slope, bend, reach = (np.array([getattr(rung, name) for rung in rungs]) for name in ("slope", "bend", "reach"))
    largest = reach.max(axis=0)
    noise = SIGMAS * (point.rounding + 2 * EPSILON * (np.abs(point.flat) + reach) + SMALLEST)
    # Where fine steps move nothing and coarse ones do, small changes are absorbed. The least change may be the grain.
    least = np.where(reach > 0, reach, np.inf).min(axis=0)
    absorbs = (reach == 0).any(axis=0) & (largest > 0)
    grain = np.where(absorbs & (least <= _GRAIN * (1 + max(map(typical_size, point.inputs)))), least, 0.0)
    unresolved = np.where(bend > _CLEARLY * (noise + grain), bend / step, 0.0)
    unresolved = np.maximum.accumulate(unresolved[::-1], axis=0)[::-1]
    # Rounding is as large at coarse steps as at fine ones, where it cannot hide as the absence of a bend.
    bend = np.maximum.accumulate(bend[::-1], axis=0)[::-1]
    # A flat stretch is known no better than the coarse change allows, and a moving one no better than the least change.
    in_grains = 64 * np.frexp(grain)[0]  # whole if the least change is a few units in some last place
    flat = np.where((grain > 0) & (in_grains == np.round(in_grains)), grain, 16 * EPSILON * largest)
    noise = noise + np.where(absorbs, np.where(reach == 0, flat, np.minimum(least, reach)), 0.0)
    error = np.where(largest > 0, (bend + noise) / step, 0.0)
    straight = error < _STRAIGHT * np.abs(slope)
    # Steps that span whole periods show no bend either. Finer ones contradict them, or at least do not agree.
    apart = np.abs(slope[:-1] - slope[1:])
    agrees = apart <= _AGREE * np.maximum(np.abs(slope[:-1]), np.abs(slope[1:]))
    error[:-1] = np.where(agrees | (step[:-1] <= usual), np.maximum(error[:-1], 2 * apart), np.inf)
    slope, error = slope[:-UNTRIED], error[:-UNTRIED]
    proper = (step[: len(slope)] <= _NEAR * usual) & (error < _STRAIGHT * np.abs(slope))
    proper |= (grain > 0) & straight[: len(slope)]
    absorbed = np.where(proper, np.abs(slope), 0.0).max(axis=0)
    error = np.where((reach[: len(slope)] == 0) & (largest > 0), np.maximum(error, absorbed), error)
    apart = np.abs(slope[:, None] - slope) - 3 * error
    finer = np.arange(len(slope))[:, None] < np.arange(len(slope))
    error = np.maximum(error, np.where(finer[:, :, None], apart, 0.0).max(axis=1))
    # A step that spans a cluster of kinks sees none of the slopes between them; finer ones show how steep.
    error = np.maximum(error, unresolved[1 : len(error) + 1])
    chosen = error.argmin(axis=0)[None]
    return np.take_along_axis(slope, chosen, 0)[0], np.take_along_axis(error, chosen, 0)[0]


def why_hidden(point: Point, rungs: list[Stencil], weight: Any) -> str:
    """What keeps a slope from being seen: a bend that does not vanish with the step, or rounding."""
    finest = rungs[:-UNTRIED][-3:]
    bends = np.array([weight @ rung.bend for rung in finest])
    slopes_change = bends / [rung.step for rung in finest]
    rounding = weight @ (point.rounding + EPSILON * np.abs(point.flat))
    steady = min(slopes_change) > 0.3 * max(slopes_change) or min(bends) > 0.99 * max(bends)
    if steady and len(finest) > 1 and min(bends) > 100 * rounding:
        return f"a kink or a jump (or a bend as sharp) within {2 * finest[-1].step:.0e}"
    return HIDDEN


def power_of_two(size: float) -> float:
    """The largest power of two below: x plus such a step is exact."""
    return float(2.0 ** np.floor(np.log2(size)))
