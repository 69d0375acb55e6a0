"""Gradients in which a term of a sum is missing."""

from typing import Any

import numpy as np

from ..slopes import contributions
from .evidence import Evidence

_PROBED = 4  # how many wrong entries have their contributions taken apart


def one_contribution(e: Evidence) -> str | None:
    """Only one term of a sum arrives: a broadcast was not undone, or terms overwrite each other."""
    worst = np.argsort(np.where(e.wrong, -np.abs(e.analytic - e.numeric), np.inf), axis=None)
    probed = [int(i) for i in worst[: min(_PROBED, int(e.wrong.sum()))]]
    terms = [contributions(e.point, e.which, i, e.eps) for i in probed]
    for k, y in enumerate(e.point.outputs):
        for axis in range(y.ndim):
            others = tuple(a for a in range(y.ndim) if a != axis)
            found = [
                _only_term(t[k].sum(axis=others), e.analytic.flat[i], e.slack.flat[i])
                for i, t in zip(probed, terms, strict=True)
            ]
            if None in found:
                continue
            if len(set(found)) == 1 and e.wrong.sum() > 1 and (e.wrong | ~e.sizable).all():
                return (
                    f"only index {found[0]} of axis {axis} of {e.output_name(k)} contributes: the sum over that "
                    "axis is missing (undoing a broadcast), or each term overwrites the one before"
                )
            return (
                f"of several contributions along axis {axis} of {e.output_name(k)} only one arrives: the diagonal of "
                "the Jacobian, or the last one, where the gradient is overwritten instead of accumulated "
                "(dx[index] = dy, or += dy without np.add.at)"
            )
    return None


def missing_term(e: Evidence) -> str | None:
    """The difference is constant along an axis, perhaps times the input or output: the Σ term of a normalisation."""
    rest = np.where(e.known, e.analytic - e.numeric, 0.0)
    weights = [("", np.ones_like(e.x)), ("the input", e.x)]
    for name, y in e.outputs_alike():
        with np.errstate(over="ignore"):
            weights += [(name, y), (f"exp({name})", np.exp(y))]
    for what, q in weights + e.inputs_alike():
        for axis in reversed(range(e.x.ndim)):
            if e.x.shape[axis] < 3:
                continue
            weight = np.where(e.known, q, 0.0)
            with np.errstate(all="ignore"):
                projected = np.sum(rest * weight, axis=axis, keepdims=True)
                c = projected / np.sum(weight * weight, axis=axis, keepdims=True)
            affected = e.wrong.sum(axis=axis)
            if e.matches(e.analytic - c * q) and affected[affected > 0].min(initial=3) >= 2:
                times = f" times {what}" if what else ""
                return (
                    f"a term is missing: analytic - numeric is constant along axis {axis}{times} "
                    f"(the sum over axis {axis} that softmax, a mean or a normalisation brings in?)"
                )
    return None


def _only_term(terms: Any, value: float, slack: float) -> int | None:
    """The index of the one term that equals ``value``, if there are several terms."""
    hits = np.flatnonzero(np.abs(terms - value) <= slack)
    several = np.count_nonzero(np.abs(terms) > slack) > 1
    return int(hits[-1]) if several and len(hits) and abs(value) > slack else None
