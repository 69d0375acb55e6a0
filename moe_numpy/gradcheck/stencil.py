"""Five points on a line through a function, and what they tell about its slope.

With h the step and y(±h), y(±2h) the outputs, the 4-point rule::

    dy/dt ≈ (8 (y(h) - y(-h)) - (y(2h) - y(-2h))) / 12h        error h⁴ y⁽⁵⁾/30 + rounding ε|y|/h

Two combinations vanish to higher order for a smooth y::

    odd   (y(2h) - y(-2h)) - 2 (y(h) - y(-h))          = 2h³ y⁽³⁾ + ...
    even  (y(2h) + y(-2h) - 2y) - 4 (y(h) + y(-h) - 2y) =  h⁴ y⁽⁴⁾ + ...

A kink at distance δ < h where the slope changes by c leaves cδ in one and c(3δ - 2h) in the other; a jump leaves
its height. They are never both zero. The larger one, divided by h, bounds the error of the slope in all cases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import decisions
from .point import Point, evaluate, flattened

EPSILON = float(np.finfo(np.float64).eps)


@dataclass
class Stencil:
    """What one step h tells about each output: its slope, the larger of odd and even, the largest change."""

    step: float
    slope: Any
    bend: Any
    reach: Any


@dataclass
class Obstacle:
    """Why a stencil cannot be used, in words; ``decision`` if a recorded choice changed."""

    reason: str
    decision: bool = False


def stencil(point: Point, shifted: Callable[[float], Sequence[Any]], h: float) -> Stencil | Obstacle:
    """The stencil along the line ``shifted(t)``, which is at the point for t = 0."""
    change = []
    for t in (2 * h, -2 * h, h, -h):
        try:
            outputs, made = evaluate(point.f, shifted(t))
        except Exception as error:  # outside its domain
            return Obstacle(f"f raises {type(error).__name__}: {error}")
        obstacle = _obstacle(point, outputs, made)
        if obstacle is not None:
            return obstacle
        change.append(flattened(outputs) - point.flat)  # 0 where the step has no influence, so no rounding either
    plus2, minus2, plus, minus = change
    odd1, odd2 = plus - minus, plus2 - minus2
    bend = np.maximum(np.abs(odd2 - 2 * odd1), np.abs(plus2 + minus2 - 4 * (plus + minus)))
    return Stencil(h, (8 * odd1 - odd2) / (12 * h), bend, np.abs(change).max(axis=0))


def _obstacle(point: Point, outputs: list[Any], made: list[decisions.Decision]) -> Obstacle | None:
    changed = _changed_decision(point.decisions, made)
    if changed is not None:
        return Obstacle(changed, decision=True)
    if [y.shape for y in outputs] != [y.shape for y in point.outputs]:
        return Obstacle("the shape of an output changes", decision=True)
    if not all(np.isfinite(y).all() for y in outputs):
        return Obstacle("an output becomes NaN or infinite")
    return None


def _changed_decision(before: Sequence[decisions.Decision], after: Sequence[decisions.Decision]) -> str | None:
    """The first decision that differs, in words; None if all are the same."""
    for old, new in zip(before, after, strict=False):
        a, b = np.atleast_1d(np.asarray(old.chosen)), np.atleast_1d(np.asarray(new.chosen))
        if old.what != new.what:
            return f"{old.what} becomes {new.what}"
        if a.shape != b.shape:
            return f"{old.what}: {a.shape} becomes {b.shape}"
        different = (a != b).reshape(len(a), -1).any(axis=1) if a.size else np.zeros(0, dtype=bool)
        if different.any():
            return f"{old.what}: {old.explain(int(different.argmax()))}"
    if len(before) != len(after):
        return f"the number of decisions changes from {len(before)} to {len(after)}"
    return None
