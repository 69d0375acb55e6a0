"""Gradients that are not finite, do not arrive, or do not follow the upstream gradient."""

import numpy as np

from .evidence import Evidence


def not_finite(e: Evidence) -> str | None:
    """NaN or infinity."""
    bad = ~np.isfinite(e.analytic)
    if not bad.any():
        return None
    kind = "NaN" if np.isnan(e.analytic[bad]).any() else "infinite"
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{kind} in {bad.sum()} of {bad.size} entries, first at {first}, where the input is {e.x[first]:.6g}"


def no_gradient(e: Evidence) -> str | None:
    """No gradient arrived."""
    if e.gradients[e.which] is not None:
        return None
    return "no gradient reaches this input: its branch is detached, or a backward returned None for it"


def zero(e: Evidence) -> str | None:
    """All entries are zero."""
    if e.analytic[e.known].any():
        return None
    return "the gradient is zero everywhere, the numeric one is not"


def output_ignores_it(e: Evidence) -> str | None:
    """Finite differences are exactly zero where backward gives a gradient: forward lost something, or is flat."""
    if e.numeric[e.wrong].any():
        return None
    if e.output_changes_far_away():
        return f"the output is flat {e.where_wrong()}, yet backward gives a gradient there (a mask that is missing?)"
    entries = "this input" if (e.wrong == e.known).all() else f"{e.wrong.sum()} of {e.known.sum()} entries"
    return (
        f"the output does not depend on {entries} at all, yet backward gives a gradient: forward loses them "
        "(y[index] += v keeps one of several duplicates), or backward sends it to the wrong place or lacks a mask"
    )


def upstream_ignored(e: Evidence) -> str | None:
    """Backward ignores the upstream gradient, or is not linear in it."""
    unchanged = e.point.gradients(cotangents=[1 + c * c for c in e.point.cotangents])[e.which]
    if np.allclose(unchanged, e.analytic, rtol=1e-9, atol=0):
        return "backward ignores the upstream gradient: its result stays the same when that changes"
    doubled = e.point.gradients(cotangents=[2 * c for c in e.point.cotangents])[e.which]
    if not np.allclose(doubled, 2 * e.analytic, rtol=1e-9, atol=1e-12):
        return "backward is not linear in the upstream gradient: doubling that does not double the result"
    return None
