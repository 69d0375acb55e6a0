"""Backward passes that disturb one another: state that two graphs share, arrays that an op writes to but does not own.

A graph owns what its ops saved. So two forward passes followed by two backward passes, in either order, give the
same gradients as one pair after the other; a second walk of one graph repeats the first; and an array that an op
was given or gave away never changes afterwards.
"""

from typing import Any

import numpy as np

from ..autodiff import Function
from .draws import displaced
from .point import Graph, Point
from .soundness import equal

_SHARED = "state is shared between passes (on the class, in a global, in a buffer of the module)"
_SCALE = 2.0**-30  # exact in binary: a linear backward follows without rounding


def unrepeatable(point: Point, gradients: list[Any]) -> list[str]:
    """Why the gradients cannot be compared with anything: a second pass gives others."""
    again = point.gradients()
    names = [name for name, a, b in zip(point.names, gradients, again, strict=True) if not equal(a, b)]
    settled = names and all(map(equal, point.gradients(), point.gradients()))
    cause = _SHARED if settled else "it is random, or counts something from pass to pass"
    return [f"{name}: a second backward, on a fresh graph, gives a different gradient: {cause}" for name in names]


def backward_problems(point: Point, gradients: list[Any], rng: np.random.Generator) -> list[str]:
    """What is wrong with backward beside its numbers, in words; ``gradients`` are those of the point."""
    other = point.elsewhere(displaced(point.inputs, rng, 0.7), rng)
    if other is not None and [y.shape for y in other.outputs] != [y.shape for y in point.outputs]:
        other = None
    problems = _ownership(point, point if other is None else other)
    if not problems:
        problems = _repetition(point, gradients)
        problems += _accumulation(point, gradients, rng)
        problems += _scaling(point, gradients)
        if other is not None:
            problems += _interleaving(point, other, gradients)
    return list(dict.fromkeys(problems + point.side_effects))


def _ownership(point: Point, other: Point) -> list[str]:
    """Writes into the gradient that backward receives, into what forward saved, into what backward returned."""
    graph = Graph(point.f, point.inputs)
    outputs = [y.data for y in graph.outputs]
    before = [y.copy() for y in outputs]
    watches = [_Watch(op) for op in graph.functions()]
    first = graph.backward(point.cotangents)
    problems = [sentence for watch in watches for sentence in watch.problems()]
    kept = [None if g is None else g.copy() for g in first]
    Graph(other.f, other.inputs).backward(other.cotangents)
    for name, now, was in zip(point.names, first, kept, strict=True):
        if now is not None and was is not None and not np.array_equal(now, was, equal_nan=True):
            problems.append(
                f"{name}: a later backward overwrites the gradient that this one returned (a shared buffer?)"
            )
    if any(not np.array_equal(now, was, equal_nan=True) for now, was in zip(outputs, before, strict=True)):
        problems.append("the outputs change after they were returned (a shared buffer, or backward writes into them?)")
    return problems


class _Watch:
    """Wraps backward of one op, and compares the arrays it sees before and after."""

    def __init__(self, op: Function):
        self.op = op
        self.found: list[str] = []
        self.returned: list[tuple[Any, Any]] = []
        self.original = op.backward
        op.backward = self.run  # type: ignore[method-assign]

    def run(self, *arrived: Any) -> Any:
        saved = self.op._saved
        seen = [("the gradient that it receives", a) for a in arrived] + [
            ("an array that forward saved", a) for a in saved
        ]
        watched = [(what, a, a.copy()) for what, a in seen if isinstance(a, np.ndarray)]
        result = self.original(*arrived)
        for what, now, was in watched:
            if not np.array_equal(now, was, equal_nan=now.dtype.kind == "f"):
                self.found.append(f"{self.op.name}.backward writes into {what}")
        for g in result if isinstance(result, tuple) else (result,):
            if isinstance(g, np.ndarray):
                self.returned.append((g, g.copy()))
        return result

    def problems(self) -> list[str]:
        """In words, after the walk."""
        if any(not np.array_equal(now, was, equal_nan=True) for now, was in self.returned) and not self.found:
            self.found.append(f"the gradient that {self.op.name}.backward returned changes afterwards")
        return self.found


def _repetition(point: Point, gradients: list[Any]) -> list[str]:
    problems = []
    graph = Graph(point.f, point.inputs)
    for retain in (True, False):
        for leaf in graph.leaves:
            leaf.grad = None
        again = [None if g is None else g.copy() for g in graph.backward(point.cotangents, retain_graph=retain)]
    for name, first, second in zip(point.names, gradients, again, strict=True):
        if not equal(first, second):
            problems.append(f"{name}: a second backward through the same graph gives a different gradient")
    return problems


def _accumulation(point: Point, gradients: list[Any], rng: np.random.Generator) -> list[str]:
    start = [rng.standard_normal(x.shape) for x in point.inputs]
    return [
        f"{name}: backward replaces what .grad holds instead of adding to it"
        for name, first, total, old in zip(point.names, gradients, point.gradients(start), start, strict=True)
        if first is not None and not equal(total, first + old)
    ]


def _scaling(point: Point, gradients: list[Any]) -> list[str]:
    """A backward that treats small upstream gradients differently."""
    small = point.gradients(cotangents=[_SCALE * c for c in point.cotangents])
    return [
        f"{name}: backward is not linear: an upstream gradient {_SCALE:.0e} times as large gives something other than "
        f"{_SCALE:.0e} times the result"
        for name, first, scaled in zip(point.names, gradients, small, strict=True)
        if first is not None and not equal(first, None if scaled is None else scaled / _SCALE)
    ]


def _interleaving(point: Point, other: Point, gradients: list[Any]) -> list[str]:
    """Forward here, forward there, then both backward, in either order."""
    alone = other.gradients(cotangents=point.cotangents)
    for here_first in (True, False):
        here, there = Graph(point.f, point.inputs), Graph(other.f, other.inputs)
        pair = [(here, gradients), (there, alone)]
        for graph, expected in pair if here_first else pair[::-1]:
            found = [None if g is None else g.copy() for g in graph.backward(point.cotangents)]
            for name, a, b in zip(point.names, expected, found, strict=True):
                if not equal(a, b):
                    return [f"{name}: with a second forward pass before backward the gradient is different: {_SHARED}"]
    return []
