"""Analytic against numeric gradients of one input at one point: which entries are wrong, which cannot be told."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .point import Point
from .slopes import VISIBLE, Slopes, refine, slopes
from .stencil import EPSILON

SMALL = 1e-3  # rounding inside backward is allowed up to this fraction of the tolerance of the largest entry
_ROUNDED = 64  # multiples of the measured rounding of backward
_CONFIRMED = 64  # wrong entries that are measured twice before one step is trusted for the others
_NOTHING = 1e-12  # a gradient that is everywhere below this fraction of y / x may be zero but for rounding
_ZERO = 1e-6  # an error below this fraction of y / x is small enough to call a slope zero


@dataclass
class Gradients:
    """The analytic gradients at a point, [cotangent][input], and the size of the rounding errors in each entry."""

    given: list[list[Any]]
    rounding: list[Any]

    def of(self, which: int, entries: Any) -> Any:
        """Those of some entries of an input, [cotangents, entries]; zeros where none arrived."""
        return np.array([np.zeros(len(entries)) if g[which] is None else g[which].ravel()[entries] for g in self.given])

    def weighted_by(self, k: int) -> "Gradients":
        """Those for cotangent k alone."""
        return Gradients([self.given[k]], self.rounding)

    def largest(self, which: int) -> Any:
        """The largest finite entry of an input, [cotangents]."""
        given = [np.zeros(1) if g[which] is None else g[which] for g in self.given]
        largest = np.array([np.abs(g[np.isfinite(g)]).max(initial=0.0) for g in given])
        largest[:2] = largest[:2].max()  # rows of zeros make no difference to what backward loses
        return largest


def analytic_gradients(point: Point) -> Gradients:
    """Run backward for every cotangent; then measure its rounding.

    In exact arithmetic backward would be linear in the cotangent, and would not see inputs change in the last bit.
    """
    given = [point.gradients(cotangents=c) for c in point.every_cotangent]
    first, second = point.every_cotangent[:2]
    mixed = point.gradients(cotangents=[a - b / 3 for a, b in zip(first, second, strict=True)])
    bits = point.rng.spawn(1)[0]
    inputs = [x * (1 + 2 * EPSILON * bits.integers(-1, 2, x.shape)) for x in point.inputs]
    nudged = point.gradients(inputs=inputs)
    rounding = []
    for x, a, b, both, beside in zip(point.inputs, given[0], given[1], mixed, nudged, strict=True):
        rounding.append(np.zeros_like(x))
        if not any(g is None for g in (a, b, both, beside)):
            with np.errstate(invalid="ignore", over="ignore"):
                off = np.maximum(np.abs(a - b / 3 - both), np.abs(a - beside))
            rounding[-1] = np.where(np.isfinite(off), off, 0.0)
    return Gradients(given, rounding)


@dataclass
class Comparison:
    """Some entries of an input, compared: arrays of one element per entry.

    ``error`` is that of :func:`gradcheck` for the cotangent where it is largest, which is ``worst``;
    ``known`` is a mask of slopes good enough to compare patterns with, [cotangents, entries];
    ``told`` is a mask of the entries that were compared, ``slack`` how far they may be off for each cotangent.
    """

    entries: Any
    analytic: Any
    slopes: Slopes
    slack: Any
    error: Any
    wrong: Any
    known: Any
    told: Any

    @property
    def cotangent(self) -> int:
        """The first cotangent for which an entry is wrong."""
        return int(self.wrong.any(axis=1).argmax())


def compare(point: Point, gradients: Gradients, which: int, entries: Any, eps: float, tolerance: float) -> Comparison:
    """Compare some entries; those that one step does not settle are measured with a ladder of steps."""
    analytic = gradients.of(which, entries)
    found = slopes(point, which, entries, eps)
    rounding = _rounding(gradients, which, entries, found, tolerance)
    result = _judge(entries, analytic, rounding, found, tolerance)
    settled = _both_zero(analytic, found) & (found.absorbed[0] <= _ZERO * gradients.largest(which)[0])
    unclear = ~found.decided & ~(found.clear & (found.terms > 0).any(axis=0)) & ~settled
    refine(point, which, entries, eps, found, np.flatnonzero(unclear))
    wrong = np.flatnonzero(result.wrong.any(axis=0) & ~unclear & np.isfinite(analytic).all(axis=0))
    for some in (wrong[:_CONFIRMED], wrong[_CONFIRMED:]):
        refine(point, which, entries, eps, found, some)
        result = _judge(entries, analytic, rounding, found, tolerance)
        if result.wrong.any(axis=0)[some].all():
            break  # one step was enough for them, so it is for the others
    return result


def _rounding(gradients: Gradients, which: int, entries: Any, found: Slopes, tolerance: float) -> Any:
    """What backward may lose in float64, [cotangents, entries]: as measured, within limits."""
    measured = gradients.rounding[which]
    measured = np.maximum(measured.ravel()[entries], 0.1 * measured.max(initial=0.0))
    largest = gradients.largest(which)[:, None]
    allowed = np.minimum(_ROUNDED * measured, SMALL * tolerance * np.maximum(largest, found.scale))
    return allowed + EPSILON * largest + np.finfo(np.float64).smallest_subnormal


def _judge(entries: Any, analytic: Any, rounding: Any, found: Slopes, tolerance: float) -> Comparison:
    a, n = np.abs(analytic), np.abs(found.value)
    nothing = np.where(a.max(axis=1, initial=0.0)[:, None] <= _NOTHING * found.scale, 16 * EPSILON * found.scale, 0.0)
    slack = tolerance * np.maximum(a, n) + found.error + np.maximum(rounding, nothing)
    with np.errstate(invalid="ignore"):
        difference = np.abs(analytic - found.value)
        wrong = ~(difference <= slack) & np.isfinite(found.error)
        error = difference / np.maximum(np.maximum(a, n), (slack - tolerance * np.maximum(a, n)) / tolerance)
    finite = np.isfinite(analytic)
    wrong |= ~finite
    error = np.where(finite, np.where(np.isfinite(error), error, 0.0), np.inf)
    visible = found.error + rounding <= VISIBLE * found.terms
    zero = (n <= found.error) & (found.error <= _ZERO * found.moved)
    dense = np.arange(len(a)) != 1  # the cotangent with rows of zeros need not show every entry
    told = (visible | zero & (a <= rounding))[dense].any(axis=0) | _both_zero(analytic, found) | wrong.any(axis=0)
    return Comparison(entries, analytic, found, slack, error, wrong, visible | zero | wrong, told)


def _both_zero(analytic: Any, found: Slopes) -> Any:
    """Nothing moves, and backward says the same."""
    return ((analytic == 0) & (found.value == 0) & (found.error == 0)).all(axis=0)
