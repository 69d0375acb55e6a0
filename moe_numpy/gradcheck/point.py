"""A function at one point: its outputs, the decisions it made there, and its gradients by backward."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..autodiff import Function, Tensor, decisions
from ..autodiff.arrays import is_float
from . import draws

_LINES = 3  # random lines along which rounding is measured
_TINY = 1e-6  # a relative step whose fourth power is lost in rounding
_SHRINKING = 4  # steps tried, each an eighth of the one before, for functions that bend even within those
_CONFIRMING = 12  # more such lines, before rounding is believed to be smaller than it looked
_DOUBTFUL = 1e-12  # rounding beyond this, relative to the output, may be a bend


class Point:
    """f at one point.

    Args:
        f: takes one Tensor per input, returns a Tensor or a tuple of Tensors.
        inputs: float64 arrays.
        names: of the inputs.
        rng: draws the cotangents.

    Attributes:
        outputs: the floating-point outputs, copied.
        flat: all of them in one vector.
        every_cotangent: see :func:`draws.cotangents`.
        cotangents: the one that :meth:`gradients` takes by default.
        side_effects: in words, the inputs that f and its backward wrote to.
    """

    def __init__(self, f: Callable[..., Any], inputs: Sequence[Any], names: Sequence[str], rng: np.random.Generator):
        self.f = f
        self.inputs = list(inputs)
        self.names = list(names)
        self.side_effects: list[str] = []
        given = [x.copy() for x in self.inputs]
        outputs, self.decisions = evaluate(f, given)
        self.outputs = [y.copy() for y in outputs]
        self.flat = flattened(self.outputs)
        self._look_for_changes(given, "forward", self.inputs)
        self.every_cotangent = draws.cotangents(self.outputs, rng)
        self.cotangents = self.every_cotangent[0]
        self.rng = rng.spawn(1)[0]

    def weighted_by(self, k: int) -> "Point":
        """The same point with cotangent k as its only one."""
        other = copy.copy(self)
        other.every_cotangent = [self.every_cotangent[k]]
        other.cotangents = self.every_cotangent[k]
        return other

    def gradients(
        self,
        start: Sequence[Any] | None = None,
        cotangents: Sequence[Any] | None = None,
        inputs: Sequence[Any] | None = None,
    ) -> list[Any]:
        """Copies of the gradients of L = Σ cotangent · f from one backward pass; None where none arrives.

        Args:
            start: what .grad holds beforehand; nothing if left out.
            cotangents: replace those of this point.
            inputs: replace those of this point.
        """
        inputs = self.inputs if inputs is None else inputs
        graph = Graph(self.f, inputs, start)
        gradients = graph.backward(self.cotangents if cotangents is None else cotangents)
        self._look_for_changes([leaf.data for leaf in graph.leaves], "backward", inputs)
        return [None if g is None else np.array(g) for g in gradients]

    @cached_property
    def rounding(self) -> Any:
        """The size of the rounding errors in each output.

        The fourth difference along random lines with a tiny step: a smooth function leaves only rounding. The
        lines pass a little beside the point, where no kink is likely.
        """
        noise = self._fourth_difference(_TINY)
        for k in range(1, _SHRINKING):
            if not (noise > _DOUBTFUL * np.abs(self.flat)).any():
                break
            finer = self._fourth_difference(_TINY / 8**k)
            if ((finer > 0) & (finer < noise / 100)).any():  # a few lines may miss rounding
                finer = np.maximum(finer, self._fourth_difference(_TINY / 8**k, _CONFIRMING))
            noise = np.where((finer > 0) & (finer < noise / 100), finer, noise)  # 8⁴ for a bend, 1 for rounding
        return noise

    def _fourth_difference(self, size: float, lines: int = _LINES) -> Any:
        largest = np.zeros(self.flat.size)
        for _ in range(lines):
            start = draws.displaced(self.inputs, self.rng, 1e-3)
            step = [size * draws.typical_size(x) * self.rng.standard_normal(x.shape) for x in start]
            line = [self.at([x + k * s for x, s in zip(start, step, strict=True)]) for k in (-2, -1, 0, 1, 2)]
            if all(y is not None for y in line):
                a, b, c, d, e = line
                largest = np.maximum(largest, np.abs(a - 4 * b + 6 * c - 4 * d + e) / 8)
        return largest

    def at(self, inputs: Sequence[Any]) -> Any:
        """The outputs at other inputs in one vector; None where they cannot be compared with those here."""
        try:
            outputs, _ = evaluate(self.f, inputs)
        except Exception:  # outside its domain
            return None
        y = flattened(outputs)
        return y if y.shape == self.flat.shape and np.isfinite(y).all() else None

    def elsewhere(self, inputs: Sequence[Any], rng: np.random.Generator) -> "Point | None":
        """f at other inputs, or None outside its domain."""
        try:
            other = Point(self.f, inputs, self.names, rng)
        except Exception:  # outside its domain
            return None
        return other if np.isfinite(other.flat).all() else None

    def _look_for_changes(self, now: Sequence[Any], culprit: str, inputs: Sequence[Any]) -> None:
        for name, x, before in zip(self.names, now, inputs, strict=True):
            if not np.array_equal(x, before, equal_nan=True):
                self.side_effects.append(f"{culprit} changes the input {name} in place")


class Graph:
    """One forward pass of f; backward may run later, and more than once."""

    def __init__(self, f: Callable[..., Any], inputs: Sequence[Any], start: Sequence[Any] | None = None):
        self.leaves = [Tensor(x.copy(), requires_grad=True) for x in inputs]
        for leaf, grad in zip(self.leaves, start or [], strict=False):
            leaf.grad = grad
        self.outputs = float_outputs(f(*self.leaves))

    def backward(self, cotangents: Sequence[Any], retain_graph: bool = False) -> list[Any]:
        """The .grad of every input, as it is, after a walk from L = Σ cotangent · output."""
        total = _WeightedSum.apply(*self.outputs, weights=[c.copy() for c in cotangents])
        if total.requires_grad:
            with np.errstate(all="ignore"):  # NaN and infinity are reported, not warned of
                total.backward(retain_graph=retain_graph)
        return [leaf.grad for leaf in self.leaves]

    def functions(self) -> list[Function]:
        """Every op of the graph."""
        found: dict[Function, None] = {y.function: None for y in self.outputs if y.function is not None}
        stack = list(found)
        while stack:
            for edge in stack.pop().edges:
                if edge is not None and not edge.is_leaf and edge.source not in found:
                    found[edge.source] = None
                    stack.append(edge.source)
        return list(found)


class _WeightedSum(Function):
    """L = Σ weights · outputs, the end of the graph: the gradients of the outputs are the weights."""

    def forward(self, *outputs: Any, weights: list[Any]) -> Any:
        self.weights = weights
        return sum(np.sum(w * y) for w, y in zip(weights, outputs, strict=True))

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return tuple(self.weights)


def evaluate(f: Callable[..., Any], inputs: Sequence[Any]) -> tuple[list[Any], list[decisions.Decision]]:
    """The floating-point outputs of f as arrays, and the decisions it made."""
    # A step out of the domain gives NaN, which the caller looks for; NumPy's warning would be noise.
    with decisions.recording() as made, np.errstate(all="ignore"):
        outputs = float_outputs(f(*[Tensor(x) for x in inputs]))
    return [y.data for y in outputs], made


def float_outputs(result: Any) -> list[Tensor]:
    """The floating-point Tensors that f returned. TypeError if f returned anything other than Tensors."""
    outputs = result if isinstance(result, tuple) else (result,)
    for y in outputs:
        if not isinstance(y, Tensor):
            raise TypeError(f"f must return a Tensor or a tuple of Tensors, got {type(y).__name__}")
    return [y for y in outputs if is_float(y.dtype)]


def flattened(arrays: Sequence[Any]) -> Any:
    """All entries in one new vector."""
    return np.concatenate([np.asarray(a).ravel() for a in arrays]) if len(arrays) else np.zeros(0)
