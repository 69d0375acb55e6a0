"""What a wrong gradient looks like, said in one sentence.

Each detector knows one mistake. It compares the analytic and the numeric gradient, may run the function
again, and returns a sentence or None. They are asked in order, the most specific first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import prod, sqrt
from typing import Any

import numpy as np

from .finite_differences import SMALL, Point

_LOOSER = 10  # patterns are matched with this multiple of the tolerance
_LARGEST = 4096  # inputs with more entries are diagnosed by their first ones
_PROBED = 4  # wrong entries whose contributions are taken apart


@dataclass
class Evidence:
    """What a detector can look at: one input with a wrong gradient, at the point where it was found wrong.

    Args:
        point: where f was differentiated.
        gradients: the analytic gradients of all inputs there; None where no gradient arrived.
        which: the input that is wrong.
        eps: relative step for further finite differences.
        tolerance: relative error that passes.
        only: a mask of the entries to look at; all if left out.
    """

    point: Point
    gradients: list[Any]
    which: int
    eps: float
    tolerance: float
    only: Any = None

    @property
    def x(self) -> Any:
        """The input."""
        return self.point.inputs[self.which]

    @cached_property
    def analytic(self) -> Any:
        """The gradient that backward gave, zeros if it gave none."""
        gradient = self.gradients[self.which]
        return np.zeros_like(self.x) if gradient is None else gradient

    @cached_property
    def _numeric_and_noise(self) -> tuple[Any, Any]:
        return _full_numeric(self.point, self.which, self.eps)

    @property
    def numeric(self) -> Any:
        """The gradient by finite differences; NaN where there is none."""
        numeric = self._numeric_and_noise[0]
        return numeric if self.only is None else np.where(self.only, numeric, np.nan)

    @cached_property
    def slack(self) -> Any:
        """How far an entry may be off and still count as equal."""
        numeric, noise = self._numeric_and_noise
        size = np.abs(numeric)
        largest = np.nanmax(size, initial=0.0)
        return _LOOSER * (self.tolerance * np.fmax(size, SMALL * largest) + noise)

    @property
    def known(self) -> Any:
        """A mask of the entries that have a numeric derivative."""
        return ~np.isnan(self.numeric)

    @property
    def wrong(self) -> Any:
        """A mask of the entries where the two differ."""
        return self.known & ~(np.abs(self.analytic - self.numeric) <= self.slack / _LOOSER)

    @property
    def sizable(self) -> Any:
        """A mask of the entries that are far enough from zero to be divided by."""
        return np.abs(self.numeric) > 1e3 * self.slack

    def matches(self, candidate: Any) -> bool:
        """Whether the candidate equals the numeric gradient wherever that is known."""
        return bool((np.abs(candidate - self.numeric)[self.known] <= self.slack[self.known]).all())

    def within(self, mask: Any) -> "Evidence":
        """The same evidence, looking only at the entries of a mask."""
        part = Evidence(self.point, self.gradients, self.which, self.eps, self.tolerance, mask)
        part.__dict__["_numeric_and_noise"] = self._numeric_and_noise
        return part


def diagnose(evidence: Evidence) -> str:
    """One sentence on what the wrong gradient looks like."""
    for detector in _DETECTORS:
        sentence = detector(evidence)
        if sentence is not None:
            return sentence
    return "no known pattern; start from the worst entry and follow it through backward by hand"


def not_finite(e: Evidence) -> str | None:
    """NaN or infinity."""
    bad = ~np.isfinite(e.analytic)
    if not bad.any():
        return None
    kind = "NaN" if np.isnan(e.analytic[bad]).any() else "infinite"
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{kind} in {bad.sum()} of {bad.size} entries, first at {first}, where the input is {e.x[first]:.6g}"


def no_gradient(e: Evidence) -> str | None:
    """The graph does not reach the input."""
    if e.gradients[e.which] is not None:
        return None
    return "no gradient reaches this input: its branch is detached, or a backward returned None for it"


def out_of_sight(e: Evidence) -> str | None:
    """None of the entries that are looked at is wrong."""
    if e.wrong.any():
        return None
    return f"the wrong entries lie beyond the first {_LARGEST}, which are right"


def zero(e: Evidence) -> str | None:
    """All entries are zero."""
    if e.analytic[e.known].any():
        return None
    return "the gradient is zero everywhere, the numeric one is not (a cotangent of all ones could hide this)"


def output_ignores_it(e: Evidence) -> str | None:
    """Finite differences are exactly zero where backward gives a gradient: a forward that lost something."""
    if e.numeric[e.wrong].any():
        return None
    entries = "this input" if (e.wrong == e.known).all() else f"{e.wrong.sum()} of {e.known.sum()} entries"
    return (
        f"the output does not depend on {entries} at all, yet backward gives a gradient: forward loses them "
        "(y[index] += v keeps one of several duplicates), or backward sends it to the wrong place"
    )


def swapped(e: Evidence) -> str | None:
    """Two inputs have each other's gradient."""
    for other, gradient in enumerate(e.gradients):
        if other == e.which or gradient is None or gradient.shape != e.analytic.shape:
            continue
        numeric, noise = _full_numeric(e.point, other, e.eps)
        if e.matches(gradient) and _near(e.analytic, numeric, noise, e.tolerance):
            name = e.point.names[other]
            return f"swapped: this is the gradient of {name}, and {name} has this one's"
    return None


def imprecise(e: Evidence) -> str | None:
    """Nearly right everywhere."""
    off = np.abs(e.analytic - e.numeric)[e.sizable] / np.abs(e.numeric[e.sizable]).max(initial=0.0)
    if off.size < 3 or off.max() > 1e-3 or e.wrong.sum() < 0.5 * off.size:
        return None
    if e.matches(e.analytic / _factor(e.analytic[e.known], e.numeric[e.known])):
        return None  # all off by the same factor: not noise
    return (
        f"right to about {np.median(off):.0e} everywhere: it looks like float32 arithmetic inside, "
        "or a small constant such as an epsilon that forward and backward treat differently"
    )


def sign(e: Evidence) -> str | None:
    """g instead of -g."""
    return "the sign is flipped" if e.matches(-e.analytic) else None


def upstream_ignored(e: Evidence) -> str | None:
    """The gradient does not follow the cotangent."""
    unchanged = e.point.gradients(cotangents=[1 + c * c for c in e.point.cotangents])[e.which]
    if np.allclose(unchanged, e.analytic, rtol=1e-9, atol=0):
        return "backward ignores the gradient that comes from above: it stays the same when that changes"
    doubled = e.point.gradients(cotangents=[2 * c for c in e.point.cotangents])[e.which]
    if not np.allclose(doubled, 2 * e.analytic, rtol=1e-9, atol=1e-12):
        return "backward is not linear in the gradient that comes from above: doubling that does not double it"
    return None


def constant_factor(e: Evidence) -> str | None:
    """c · g instead of g."""
    c = _factor(e.analytic[e.known], e.numeric[e.known])
    if c == 0 or not np.isfinite(c) or not e.matches(e.analytic / c):
        return None
    named = _name_factor(abs(c), e)
    if named is None and e.sizable.sum() < 2:
        return None  # any one number is a multiple of any other
    direction = "large" if abs(c) > 1 else "small"
    flipped = "the sign is flipped and the gradient is" if c < 0 else "the gradient is"
    size = max(abs(c), 1 / abs(c))
    return f"{flipped} too {direction} by a factor {size:.6g}{named or ' (a temperature or scale?)'}"


def transposed(e: Evidence) -> str | None:
    """gᵀ instead of g."""
    for i, j in combinations(range(e.x.ndim), 2):
        if e.x.shape[i] == e.x.shape[j] and e.matches(e.analytic.swapaxes(i, j)):
            return f"transposed: axes {i} and {j} are exchanged"
    if e.x.ndim == 2 and e.matches(e.analytic.reshape(e.x.T.shape).T):
        return "transposed: the entries come in the order of the transposed array (reshape where .T belongs?)"
    return None


def permuted(e: Evidence) -> str | None:
    """g[order] instead of g."""
    if not e.known.all():
        return None
    for axis in range(e.x.ndim):
        order = _matching_order(e, axis)
        if order is not None:
            shown = ", ".join(map(str, order[:8])) + (", ..." if len(order) > 8 else "")
            return (
                f"permuted along axis {axis}: its slices are the right ones in the order [{shown}] "
                "(a missing or doubled inverse permutation?)"
            )
    return None


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
    """A factor of the chain rule is missing that is the input, the output or a simple function of them."""
    for what, q in _quantities(e):
        with np.errstate(all="ignore"):
            if e.matches(e.analytic * q):
                return f"a factor is missing: {what}"
            if e.matches(e.analytic / q):
                return f"a factor too much: {what}"
    return None


def one_contribution(e: Evidence) -> str | None:
    """Only one term of a sum arrives: a missing broadcast sum, or overwriting instead of accumulating."""
    worst = np.argsort(np.where(e.wrong, -np.abs(e.analytic - e.numeric), np.inf), axis=None)
    probed = [int(i) for i in worst[: min(_PROBED, int(e.wrong.sum()))]]
    terms = [e.point.contributions(e.which, i, e.eps) for i in probed]
    for k, y in enumerate(e.point.outputs):
        for axis in range(y.ndim):
            others = tuple(a for a in range(y.ndim) if a != axis)
            found = [
                _only_term(t[k].sum(axis=others), e.analytic.flat[i], e.slack.flat[i])
                for i, t in zip(probed, terms, strict=True)
            ]
            if None in found:
                continue
            if len(set(found)) == 1 and e.wrong.sum() > 1 and (e.wrong | ~e.sizable).all():
                return (
                    f"only index {found[0]} of axis {axis} of {_output(e, k)} contributes: the sum over that "
                    "axis is missing (undoing a broadcast), or each term overwrites the one before"
                )
            return (
                f"of several contributions along axis {axis} of {_output(e, k)} only one arrives: the "
                "gradient is overwritten instead of accumulated (dx[index] = g, or += g without np.add.at)"
            )
    return None


def missing_term(e: Evidence) -> str | None:
    """The difference is constant along an axis, times the input or output: the Σ term of a normalisation."""
    rest = np.where(e.known, e.analytic - e.numeric, 0.0)
    for what, q in [("", np.ones_like(e.x)), *_quantities(e, simple=True)]:
        for axis in reversed(range(e.x.ndim)):
            if e.x.shape[axis] < 3:
                continue
            weight = np.where(e.known, q, 0.0)
            with np.errstate(all="ignore"):
                projected = np.sum(rest * weight, axis=axis, keepdims=True)
                c = projected / np.sum(weight * weight, axis=axis, keepdims=True)
            if e.matches(e.analytic - c * q):
                times = f" times {what}" if what else ""
                return (
                    f"a term is missing: analytic - numeric is constant along axis {axis}{times} "
                    f"(the sum over axis {axis} that softmax, a mean or a normalisation brings in?)"
                )
    return None


def only_some(e: Evidence) -> str | None:
    """Some entries are right: where are the wrong ones, and what is wrong with them?"""
    if e.only is not None or (e.wrong == e.known).all():
        return None
    where = _describe_mask(e)
    part = e.within(e.wrong)
    for detector in (zero, sign, constant_factor):
        sentence = detector(part)
        if sentence is not None:
            return f"wrong only {where}; there, {sentence}"
    return f"wrong only {where}; the rest is right"


_DETECTORS: tuple[Callable[[Evidence], str | None], ...] = (
    not_finite,
    no_gradient,
    out_of_sight,
    zero,
    output_ignores_it,
    swapped,
    imprecise,
    sign,
    upstream_ignored,
    transposed,
    permuted,
    constant_factor,
    one_contribution,
    elementwise_factor,
    missing_term,
    factor_along_axis,
    only_some,
)


def _full_numeric(point: Point, which: int, eps: float) -> tuple[Any, Any]:
    """The numeric gradient of an input and its rounding error; NaN where it is not known."""
    x = point.inputs[which]
    entries = np.arange(min(x.size, _LARGEST))
    slopes = point.slopes(which, entries, eps)
    numeric, noise = np.full(x.size, np.nan), np.zeros(x.size)
    numeric[entries] = np.where(slopes.usable, slopes.value, np.nan)
    noise[entries] = slopes.noise
    return numeric.reshape(x.shape), noise.reshape(x.shape)


def _near(a: Any, numeric: Any, noise: Any, tolerance: float) -> bool:
    known = ~np.isnan(numeric)
    largest = np.abs(numeric[known]).max(initial=0.0)
    slack = _LOOSER * (tolerance * np.maximum(np.abs(numeric), SMALL * largest) + noise)
    return bool((np.abs(a - numeric)[known] <= slack[known]).all())


def _factor(a: Any, n: Any) -> float:
    """The c that brings c · n nearest to a."""
    length = float((n * n).sum())
    return float((a * n).sum()) / length if length else 0.0


def _name_factor(c: float, e: Evidence) -> str | None:
    """What a well-known factor stands for: the length of an axis, its root, 2, n / (n - 1)."""
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
    """The lengths that a sum or mean could run over, each with its name; 1 and 2 say too little."""
    arrays = [(e.point.names[i], x) for i, x in enumerate(e.point.inputs)]
    arrays = [arrays.pop(e.which), *arrays, *((_output(e, k), y) for k, y in enumerate(e.point.outputs))]
    for name, array in arrays:
        for axis, n in enumerate(array.shape):
            if n > 2:
                yield n, f"the length of axis {axis} of {name}"
    for name, array in arrays:
        if array.ndim > 1 and array.size > 2:
            yield prod(array.shape), f"the number of entries of {name}"


def _matching_order(e: Evidence, axis: int) -> list[int] | None:
    """order with numeric[i] = analytic[order[i]] along the axis; None if there is none, or no change."""
    analytic, numeric = np.moveaxis(e.analytic, axis, 0), np.moveaxis(e.numeric, axis, 0)
    slack = np.moveaxis(e.slack, axis, 0)
    free = list(range(len(analytic)))
    order = []
    for want, allowed in zip(numeric, slack, strict=True):
        hit = next((j for j in free if (np.abs(analytic[j] - want) <= allowed).all()), None)
        if hit is None:
            return None
        free.remove(hit)
        order.append(hit)
    return order if order != sorted(order) else None


def _quantities(e: Evidence, simple: bool = False) -> Iterator[tuple[str, Any]]:
    """Arrays of the shape of the input that a chain rule could bring in."""
    yield "the input", e.x
    for k, y in enumerate(e.point.outputs):
        if y.shape == e.x.shape:
            name = f"the {_output(e, k)}"
            yield name, y
            if simple:
                with np.errstate(over="ignore"):
                    yield f"exp({name})", np.exp(y)
            else:
                yield f"1 - {name}", 1 - y
                yield f"1 - {name}²", 1 - y * y
    for other, z in enumerate(e.point.inputs):
        if other != e.which and z.shape == e.x.shape:
            yield e.point.names[other], z


def _only_term(terms: Any, value: float, slack: float) -> int | None:
    """The index of the one term that equals ``value``, if there are several terms."""
    hits = np.flatnonzero(np.abs(terms - value) <= slack)
    several = np.count_nonzero(np.abs(terms) > slack) > 1
    return int(hits[-1]) if several and len(hits) and abs(value) > slack else None


def _output(e: Evidence, k: int) -> str:
    return "output" if len(e.point.outputs) == 1 else f"output {k}"


def _describe_mask(e: Evidence) -> str:
    """Where the wrong entries lie: in some slices of an axis, by the sign of the input, or scattered."""
    wrong, known = e.wrong, e.known
    for axis, n in enumerate(wrong.shape):
        others = tuple(a for a in range(wrong.ndim) if a != axis)
        hit = wrong.any(axis=others)
        if hit.sum() <= n / 2 or hit.sum() == n - 1:
            places = [int(i) for i in np.flatnonzero(hit)]
            if wrong.ndim > 1 and not (wrong | ~known | ~np.expand_dims(hit, others)).all():
                continue
            ends = {0: " (the first)", n - 1: " (the last)"}.get(places[0], "") if len(places) == 1 else ""
            what = f"index {places[0]}{ends}" if len(places) == 1 else f"indices {places[:8]}"
            return f"at {what} of axis {axis}"
    for words, mask in (("negative", e.x < 0), ("positive", e.x > 0)):
        if (wrong == (mask & known)).all():
            return f"where the input is {words}"
    return f"in {wrong.sum()} of {known.sum()} entries"
