"""Finite differences that tell a derivative from a kink, a jump or a changed decision.

With L(x) = Σ cotangent · f(x), a step h along one entry of x and the 4-point rule::

    dL/dx ≈ (8 (L(+h) - L(-h)) - (L(+2h) - L(-2h))) / 12h        error h⁴ L⁽⁵⁾/30 + rounding ε|L|/h

The formula holds where L is smooth within 2h. Elsewhere the entry gets a reason instead of a number. That
decision never looks at the analytic gradient, so a wrong backward cannot pass for a kink.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import Function, Tensor, decisions
from ..autodiff.arrays import is_float

_EPSILON = float(np.finfo(np.float64).eps)
_ROUNDING_ERRORS = 8  # units of rounding that the outputs are assumed to carry
_SMOOTHNESS = 1e-4  # a bend below this fraction of the slope is curvature, not a kink
_SHRINK = (1.0, 1 / 8, 1 / 64)  # steps tried in turn where the function bends strongly
_TINY = 1e-6  # a relative step whose fourth power is lost in rounding
_DISPLACEMENT = 1e-2  # relative to the typical size of an input
SMALL = 1e-3  # errors are relative to at least this fraction of the largest slope of an input


@dataclass
class Slopes:
    """Numeric derivatives of some entries: ``value``, with rounding error ``noise`` and step h = ``step``.

    ``reason[i]`` says why entry i has no derivative; it is None where ``value[i]`` can be trusted.
    """

    value: Any
    noise: Any
    step: Any
    reason: list[str | None]

    @property
    def usable(self) -> Any:
        """A mask of the entries that have a derivative."""
        return np.array([r is None for r in self.reason], dtype=bool)


class Point:
    """f at one point: its outputs, the decisions it made there, and the slopes of L = Σ cotangent · f.

    Args:
        f: takes one Tensor per input, returns a Tensor or a tuple of Tensors.
        inputs: float64 arrays.
        names: of the inputs.
        rng: draws the cotangents, standard normal, one per floating-point output.

    ``side_effects`` lists, in words, the arrays that f and its backward wrote to but do not own.
    """

    def __init__(self, f: Callable[..., Any], inputs: Sequence[Any], names: Sequence[str], rng: np.random.Generator):
        self.f = f
        self.inputs = list(inputs)
        self.names = list(names)
        self.side_effects: list[str] = []
        given = [x.copy() for x in self.inputs]
        self.outputs, self.decisions = evaluate(f, given)
        self._look_for_changes(given, "forward")
        self.cotangents = [rng.standard_normal(y.shape) for y in self.outputs]

    def gradients(self, start: Sequence[Any] | None = None, cotangents: Sequence[Any] | None = None) -> list[Any]:
        """The analytic gradients of L from one backward pass; None where no gradient arrives.

        Args:
            start: what .grad holds beforehand; nothing if left out.
            cotangents: replace those of this point.
        """
        leaves = [Tensor(x.copy(), requires_grad=True) for x in self.inputs]
        for leaf, grad in zip(leaves, start or [], strict=False):
            leaf.grad = grad
        weights = [c.copy() for c in (self.cotangents if cotangents is None else cotangents)]
        total = _WeightedSum.apply(*_float_outputs(self.f(*leaves)), weights=weights)
        if total.requires_grad:
            total.backward()
        self._look_for_changes([leaf.data for leaf in leaves], "backward")
        for i, (now, before) in enumerate(zip(weights, cotangents or self.cotangents, strict=True)):
            if not np.array_equal(now, before):
                self.side_effects.append(f"backward writes into the gradient of output {i} that it receives")
        return [leaf.grad for leaf in leaves]

    def slopes(self, which: int, entries: Any, eps: float) -> Slopes:
        """dL/dx for some flat entries of input ``which``; the step is eps times the size of the entry."""
        x = self.inputs[which].ravel()
        size = np.maximum(np.abs(x[entries]), _typical_size(x))
        result = Slopes(np.zeros(len(entries)), np.zeros(len(entries)), eps * size, [None] * len(entries))
        pending = np.arange(len(entries))
        for shrink in _SHRINK:
            bend = np.zeros(len(entries))
            for n in pending:
                h = result.step[n] = eps * shrink * size[n]
                stencil = self._stencil(which, int(entries[n]), h)
                if isinstance(stencil, str):
                    result.reason[n] = stencil
                    continue
                result.value[n], bend[n], result.noise[n] = stencil
                result.reason[n] = None
            kinked = result.usable & _is_kinked(result, bend)
            pending = np.flatnonzero(kinked)
            if not len(pending):
                break
        for n in pending:
            result.reason[n] = f"a kink or a jump within {2 * result.step[n]:.0e}"
        return result

    def contributions(self, which: int, entry: int, eps: float) -> list[Any]:
        """The terms of dL/d(entry) before they are summed: cotangent · d(output)/d(entry) for each output."""
        x = self.inputs[which].ravel()
        h = eps * max(abs(x[entry]), _typical_size(x))
        plus, minus = self._shifted(which, entry, h)[0], self._shifted(which, entry, -h)[0]
        return [c * (p - m) / (2 * h) for c, p, m in zip(self.cotangents, plus, minus, strict=True)]

    def rounding(self, rng: np.random.Generator) -> float:
        """The size of rounding errors in the outputs, relative to their largest entry.

        The fourth difference along a random line with a tiny step: a smooth function leaves only rounding.
        """
        direction = [_TINY * _typical_size(x) * rng.standard_normal(x.shape) for x in self.inputs]
        line = [
            evaluate(self.f, [x + step * d for x, d in zip(self.inputs, direction, strict=True)])[0]
            for step in (-2, -1, 0, 1, 2)
        ]
        noise = 0.0
        for a, b, c, d, e in zip(*line, strict=True):
            if a.size and a.shape == b.shape == c.shape == d.shape == e.shape:
                noise = max(noise, float(np.abs(a - 4 * b + 6 * c - 4 * d + e).max() / (np.abs(c).max() or 1.0)))
        return noise

    def _stencil(self, which: int, entry: int, h: float) -> tuple[float, float, float] | str:
        """Slope, bend and rounding error from ±h and ±2h; or why these points cannot be compared, in words."""
        change = {}
        weight_moved = 0.0
        for steps in (2, -2, 1, -1):
            outputs, made = self._shifted(which, entry, steps * h)
            reason = self._incomparable(outputs, made)
            if reason is not None:
                return reason
            change[steps] = 0.0
            for y, y0, c in zip(outputs, self.outputs, self.cotangents, strict=True):
                difference = y - y0  # 0 where the entry has no influence, so no rounding either
                change[steps] += float((c * difference).sum())
                if steps == 2 and y0.size:
                    weight_moved += float(np.abs(c[difference != 0]).sum() * np.abs(y0).max())
        odd1, odd2 = change[1] - change[-1], change[2] - change[-2]
        even1, even2 = change[1] + change[-1], change[2] + change[-2]
        # For a smooth L both differences vanish to higher order in h. A kink at distance δ < h where the slope
        # changes by c leaves cδ in one and c(3δ - 2h) in the other; a jump leaves its height. They are never both zero.
        bend = max(abs(odd2 - 2 * odd1), abs(even2 - 4 * even1)) / h
        return (8 * odd1 - odd2) / (12 * h), bend, _ROUNDING_ERRORS * _EPSILON * weight_moved / h

    def _look_for_changes(self, now: Sequence[Any], culprit: str) -> None:
        for name, x, before in zip(self.names, now, self.inputs, strict=True):
            if not np.array_equal(x, before, equal_nan=True):
                self.side_effects.append(f"{culprit} changes the input {name} in place")

    def _shifted(self, which: int, entry: int, shift: float) -> tuple[list[Any], list[decisions.Decision]]:
        x = self.inputs[which].copy()
        x.reshape(-1)[entry] += shift
        return evaluate(self.f, [*self.inputs[:which], x, *self.inputs[which + 1 :]])

    def _incomparable(self, outputs: list[Any], made: list[decisions.Decision]) -> str | None:
        changed = _changed_decision(self.decisions, made)
        if changed is not None:
            return changed
        if [y.shape for y in outputs] != [y.shape for y in self.outputs]:
            return "the shape of an output changes"
        if not all(np.isfinite(y).all() for y in outputs):
            return "an output becomes NaN or infinite"
        return None


class _WeightedSum(Function):
    """L = Σ weights · outputs, the end of the graph: the gradients of the outputs are the weights."""

    def forward(self, *outputs: Any, weights: list[Any]) -> Any:
        self.weights = weights
        return sum(np.sum(w * y) for w, y in zip(weights, outputs, strict=True))

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return tuple(self.weights)  # not copies, so that a backward that writes into them is noticed


def _typical_size(x: Any) -> float:
    """The median of |x|, or 1 if that is 0 or x is empty: the scale on which x varies."""
    return float(np.median(np.abs(x))) or 1.0 if x.size else 1.0


def displaced(inputs: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Each input plus a little noise. Positive inputs stay positive: a logarithm may follow."""
    moved = [x + _DISPLACEMENT * _typical_size(x) * rng.standard_normal(x.shape) for x in inputs]
    return [np.abs(m) if (x > 0).all() else m for m, x in zip(moved, inputs, strict=True)]


def evaluate(f: Callable[..., Any], inputs: Sequence[Any]) -> tuple[list[Any], list[decisions.Decision]]:
    """The floating-point outputs of f as arrays, and the decisions it made."""
    # A step out of the domain gives NaN, which the caller looks for; NumPy's warning would be noise.
    with decisions.recording() as made, np.errstate(all="ignore"):
        outputs = _float_outputs(f(*[Tensor(x) for x in inputs]))
    return [y.data for y in outputs], made


def _float_outputs(result: Any) -> list[Tensor]:
    """The floating-point Tensors that f returned. TypeError if f returned anything other than Tensors."""
    outputs = result if isinstance(result, tuple) else (result,)
    for y in outputs:
        if not isinstance(y, Tensor):
            raise TypeError(f"f must return a Tensor or a tuple of Tensors, got {type(y).__name__}")
    return [y for y in outputs if is_float(y.dtype)]


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


def _is_kinked(slopes: Slopes, bend: Any) -> Any:
    """A mask of the entries whose bend is too strong for a smooth function, judged by the undoubted slopes."""
    slope = np.abs(slopes.value)
    undoubted = slopes.usable & (bend <= _SMOOTHNESS * slope + slopes.noise)
    largest = slope[undoubted].max(initial=0.0)
    return bend > _SMOOTHNESS * np.maximum(slope, SMALL * largest) + slopes.noise
