"""How a solution is run on a case, and finite differences. The same code runs the learner's and the library's."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from moe_numpy.autodiff import Function, Tensor
from moe_numpy.moe.routing import Candidates

from .exercise import Case, Same, Seeded, is_function_class

_STEP = 1e-3  # the 4-point rule is best near here: its error goes with the fourth power


def call(solution: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """A plain function."""
    return solution(*args, **settings)


def forward(solution: Any, *args: Any, **settings: Any) -> Any:
    """``forward`` of a fresh Function; a specification is called as it is."""
    if is_function_class(solution):
        return solution().forward(*args, **settings)
    return solution(*args, **settings)


def candidates(found: Any) -> tuple[Any, Any, Any]:
    """The three lists of :class:`Candidates`, after a look at what else they say.

    Raises:
        TypeError: it is something else.
        ValueError: not all are sent, or ``by_token`` says that they go through the tokens and they do not.
    """
    if not isinstance(found, Candidates):
        raise TypeError(f"returned a {type(found).__name__}, expected Candidates")
    if found.sent is not None and not np.all(found.sent):
        raise ValueError("sent must be None, or True for all: every candidate is dispatched")
    if found.by_token and np.any(np.diff(found.token) < 0):
        raise ValueError("by_token says that the list goes through the tokens, which it does not; leave it out")
    return found.token, found.expert, found.rank


class Graph:
    """A Function applied to a case through the engine: its outputs, and the gradients of its arguments."""

    def __init__(self, solution: type[Function], case: Case):
        places = differentiable(case)
        inputs = [Tensor(a, requires_grad=True) if i in places else a for i, a in enumerate(case.args)]
        checked: Any = _checked(solution)  # type: ignore[arg-type]
        outputs = checked.apply(*inputs, **case.settings)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        wanted = [y for y in outputs if y.dtype.kind == "f"]
        cotangents = case.cotangents or ()
        if len(wanted) != len(cotangents):
            raise ValueError(f"forward gave {len(wanted)} floating-point outputs, expected {len(cotangents)}")
        self.values = tuple(y.data for y in outputs)
        self._cotangents = cotangents
        self._leaves = [inputs[i] for i in places]
        self._total = _WeightedSum.apply(*wanted, weights=cotangents)

    def gradients(self, factor: int = 1) -> tuple[Any, ...]:
        """One walk backward from the case's cotangents, times a factor, of ∞ and NaN too; it can be repeated."""
        for leaf in self._leaves:
            leaf.grad = None
        if self._total.requires_grad:
            self._total.function.weights = tuple(_times(c, factor) for c in self._cotangents)
            self._total.backward(retain_graph=True)
        return tuple(leaf.grad for leaf in self._leaves)


@cache
def _checked(solution: Any) -> type[Function]:
    """The same Function, which says so when it returns a list or a matrix, or gives integers a gradient."""

    def forward(self: Any, *args: Any, **settings: Any) -> Any:
        self.integer_places = [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype.kind in "iu"]
        return _plain_arrays("forward", solution.forward(self, *args, **settings))

    def backward(self: Any, *grads: Any) -> Any:
        result = _plain_arrays("backward", solution.backward(self, *grads))
        for i in self.integer_places:
            if isinstance(result, tuple) and i < len(result) and result[i] is not None:
                raise TypeError(f"backward gave a gradient for argument {i}, which is of integers; return None there")
        return result

    methods = {"__module__": solution.__module__, "forward": forward, "backward": backward}
    return type(solution.__name__, (solution,), methods)


def _plain_arrays(name: str, result: Any) -> Any:
    if type(result) is list:
        raise TypeError(f"{name} returned a list of {len(result)}; return an array, or a tuple of arrays")
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, np.ndarray) and type(part) is not np.ndarray:  # the engine would convert it
            raise TypeError(f"{name} returned a {type(part).__name__}; return plain arrays")
    return result


def differentiable(case: Case) -> list[int]:
    """The positions of the arguments that have a gradient."""
    return [
        i
        for i, a in enumerate(_resolved(case.args))
        if isinstance(a, np.ndarray) and a.dtype.kind == "f" and i not in case.constants
    ]


def numeric_gradient(specification: Callable[..., Any], case: Case) -> tuple[Any, ...]:
    """The same gradients by finite differences of a specification, in float64 with the 4-point rule.

    dL/dx ≈ (8 (L(+h) - L(-h)) - (L(+2h) - L(-2h))) / 12h, where L = Σ cotangent · output.
    """
    args = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in case.args]

    def loss() -> float:
        outputs = specification(*args, **case.settings)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        floats = [np.asarray(y) for y in outputs if np.asarray(y).dtype.kind == "f"]
        return sum(float(np.sum(c * y)) for c, y in zip(case.cotangents or (), floats, strict=True))

    gradients = []
    for i in differentiable(case):
        slopes = np.zeros(args[i].shape)
        for index in np.ndindex(args[i].shape):
            x = args[i][index]
            h = _STEP * max(abs(float(x)), 0.1)
            at = {}
            for steps in (-2, -1, 1, 2):
                args[i][index] = x + steps * h
                at[steps] = loss()
            args[i][index] = x
            slopes[index] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
        gradients.append(slopes)
    return tuple(gradients)


def with_cotangents(case: Case, outputs: Any, rng: np.random.Generator) -> Case:
    """The case with a random upstream gradient for each floating-point output, unless it has its own."""
    if case.cotangents is not None:
        return case
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    arrays = [np.asarray(y) for y in outputs]
    cotangents = tuple(rng.standard_normal(y.shape).astype(y.dtype) for y in arrays if y.dtype.kind == "f")
    return Case(case.args, case.settings, case.layout, case.constants, cotangents)


def prepared(case: Case) -> Case:
    """A copy of the case whose arrays lie in memory as its layout says, with generators in place."""
    return Case(
        _resolved(tuple(_prepare(a, case.layout) for a in case.args)),
        {name: _prepare(value, case.layout) for name, value in case.settings.items()},
        case.layout,
        case.constants,
        None if case.cotangents is None else tuple(_prepare(c, case.layout) for c in case.cotangents),
    )


def _times(cotangent: Any, factor: int) -> Any:
    if factor == 1:
        return cotangent
    return np.asarray(cotangent * factor) if factor else np.zeros_like(cotangent)


class _WeightedSum(Function):
    """L = Σ weights · outputs."""

    def forward(self, *outputs: Any, weights: Sequence[Any]) -> Any:
        self.weights = weights
        return np.asarray(sum(np.sum(w * y) for w, y in zip(weights, outputs, strict=True)), dtype=weights[0].dtype)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return tuple(self.weights)


def _resolved(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(args[a.position] if isinstance(a, Same) else a for a in args)


def _prepare(value: Any, layout: str) -> Any:
    if isinstance(value, Seeded):
        return np.random.default_rng(value.seed)
    if isinstance(value, list | tuple):
        return type(value)(_prepare(v, layout) for v in value)
    if not isinstance(value, np.ndarray):
        return value
    if layout == "strided" and value.ndim:
        roomy = np.zeros(tuple(2 * n for n in value.shape), value.dtype)
        view = roomy[(slice(None, None, 2),) * value.ndim]
        view[...] = value
        return view
    return np.array(value, order="F" if layout == "F" else "C")
