"""What a wrong gradient looks like, in one sentence.

Each detector knows one mistake. It compares the analytic with the numeric gradient, may run the function
again, and returns a sentence or None. They run in order, the most specific first.
"""

from collections.abc import Callable

from .evidence import Evidence
from .factors import constant_factor, elementwise_factor, factor_along_axis, imprecise, sign
from .misplaced import permuted, swapped, transposed
from .missing import no_gradient, not_finite, output_ignores_it, upstream_ignored, zero
from .sums import missing_term, one_contribution

__all__ = ["Evidence", "diagnose"]

_ONLY_FOR = (
    "",
    "right for a dense upstream gradient, wrong for one with rows of zeros: ",
    "seen only with an upstream gradient that evens out outputs of different size: ",
)


def diagnose(evidence: Evidence) -> str:
    """One sentence on what the wrong gradient looks like."""
    return _ONLY_FOR[evidence.cotangent] + _pattern(evidence)


def _pattern(evidence: Evidence) -> str:
    for detector in _DETECTORS:
        sentence = detector(evidence)
        if sentence is not None:
            return sentence
    return "no known pattern; start from the worst entry and follow it through backward by hand"


def only_some(e: Evidence) -> str | None:
    """Some entries are right: where are the wrong ones, and what is wrong with them?"""
    if (e.wrong == e.known).all():
        return None
    where = e.where_wrong()
    part = e.within(e.wrong)
    for detector in (zero, sign, constant_factor):
        sentence = detector(part)
        if sentence is not None:
            return f"wrong only {where}; there, {sentence}"
    return f"wrong only {where}; the rest is right"


_DETECTORS: tuple[Callable[[Evidence], str | None], ...] = (
    not_finite,
    no_gradient,
    zero,
    output_ignores_it,
    swapped,
    imprecise,
    sign,
    upstream_ignored,
    transposed,
    permuted,
    constant_factor,
    one_contribution,
    elementwise_factor,
    missing_term,
    factor_along_axis,
    only_some,
)
