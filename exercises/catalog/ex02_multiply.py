"""Exercise 02: multiplication, forward and backward."""

from typing import Any

import numpy as np

from moe_numpy.ops.arithmetic import Multiply

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

EXERCISE = Exercise(
    number=2,
    name="multiply",
    title="Multiply, forward and backward",
    teaches="The shape of every differentiable op: compute, save what backward needs, apply the chain rule.",
    difficulty=1,
    minutes=10,
    needs=(1,),
    target="moe_numpy.ops.arithmetic:Multiply",
    imports=("from moe_numpy.ops.arithmetic import Operand",),
    hints=(
        "backward gets grad = dL/dy and returns dL/da and dL/db. Move one a a little: how much does y move?",
        "dy/da = b and dy/db = a, so forward must keep both: self.save(a, b), later a, b = self.saved.",
        "forward: save and return a * b. backward: return grad * b, grad * a. The engine undoes broadcasting.",
    ),
)


def specification(a: Any, b: Any) -> Any:
    """One product for each entry of the broadcast shape."""
    a, b = np.asarray(a), np.asarray(b)
    y = np.zeros(np.broadcast_shapes(a.shape, b.shape), np.result_type(a, b))
    for index in np.ndindex(y.shape):
        y[index] = _entry(a, index) * _entry(b, index)
    return y


def _entry(x: Any, index: tuple[int, ...]) -> Any:
    own = index[len(index) - x.ndim :]
    return x[tuple(i if n > 1 else 0 for i, n in zip(own, x.shape, strict=True))]


def equal_shapes(rng: np.random.Generator) -> list[Case]:
    """Nothing is broadcast."""
    return [case(rng.standard_normal(s), rng.standard_normal(s)) for s in [(3, 4), (4, 4), (5,), (1, 1), (2, 3, 2)]]


def broadcast(rng: np.random.Generator) -> list[Case]:
    """One side, the other side, and both are stretched."""
    shapes = [((3, 4), (4,)), ((3, 1), (3, 4)), ((3, 1), (1, 4)), ((2, 3, 4), (3, 1)), ((3, 4), ()), ((), (3, 4))]
    return [case(rng.standard_normal(a), rng.standard_normal(b)) for a, b in shapes]


def numbers(rng: np.random.Generator) -> list[Case]:
    """Python numbers take part without changing the dtype."""
    x = rng.standard_normal((3, 4)).astype(np.float32)
    return [case(x, 2.5), case(-3, x), case(x.astype(np.float64), 0.5)]


def zeros(rng: np.random.Generator) -> list[Case]:
    """Entries that are zero on either side."""
    a, b = rng.standard_normal((2, 3, 4))
    a[0], b[:, 1] = 0.0, 0.0
    return [case(a, b)]


def empty(rng: np.random.Generator) -> list[Case]:
    """No rows."""
    return [case(np.zeros((0, 4)), np.zeros((0, 4))), case(np.zeros((0, 4)), rng.standard_normal(4))]


# Wrong solutions


class EachItsOwn(Multiply):
    """da = g a, db = g b: the factors are exchanged. d(ab)/da is b, and d(ab)/db is a."""

    def backward(self, grad: Any) -> Any:
        """The wrong way round."""
        a, b = self.saved
        return grad * a, grad * b


class IgnoresUpstream(Multiply):
    """da = b, db = a: the gradient from above is missing. The chain rule multiplies with it."""

    def backward(self, grad: Any) -> Any:
        """As if L were Σ y."""
        a, b = self.saved
        return b * np.ones_like(grad), a * np.ones_like(grad)


class PassesTheGradientOn(Multiply):
    """da = g, db = g: that is the backward of a + b."""

    def backward(self, grad: Any) -> Any:
        """Of an addition."""
        return grad, grad


class MultipliesWithTheResult(Multiply):
    """da = db = g y. The derivative for one factor is the other factor, not the product."""

    def backward(self, grad: Any) -> Any:
        """With a b."""
        a, b = self.saved
        return grad * (a * b), grad * (a * b)


class DividesTheResult(Multiply):
    """da = g y / a. It equals g b but for a = 0, where it is 0/0. Save both factors in forward."""

    def backward(self, grad: Any) -> Any:
        """Back from y."""
        a, b = self.saved
        y = a * b
        return grad * (y / a), grad * (y / b)


class ForgetsTheSecond(Multiply):
    """Returns a gradient for a only. Both inputs need one."""

    def backward(self, grad: Any) -> Any:
        """None for b."""
        _, b = self.saved
        return grad * b, None


class CopiesAreNotAddedUp(Multiply):
    """Undoes broadcasting by the first copy. Leave it to the engine, which adds the copies up."""

    def backward(self, grad: Any) -> Any:
        """One row, one column."""
        a, b = self.saved
        return _first_copy(grad * b, a), _first_copy(grad * a, b)


class MultipliesInPlace(Multiply):
    """`a *= b` writes into the caller's array, and what is saved for backward is then y."""

    def forward(self, a: Any, b: Any) -> Any:
        """Overwrites a."""
        if np.shape(a) != np.broadcast_shapes(np.shape(a), np.shape(b)):
            return super().forward(a, b)
        self.save(a, b)
        a *= b
        return a


class MatrixProduct(Multiply):
    """a @ b sums over an axis. This op multiplies entry by entry: a * b."""

    def forward(self, a: Any, b: Any) -> Any:
        """Another product."""
        self.save(a, b)
        return a @ b


class ComputesInFloat64(Multiply):
    """Turns its inputs into float64 arrays, and float32 is lost. A Python number fits any dtype as it is."""

    def forward(self, a: Any, b: Any) -> Any:
        """Promotes."""
        return super().forward(np.asarray(a, np.float64), np.asarray(b, np.float64))


def _first_copy(grad: Any, x: Any) -> Any:
    grad = grad[(0,) * (grad.ndim - np.ndim(x))]
    for axis, n in enumerate(np.shape(x)):
        grad = grad.take([0], axis=axis) if n == 1 else grad
    return grad


CHECKS = (
    Check("forward multiplies entries", 1, equal_shapes, "a * b, entry by entry"),
    Check("forward broadcasts", 1, broadcast, "NumPy broadcasts by itself; nothing is to be done"),
    Check("numbers keep float32", 1, numbers, "do not turn a number into an array"),
    Check("gradient of both factors", 4, equal_shapes, "g times the other factor", gradient=True),
    Check(
        "gradient of broadcast factors",
        2,
        broadcast,
        "the engine sums over stretched axes after backward; g * b and g * a are enough",
        gradient=True,
    ),
    Check("gradient where a factor is zero", 1, zeros, "do not divide by what may be zero", gradient=True),
    Check("gradient in float32", 1, float32(broadcast), "everything stays float32", gradient=True),
    Check("gradient of arrays with gaps", 1, strided(equal_shapes), "leave the inputs as they are", gradient=True),
    Check("no rows", 1, empty, "nothing to multiply", gradient=True),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.array([2.0, 0.0]), np.array([3.0, -5.0]))),
        "by hand: 6 and 0",
    ),
)

MISTAKES = (
    EachItsOwn,
    IgnoresUpstream,
    PassesTheGradientOn,
    MultipliesWithTheResult,
    DividesTheResult,
    ForgetsTheSecond,
    CopiesAreNotAddedUp,
    MultipliesInPlace,
    MatrixProduct,
    ComputesInFloat64,
)
