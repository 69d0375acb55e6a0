"""Gradients with the right entries in the wrong places."""

from itertools import combinations

import numpy as np

from .evidence import Evidence


def swapped(e: Evidence) -> str | None:
    """Two inputs have each other's gradient."""
    for other, gradient in enumerate(e.gradients):
        if other == e.which or gradient is None or gradient.shape != e.analytic.shape:
            continue
        if e.matches(gradient) and e.of(other).matches(e.analytic):
            name = e.point.names[other]
            return f"swapped: this is the gradient of {name}, and {name} has this one's"
    return None


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


def _matching_order(e: Evidence, axis: int) -> list[int] | None:
    """The order with numeric[i] = analytic[order[i]] along the axis; None if there is none, or it changes nothing."""
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
