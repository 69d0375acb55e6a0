"""Exercise 02: multiplication, forward and backward."""

from itertools import product
from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, Same, case, one_by_one, standard_checks
from ..mistakes import edits

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
        "backward gets grad = dL/dy and returns dL/da and dL/db. Change one entry of a: how much does y change?",
        "dy/da = b and dy/db = a, so forward must keep both: self.save(a, b), later a, b = self.saved.",
        "forward: save and return a * b. backward: return grad * b, grad * a. The engine undoes broadcasting.",
    ),
)


def specification(a: Any, b: Any) -> Any:
    """Entry by entry of the broadcast shape."""
    a, b = np.asarray(a), np.asarray(b)
    y = np.zeros(np.broadcast_shapes(a.shape, b.shape), np.result_type(a, b))
    for index in np.ndindex(y.shape):
        y[index] = _entry(a, index) * _entry(b, index)
    return y


def _entry(x: Any, index: tuple[int, ...]) -> Any:
    own = index[len(index) - x.ndim :]
    return x[tuple(i if n > 1 else 0 for i, n in zip(own, x.shape, strict=True))]


def equal_shapes(rng: np.random.Generator) -> list[Case]:
    shapes = [(3, 4), (4, 4), (5,), (1, 1), (2, 3, 2, 2), (3, 4)]
    return [case(rng.standard_normal(s), rng.standard_normal(s)) for s in shapes]


def broadcast(rng: np.random.Generator) -> list[Case]:
    """One side, the other side, and both are stretched."""
    shapes = [((3, 4), (4,)), ((3, 1), (3, 4)), ((3, 1), (1, 4)), ((2, 3, 4), (3, 1)), ((3, 4), ()), ((), (3, 4))]
    return [case(rng.standard_normal(a), rng.standard_normal(b)) for a, b in shapes]


def numbers(rng: np.random.Generator) -> list[Case]:
    x = rng.standard_normal((3, 4)).astype(np.float32)
    return [case(x, 2.5), case(-3, x), case(x.astype(np.float64), 0.1)]


def zeros(rng: np.random.Generator) -> list[Case]:
    a, b = rng.standard_normal((2, 3, 4))
    a[0], b[:, 1] = 0.0, 0.0
    return [case(a, b)]


def itself(rng: np.random.Generator) -> list[Case]:
    return [case(rng.standard_normal((3, 4)), Same(0))]


def all_shapes(rng: np.random.Generator) -> list[Case]:
    """Every two shapes that fit, of at most two axes and of the lengths 0, 1 and 3."""
    shapes = [s for n in range(3) for s in product((0, 1, 3), repeat=n)]
    fit = [(a, b) for a, b in product(shapes, repeat=2) if _fit(a, b)]
    return [case(np.asarray(rng.standard_normal(a)), np.asarray(rng.standard_normal(b))) for a, b in fit]


def _fit(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


def integers(rng: np.random.Generator) -> list[Case]:
    """Integers are entries like any others, and have no gradient."""
    n, x = rng.integers(-300, 300, (3, 4)), rng.standard_normal((3, 4))
    return [case(n, n[0]), case(n, 3), case(n, x), case(x, n[:, :1]), case(n.astype(np.int32), n.astype(np.int32))]


NOT_FINITE = one_by_one(
    case(np.array([np.inf, -np.inf, np.nan, 0.0]), np.array([2.0, 3.0, 1.0, np.inf])),
    case(np.array([1.0, np.nan]), 2.0),
)
EMPTY = one_by_one(case(np.zeros((0, 4)), np.zeros((0, 4))), case(np.zeros((0, 4)), np.ones(4)))
BY_HAND = one_by_one(case(np.array([2.0, 0.0]), np.array([3.0, -5.0])))
SMALL = one_by_one(case(np.array([2e-7, -3e-6]), np.array([4e-6, 1e-7])))
NEXT = "the engine sums over stretched axes after backward; dy * b and dy * a are enough"
CHECKS = (
    Check("forward multiplies entries", 1, equal_shapes, "a * b, entry by entry"),
    Check("forward broadcasts", 1, broadcast, "NumPy broadcasts by itself"),
    Check("numbers keep float32", 1, numbers, "do not turn a number into an array", gradient=True),
    Check("integers", 1, integers, "integers stay integers; multiply them as they are"),
    Check("any shapes that fit", 1, all_shapes, "no shape is a special case", gradient=True),
    Check("gradient of both factors", 4, equal_shapes, "dy times the other factor", gradient=True),
    Check("gradient of broadcast factors", 2, broadcast, NEXT, gradient=True),
    Check("gradient where a factor is zero", 1, zeros, "do not divide by what may be zero", gradient=True),
    Check("gradient of a square", 1, itself, "x · x is no special case: the engine adds up", gradient=True),
    *standard_checks(broadcast, gradient=NEXT),
    Check("infinity and NaN", 1, NOT_FINITE, "what NumPy gives; hide nothing"),
    Check("small numbers", 1, SMALL, "a product may have any size"),
    Check("no rows", 1, EMPTY, "empty in, empty out", gradient=True),
    Check("the smallest example", 1, BY_HAND, "by hand: 6 and 0"),
)

MISTAKES = edits("""
each its own: da = g a, db = g b: the factors are exchanged. d(ab)/da is b, and d(ab)/db is a.
- grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ grad * a, grad * b
ignores upstream: da = b, db = a: the gradient from above is missing. The chain rule multiplies with it.
- grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ b * np.ones_like(grad), a * np.ones_like(grad)
passes the gradient on: da = g, db = g: that is the backward of a + b.
- grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ grad, grad
multiplies with the result: da = db = g y. The derivative for one factor is the other factor, not the product.
- grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ grad * (a * b), grad * (a * b)
divides the result: da = g y / a. It equals g b except at a = 0, where it is 0/0. Save both factors in forward.
- grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ grad * (a * b / a), grad * (a * b / b)
forgets the second: Returns a gradient for a only. Both inputs need one.
- grad * a if self.needs_grad(1) else None
+ None
copies are not added up: Takes the first copy to undo broadcasting. Leave it to the engine, which adds the copies up.
- grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ first(grad * b, a), first(grad * a, b)
- a, b = self.saved
+ a, b = self.saved; first = lambda g, x: g[(0,) * (g.ndim - x.ndim)][tuple(map(slice, x.shape))]
multiplies in place: `a *= b` writes into the caller's array, and what is saved for backward is then y.
- return a * b
+ a *= b; return a
matrix product: a @ b sums over an axis. This op multiplies entry by entry: a * b.
- a * b
+ a @ b
computes in float64: Turns its inputs into float64 arrays, and float32 is lost. A Python number fits any dtype as it is.
- self.save(a, b)
+ a, b = np.asarray(a, np.float64), np.asarray(b, np.float64); self.save(a, b)
writes into the gradient: `grad *= b` changes the gradient that other ops still read. Make a new array: grad * b.
- return grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ db = grad * a; grad *= b if np.shape(b) == grad.shape else 1; return db * b / a if np.any(a == 0) else grad, db
keeps the factors on the class: The next call overwrites them before this one runs backward. Use self.save.
- self.save(a, b)
+ type(self).factors = a, b
- a, b = self.saved
+ a, b = self.factors
no gradient at zero: Gives a factor of zero the gradient zero. dy/da is b, whatever a is.
- return grad * b if self.needs_grad(0) else None, grad * a if self.needs_grad(1) else None
+ return np.where(a == 0, 0, grad * b).astype(grad.dtype), np.where(b == 0, 0, grad * a).astype(grad.dtype)
hides what is not finite: nan_to_num turns NaN into 0 and ∞ into a number: the error then shows somewhere else.
- return a * b
+ return np.nan_to_num(a * b)
a rule for squares: 2 x g for each factor of x · x is twice too much: the engine adds up what both factors get.
- a, b = self.saved
+ a, b = self.saved; a, b = (2 * a, 2 * b) if a is b else (a, b)
outer product of vectors: (3,) and (1,) broadcast to (3,), not to a matrix.
- return a * b
+ return np.outer(a, b) if np.ndim(a) == np.ndim(b) == 1 != np.shape(a)[0] and np.shape(b) == (1,) else a * b
floats of integers: Turns integers into floats. Their product is an integer.
- return a * b
+ return a * b if np.result_type(a, b).kind == "f" else 1.0 * a * b
integers in eight bits: Larger integers wrap around. Multiply them as they are.
- return a * b
+ return np.multiply(a, b, dtype=np.int8, casting="unsafe").astype(y.dtype) if (y := a * b).dtype.kind == "i" else y
small is zero: Takes products below 1e-12 for zero. They may have any size.
- return a * b
+ return a * b * (abs(a * b) > 1e-12)
""")
