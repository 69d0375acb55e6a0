"""Exercise 01: the adjoint of broadcasting."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=1,
    name="undo_broadcasting",
    title="Undo broadcasting",
    teaches="Whatever forward copies, backward must add up: the adjoint of a copy is a sum.",
    difficulty=1,
    minutes=15,
    target="moe_numpy.autodiff.graph:undo_broadcasting",
    hints=(
        "y = x + 0 with x of shape (4,) and y of shape (3, 4): how many entries of y hold x[2]? "
        "Each of them passes its gradient back.",
        "There are two kinds of axes to sum over: those in front that x does not have, and those where x has length 1.",
        "Count the new axes as grad.ndim - len(shape). Sum over them and over the axes of length 1 at once, with "
        "keepdims=True, and reshape to `shape`.",
    ),
)


def specification(grad: Any, shape: tuple[int, ...]) -> Any:
    """Add every entry of grad to the entry of x that it was copied from."""
    total = np.zeros(shape, grad.dtype)
    for index in np.ndindex(grad.shape):
        source = index[len(index) - len(shape) :]
        total[tuple(i if n > 1 else 0 for i, n in zip(source, shape, strict=True))] += grad[index]
    return total


def stretched(rng: np.random.Generator) -> list[Case]:
    shapes = [
        ((3, 4), (4,)),
        ((3, 4), (1, 4)),
        ((3, 4), (3, 1)),
        ((3, 4), ()),
        ((3, 4), (4,)),
        ((2, 3, 4), (3, 1)),
        ((2, 3, 4), (1, 3, 1)),
        ((5, 2, 5), (5, 1, 1)),
        ((3, 3), (1, 3)),
        ((2, 3, 2), (2, 1, 2)),
        ((2, 3, 4), (4,)),
        ((2, 3), (1, 1)),
        ((2, 3, 1, 2, 3), (3, 1, 2, 1)),
    ]
    return [case(rng.standard_normal(big), small) for big, small in shapes]


def unchanged(rng: np.random.Generator) -> list[Case]:
    return [case(rng.standard_normal(shape), shape) for shape in [(3, 4), (1,), (), (1, 1), (2, 1, 3)]]


def every(lengths: str, axes: int) -> Iterator[Case]:
    """Each way to broadcast to at most so many axes of these lengths: an axis is kept, stretched or put in front."""
    for n in range(axes + 1):
        for big in product(lengths, repeat=n):
            for new in range(n + 1):
                for small in product(*({m, "1"} for m in big[new:])):
                    yield case(np.zeros([int(m) for m in big]), tuple(int(m) for m in small))


def all_shapes(rng: np.random.Generator) -> list[Case]:
    pairs = [(c.args[0].shape, c.args[1]) for c in every("13", 4)]
    pairs += [((2, 1, 3, 2, 3), (2, 1, 3, 2, 1)), ((2, 3, 2, 3, 2, 3), (2, 1, 2, 3, 2, 1)), ((3,) * 6, (3, 1, 3))]
    return [case(rng.standard_normal(big), small) for big, small in pairs]


def empty(rng: np.random.Generator) -> list[Case]:
    return [c for c in every("013", 2) if not c.args[0].size]


SMALL = np.array([[5e-13, -9e-13], [4e-13, 3e-13]])
NOT_FINITE = np.array([[np.nan, 1.0], [2.0, np.inf]])
ODD = one_by_one(case(SMALL, (1, 2)), *(case(NOT_FINITE, shape) for shape in [(2,), (1, 2), (2, 1), (2, 2), ()]))
BY_HAND = one_by_one(case(np.array([[1.0, 2.0], [3.0, 4.0]]), (1, 2)))
CHECKS = (
    Check("sums over stretched axes", 4, stretched, "which axes of grad are copies of one entry of x?"),
    Check("leaves other arrays alone", 2, unchanged, "with no stretched axis there is nothing to sum"),
    Check("any shapes", 1, all_shapes, "count the new axes first; then look at each axis that is left"),
    *standard_checks(stretched),
    Check("sums nothing to zero", 2, empty, "an axis of length 0 sums to 0"),
    Check("small numbers, NaN and infinity", 1, ODD, "add up whatever comes, and hide nothing"),
    Check("knows the smallest example", 1, BY_HAND, "by hand: the columns sum to 4 and 6"),
)

MISTAKES = edits("""
forgets new axes: Sums over the axes of length 1, but not over the axes that broadcasting put in front.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ sum_of(grad, stretched, keepdims=True)
forgets axes of length one: Sums over the new axes in front, but not over an axis that grew from length 1.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ grad.sum(axis=tuple(range(new_axes)))
drops kept axes: Sums over the right axes without keepdims, so that (3, 1) comes back as (3,).
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ sum_of(grad, axes)
takes the first copy: Takes the gradient of one copy. Every copy passes its gradient on: they add up.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ grad[tuple(slice(1) if i in axes else slice(None) for i in range(grad.ndim))].reshape(shape)
averages the copies: Takes the mean of the copies. The chain rule adds them up; nothing is divided.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ grad.mean(axis=axes, keepdims=True).reshape(shape) if axes else grad
sums and broadcasts back: Sums everything into each entry: the axes that were not stretched must stay apart.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ np.broadcast_to(grad.sum(), shape).astype(grad.dtype)
matches axes from the left: Broadcasting aligns shapes at the right: (4,) in (3, 4) is the last axis.
- axis + new_axes for axis, n in enumerate(shape) if n == 1 and grad.shape[axis + new_axes] != 1
+ axis for axis, n in enumerate(shape) if n == 1
- tuple(range(new_axes)) + stretched
+ stretched + tuple(range(len(shape), grad.ndim))
- keepdims=True).reshape(shape) if axes else grad
+ keepdims=True).reshape([n for n in shape if n > 1] or shape)
sums one new axis: Sums over the first axis only. Broadcasting can put several in front.
- tuple(range(new_axes)) + stretched
+ tuple(range(min(new_axes, 1))) + stretched
finds axes by their length: Sums the axes whose length is not in `shape`. Lengths can repeat: only places tell.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ grad.sum(axis=tuple(i for i, n in enumerate(grad.shape) if n not in shape), keepdims=True).reshape(shape)
keeps the last copy: Writes each copy over the one before. All copies pass their gradient on: they add up.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ grad[tuple(slice(-1, None) if i in axes else slice(None) for i in range(grad.ndim))].reshape(shape)
a number for no axes: A sum over all axes becomes a Python number. The gradient of a 0-d array is a 0-d array.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ (sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad) if shape else float(grad.sum())
hides what is not finite: nansum leaves NaN out: the error then shows somewhere else, or never.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ np.nansum(grad, axis=axes, keepdims=True).reshape(shape) if axes else grad
drops small gradients: Takes everything below 1e-12 for zero. Gradients may have any size.
- sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ sum_of(grad * (abs(grad) > 1e-12), axes, keepdims=True).reshape(shape) if axes else grad
looks at the wrong axis: Axis i of x is axis i + new_axes of grad: look there whether it was stretched.
- grad.shape[axis + new_axes] != 1
+ grad.shape[axis] != 1
nansum over stretched axes: NaN must show, whichever axis it lies along.
- return sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad
+ grad = grad.sum(axis=tuple(range(new_axes)))
+     return np.nansum(grad, axis=tuple(a - new_axes for a in stretched), keepdims=True).reshape(shape)
three axes at most: Works through the first three axes only. Arrays have any number of axes.
- tuple(range(new_axes)) + stretched
+ tuple(a for a in tuple(range(new_axes)) + stretched if a < 3)
""")
