"""Slips that no exercise is safe from: each makes a wrong solution of a right one. ``verify`` tries them all.

They are wrong in what comes back (lists, another dtype, one buffer for all calls), or in what stays behind (state on
the class, arrays written to), and right in everything else.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from moe_numpy.autodiff import Tensor

from .exercise import is_function_class
from .grading.outcome import Outcome, plain


@dataclass
class Slip:
    """Makes a wrong solution; ``effects`` counts the results that it changed: it may have no place in an exercise."""

    name: str
    make: Callable[[], Any]
    effects: Callable[[], int]


def slips(solution: Any) -> Iterator[Slip]:
    """Wrong solutions made of a right one."""
    changes = RESULTS | {"returns one buffer again and again": _in_one_buffer()}
    for name, change in changes.items():
        counted = _Counted(change)
        yield Slip(name, lambda c=counted: _changed(solution, c), lambda c=counted: c.effects)  # type: ignore[misc]
    for what, key in (("shape", _Shapes()), ("array, whatever is in it", _Identities())):
        name = f"remembers the result of each {what}"
        yield Slip(name, lambda k=key: remembers(solution, k), lambda k=key: k.effects)  # type: ignore[misc]
    if is_function_class(solution):
        for make in (
            writes_upstream,
            keeps_on_the_class,
            spoils_its_output,
            spoils_what_it_saved,
            adds_up_all_calls,
            fills_buffers_of_its_own,
            clips,
            forgets_one_alone,
            divides_by_upstream,
        ):
            yield Slip(make.__name__.replace("_", " "), lambda m=make: m(solution), lambda: 1)  # type: ignore[misc]


class _Counted:
    """A change of arrays that counts those that came out another."""

    def __init__(self, change: Callable[[Any], Any]):
        self.change, self.effects = change, 0

    def __call__(self, a: Any) -> Any:
        b = self.change(a)
        self.effects += b is not a
        return b


class _Shapes:
    """What is left of arguments without the values of arrays; ``effects`` counts those that nobody looked at."""

    arrays = effects = 0

    def __call__(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            self.arrays += 1
            return self.of_array(value)
        if isinstance(value, list | tuple):
            return tuple(map(self, value))
        if isinstance(value, dict):
            return tuple((name, self(v)) for name, v in value.items())
        if isinstance(value, Tensor):
            return self(value.data)
        if is_dataclass(value):
            return self(vars(value))
        return value if isinstance(value, int | float | str | None) else type(value)

    def of_array(self, a: Any) -> Any:
        return a.shape, a.dtype.str


class _Identities(_Shapes):
    """The same with the identity of each array."""

    def of_array(self, a: Any) -> Any:
        return id(a)


def _floats(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda a: change(a) if a.dtype.kind == "f" else a


RESULTS: dict[str, Callable[[Any], Any]] = {
    "returns lists": lambda a: a.tolist() if a.ndim else a,
    "returns tuples": lambda a: tuple(a.tolist()) if a.ndim else a,
    "returns numbers of Python": lambda a: a if a.ndim else a.item(),
    "returns matrices": lambda a: a.view(np.matrix) if a.ndim == 2 else a,
    "returns masked arrays": lambda a: np.ma.masked_array(a) if a.ndim else a,
    "returns float64": _floats(lambda a: a.astype(np.float64, copy=False)),
    "returns float32": _floats(lambda a: a.astype(np.float32, copy=False)),
    "returns float16": _floats(lambda a: a.astype(np.float16)),
    "rounds to float32 on the way": _floats(lambda a: a.astype(np.float32, copy=False).astype(a.dtype, copy=False)),
    "rounds to float16 on the way": _floats(lambda a: a.astype(np.float16).astype(a.dtype)),
    "returns objects": lambda a: a.astype(object),
    "returns narrow integers": lambda a: a.astype(np.int16) if a.dtype.kind == "i" else a,
    "returns unsigned integers": lambda a: a.astype(np.uint64) if a.dtype.kind == "i" else a,
    "returns integers for booleans": lambda a: a.astype(np.int64) if a.dtype.kind == "b" else a,
    "returns an axis too many": lambda a: a[None],
}


def slipped(outcome: Outcome) -> Iterator[tuple[str, Outcome]]:
    """What an outcome is with a slip on top, by the slip's name; itself if it has no effect."""
    for kind in ("ValueError", "TypeError", "IndexError"):
        error = {"type": kind, "message": "another", "line": None, "code": ""}
        yield f"raises {kind}", replace(outcome, value=None, error=error)
    for name, change in RESULTS.items():
        counted = _Counted(change)
        with np.errstate(all="ignore"):
            value, forward = (plain(_mapped(counted, v)) for v in (outcome.value, outcome.forward))
        yield name, replace(outcome, value=value, forward=forward) if counted.effects else outcome


def writes_upstream(solution: Any) -> Any:
    """Scales the gradient it was given in place."""

    class Wrong(solution):
        def backward(self, *grads: Any) -> Any:
            result = _mapped(np.array, super().backward(*grads))
            for g in grads:
                if isinstance(g, np.ndarray):
                    g *= 2
            return result

    return Wrong


def keeps_on_the_class(solution: Any) -> Any:
    """Keeps on the class what forward saves."""

    class Wrong(solution):
        kept: Any = ()

        def save(self, *arrays: Any) -> None:
            Wrong.kept = arrays

        @property
        def saved(self) -> Any:
            return Wrong.kept

    return Wrong


def spoils_its_output(solution: Any) -> Any:
    """Writes in backward into what forward returned."""

    class Wrong(solution):
        def forward(self, *args: Any, **settings: Any) -> Any:
            self.output = super().forward(*args, **settings)
            if isinstance(self.output, np.generic):
                self.output = np.asarray(self.output)
            return self.output

        def backward(self, *grads: Any) -> Any:
            result = _mapped(np.array, super().backward(*grads))
            self.output += 1
            return result

    return Wrong


def spoils_what_it_saved(solution: Any) -> Any:
    """Writes in backward into copies that forward saved."""

    class Wrong(solution):
        kept: Any = ()

        def save(self, *arrays: Any) -> None:
            self.kept = tuple(np.array(a) if isinstance(a, np.ndarray) else a for a in arrays)

        @property
        def saved(self) -> Any:
            return self.kept

        def backward(self, *grads: Any) -> Any:
            result = _mapped(np.array, super().backward(*grads))
            for a in self.kept:
                if isinstance(a, np.ndarray) and a.dtype.kind == "f":
                    a += 1
                elif isinstance(a, np.ndarray) and a.size:
                    a[...] = a.flat[0]
            return result

    return Wrong


def adds_up_all_calls(solution: Any) -> Any:
    """Adds the gradients of all calls up, as optimizers do."""
    totals: dict[Any, Any] = {}

    class Wrong(solution):
        def backward(self, *grads: Any) -> Any:
            def total(a: Any) -> Any:
                key = (a.shape, a.dtype)
                totals[key] = totals.get(key, 0) + a
                return totals[key]

            return _mapped(total, super().backward(*grads))

    return Wrong


def fills_buffers_of_its_own(solution: Any) -> Any:
    """Returns in each backward of an instance the same arrays."""

    class Wrong(solution):
        def backward(self, *grads: Any) -> Any:
            result = super().backward(*grads)
            if not hasattr(self, "kept"):
                self.kept = _mapped(np.array, result)
            results, kept = (r if isinstance(r, tuple) else (r,) for r in (result, self.kept))
            for new, buffer in zip(results, kept, strict=True):
                if isinstance(buffer, np.ndarray):
                    buffer[...] = new
            return self.kept

    return Wrong


def clips(solution: Any) -> Any:
    """Cuts gradients off, as optimizers do, beyond what a check would draw."""

    class Wrong(solution):
        def backward(self, *grads: Any) -> Any:
            return _mapped(lambda a: np.clip(a, -50, 50) if a.dtype.kind == "f" else a, super().backward(*grads))

    return Wrong


def forgets_one_alone(solution: Any) -> Any:
    """Gives an argument no gradient where it is the only one of several that needs one."""

    class Wrong(solution):
        def backward(self, *grads: Any) -> Any:
            result = super().backward(*grads)
            inputs = range(len(result) if isinstance(result, tuple) else 1)
            alone = sum(map(self.needs_grad, inputs)) == 1
            return _mapped(np.zeros_like, result) if alone else result

    return Wrong


def divides_by_upstream(solution: Any) -> Any:
    """Has the gradient that it was given below a fraction and above it: NaN where that is 0."""

    class Wrong(solution):
        def backward(self, *grads: Any) -> Any:
            with np.errstate(invalid="ignore"):
                one = sum(np.abs(g).sum() / np.abs(g).sum() for g in grads if g is not None and g.size) or 1.0
            result = super().backward(*grads)
            return result if one > 0 else _mapped(lambda a: np.full_like(a, np.nan), result)

    return Wrong


def remembers(solution: Any, key_of: _Shapes) -> Any:
    """Looks at the values of its arguments only once for each combination of shapes, or of arrays."""
    results: dict[Any, Any] = {}

    def remembered(f: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*args: Any, **settings: Any) -> Any:
            before = key_of.arrays
            key = key_of((args, settings))
            if key in results:
                key_of.effects += key_of.arrays - before
            else:
                results[key] = f(*args, **settings), args, settings  # kept alive: no other array has its identity
            return _mapped(np.array, results[key][0])

        return wrong

    if not is_function_class(solution):
        return remembered(solution)

    class Wrong(solution):
        def forward(self, *args: Any, **settings: Any) -> Any:
            return remembered(super().forward)(*args, **settings)

    return Wrong


def _changed(solution: Any, change: Callable[[Any], Any]) -> Any:
    """The same with every array that comes back changed; of a Function both of forward and of backward."""
    if not is_function_class(solution):
        return lambda *args, **settings: _mapped(change, solution(*args, **settings))

    class Wrong(solution):
        def forward(self, *args: Any, **settings: Any) -> Any:
            return _mapped(change, super().forward(*args, **settings))

        def backward(self, *grads: Any) -> Any:
            return _mapped(change, super().backward(*grads))

    return Wrong


def _in_one_buffer() -> Callable[[Any], Any]:
    buffers: dict[Any, Any] = {}

    def change(a: Any) -> Any:
        buffer = buffers.setdefault((a.shape, a.dtype), np.empty_like(a))
        buffer[...] = a
        return buffer

    return change


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """What comes back, with every array changed."""
    if isinstance(value, np.ndarray | np.generic):
        return change(np.asarray(value))
    if isinstance(value, tuple):
        return tuple(_mapped(change, v) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: _mapped(change, v) for name, v in vars(value).items()})
    return value
