"""Exercise 01: the adjoint of broadcasting."""

from typing import Any

import numpy as np

from moe_numpy.autodiff.graph import undo_broadcasting

from ..exercise import Case, Check, Exercise, case, float32, one_by_one, strided

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


SHAPES = [
    ((3, 4), (4,)),
    ((3, 4), (1, 4)),
    ((3, 4), (3, 1)),
    ((3, 4), ()),
    ((2, 3, 4), (3, 1)),
    ((2, 3, 4), (1, 3, 1)),
    ((5, 2, 5), (5, 1, 1)),
]


def specification(grad: Any, shape: tuple[int, ...]) -> Any:
    """Add every entry of grad to the entry of x that it was copied from."""
    total = np.zeros(shape, grad.dtype)
    for index in np.ndindex(grad.shape):
        source = index[len(index) - len(shape) :]
        total[tuple(i if n > 1 else 0 for i, n in zip(source, shape, strict=True))] += grad[index]
    return total


def stretched(rng: np.random.Generator) -> list[Case]:
    """Arrays that broadcasting made larger."""
    return [case(rng.standard_normal(big), small) for big, small in SHAPES]


def unchanged(rng: np.random.Generator) -> list[Case]:
    """Arrays that broadcasting left alone."""
    return [case(rng.standard_normal(shape), shape) for shape in [(3, 4), (1,), (), (1, 1), (2, 1, 3)]]


def empty(rng: np.random.Generator) -> list[Case]:
    """An axis of length 0: the sum of nothing is 0."""
    return [case(np.zeros((0, 4)), (4,)), case(np.zeros((0, 4)), (1, 4)), case(np.zeros((0, 4)), (0, 1))]


# Wrong solutions


def forgets_new_axes(grad: Any, shape: tuple[int, ...]) -> Any:
    """Sums over the axes of length 1, but not over the axes that broadcasting put in front."""
    new = grad.ndim - len(shape)
    axes = tuple(i + new for i, n in enumerate(shape) if n == 1)
    return grad.sum(axis=axes, keepdims=True)


def forgets_axes_of_length_one(grad: Any, shape: tuple[int, ...]) -> Any:
    """Sums over the new axes in front, but not over an axis that grew from length 1."""
    return grad.sum(axis=tuple(range(grad.ndim - len(shape))))


def drops_kept_axes(grad: Any, shape: tuple[int, ...]) -> Any:
    """Sums over the right axes without keepdims, so that (3, 1) comes back as (3,)."""
    new = grad.ndim - len(shape)
    stretched = tuple(i + new for i, n in enumerate(shape) if n == 1)
    return grad.sum(axis=tuple(range(new)) + stretched)


def takes_the_first_copy(grad: Any, shape: tuple[int, ...]) -> Any:
    """Takes the gradient of one copy. Every copy passes its gradient on: they add up."""
    new = grad.ndim - len(shape)
    part = grad[(0,) * new]
    for axis, n in enumerate(shape):
        if n == 1:
            part = part.take([0], axis=axis)
    return part


def averages_the_copies(grad: Any, shape: tuple[int, ...]) -> Any:
    """Takes the mean of the copies. The chain rule adds them up; nothing is divided."""
    total = undo_broadcasting(grad, shape)
    return total * (total.size / max(grad.size, 1))


def sums_and_broadcasts_back(grad: Any, shape: tuple[int, ...]) -> Any:
    """Sums everything into each entry: the axes that were not stretched must stay apart."""
    return np.broadcast_to(grad.sum(), shape).astype(grad.dtype)


def matches_axes_from_the_left(grad: Any, shape: tuple[int, ...]) -> Any:
    """Compares shapes from the left. Broadcasting aligns them at the right: (4,) in (3, 4) is the last axis."""
    padded = (*shape, *(1,) * (grad.ndim - len(shape)))
    axes = tuple(i for i, n in enumerate(padded) if n == 1)
    return grad.sum(axis=axes, keepdims=True).reshape([n for n in padded if n > 1] or shape)


CHECKS = (
    Check("sums over stretched axes", 4, stretched, "which axes of grad are copies of one entry of x?"),
    Check("leaves other arrays alone", 2, unchanged, "with no stretched axis there is nothing to sum"),
    Check("keeps float32", 1, float32(stretched), "a float32 gradient must come back as float32"),
    Check("works on arrays with gaps", 1, strided(stretched), "do not rely on the order in memory"),
    Check("sums nothing to zero", 2, empty, "an axis of length 0 sums to 0"),
    Check(
        "knows the smallest example",
        1,
        one_by_one(case(np.array([[1.0, 2.0], [3.0, 4.0]]), (1, 2))),
        "by hand: the columns sum to 4 and 6",
    ),
)

MISTAKES = (
    forgets_new_axes,
    forgets_axes_of_length_one,
    drops_kept_axes,
    takes_the_first_copy,
    averages_the_copies,
    sums_and_broadcasts_back,
    matches_axes_from_the_left,
)
