"""Gradients that are right up to a sign, a factor or a little noise."""

from collections.abc import Iterator
from math import prod, sqrt
from typing import Any

import numpy as np

from .evidence import Evidence

_FLOAT32 = 1e-4  # float32 arithmetic is rarely less accurate


def imprecise(e: Evidence) -> str | None:
    """Nearly right everywhere."""
    off = np.abs(e.analytic - e.numeric)[e.sizable] / np.abs(e.numeric[e.sizable])
    if off.size < 3 or off.max() > 0.02 or np.median(off) > 1e-3 or e.wrong.sum() < 0.5 * off.size:
        return None
    if e.matches(e.analytic / _factor(e.analytic[e.known], e.numeric[e.known])):
        return None  # all off by the same factor: not noise
    cause = "float32 arithmetic inside" if off.max() < _FLOAT32 else "an approximation or a rounded constant inside"
    return (
        f"accurate to {off.max():.0e} or better everywhere: perhaps {cause}, "
        "or a small constant such as an epsilon that forward and backward treat differently"
    )


def sign(e: Evidence) -> str | None:
    """g instead of -g."""
    return "the sign is flipped" if e.matches(-e.analytic) else None


def constant_factor(e: Evidence) -> str | None:
    """c · g instead of g."""
    c = _factor(e.analytic[e.known], e.numeric[e.known])
    if c == 0 or not np.isfinite(c) or not e.matches(e.analytic / c):
        return None
    named = _name_factor(abs(c), e)
    if named is None and e.sizable.sum() < 2:
        return None  # any number is a multiple of any other
    direction = "large" if abs(c) > 1 else "small"
    flipped = "the sign is flipped and the gradient is" if c < 0 else "the gradient is"
    size = max(abs(c), 1 / abs(c))
    digits = max(6, int(np.ceil(-np.log10(size - 1))) + 2) if size > 1 else 6  # never "a factor 1"
    return f"{flipped} too {direction} by a factor {size:.{digits}g}{named or ' (a temperature or scale?)'}"


def factor_along_axis(e: Evidence) -> str | None:
    """c[i] · g[i] instead of g[i]."""
    if not (e.wrong | ~e.sizable).all():
        return None
    for axis, n in enumerate(e.x.shape):
        if n < 2 or e.x.size < 2 * n:
            continue
        c = np.ones_like(e.x)
        for i in range(n):
            at = (slice(None),) * axis + (i,)
            known = e.known[at]
            c[at] = _factor(e.analytic[at][known], e.numeric[at][known]) or np.nan
        if np.isfinite(c).all() and np.ptp(np.abs(c)) > 1e-3 and e.matches(e.analytic / c):
            low, high = np.abs(c).min(), np.abs(c).max()
            return (
                f"each slice along axis {axis} is off by a factor of its own, from {low:.4g} to {high:.4g}: "
                f"a factor that depends on the index along axis {axis} is missing or applied twice"
            )
    return None


def elementwise_factor(e: Evidence) -> str | None:
    """A factor of the chain rule is missing or there twice: the input, the output or a simple function of it."""
    candidates = [("the input", e.x)]
    for name, y in e.outputs_alike():
        candidates += [(name, y), (f"1 - {name}", 1 - y), (f"1 - {name}²", 1 - y * y)]
    for what, q in candidates + e.inputs_alike():
        with np.errstate(all="ignore"):
            if e.matches(e.analytic * q):
                return f"a factor is missing: {what}"
            if e.matches(e.analytic / q):
                return f"one factor too many: {what}"
    return None


def _factor(a: Any, n: Any) -> float:
    """The c for which c · n is nearest to a."""
    length = float((n * n).sum())
    return float((a * n).sum()) / length if length else 0.0


def _name_factor(c: float, e: Evidence) -> str | None:
    """What a well-known factor may come from: the length n of an axis, √n, 2, n / (n - 1)."""
    size = max(c, 1 / c)
    large = c > 1
    for n, what in _lengths(e):
        if abs(size / n - 1) < 1e-4:
            return f", {what} ({'a missing mean?' if large else 'a mean where a sum belongs?'})"
    if abs(size / 2 - 1) < 1e-4:
        return " (counted twice?)" if large else " (from the derivative of a square?)"
    for n, what in _lengths(e):
        if abs(size / sqrt(n) - 1) < 1e-4:
            return f", the root of {what} ({'a missing' if large else 'one too many'} 1/√{n}?)"
        if abs(size * (n - 1) / n - 1) < 1e-4:
            return f", n/(n-1) for n = {n}, {what} (sample or population variance?)"
    return None


def _lengths(e: Evidence) -> Iterator[tuple[int, str]]:
    """The lengths that a sum or mean could run over, each with its name; 1 and 2 are too common to tell."""
    arrays = [(e.point.names[i], x) for i, x in enumerate(e.point.inputs)]
    arrays = [arrays.pop(e.which), *arrays, *((e.output_name(k), y) for k, y in enumerate(e.point.outputs))]
    for name, array in arrays:
        for axis, n in enumerate(array.shape):
            if n > 2:
                yield n, f"the length of axis {axis} of {name}"
    for name, array in arrays:
        if array.ndim > 1 and array.size > 2:
            yield prod(array.shape), f"the number of entries of {name}"
