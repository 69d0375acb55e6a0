"""What a diagnosis looks at: the analytic and the numeric gradient of one input."""

from copy import copy
from typing import Any

import numpy as np

from ..comparison import Comparison, Gradients, compare
from ..point import Point

LARGEST = 4096  # of larger inputs, only the first entries and those that were compared are diagnosed
_PROBED = 4  # how many wrong entries are moved far away
_LOOSER = 10  # patterns are matched within this multiple of the tolerance
_EXPLAINED = 0.1  # and leave at most this fraction of an error


class Evidence:
    """One input with a wrong gradient, at the point where it was found wrong.

    Args:
        point: where f was differentiated.
        gradients: the analytic gradients there.
        which: the input that is wrong.
        eps: relative step for further finite differences.
        tolerance: relative error that passes.
        compared: the entries that were compared, and found wrong.

    Attributes:
        x: the input.
        gradients: for the first cotangent that shows a wrong entry, the analytic gradients of all inputs.
        analytic: its gradient from backward; zeros if there was none.
        numeric: its gradient by finite differences; NaN where there is none.
        slack: how far an entry may be off and still count as equal.
    """

    def __init__(
        self, point: Point, gradients: Gradients, which: int, eps: float, tolerance: float, compared: Comparison
    ):
        k = compared.cotangent
        self.cotangent = k
        self.point, self.gradients, self.which = point.weighted_by(k), gradients.given[k], which
        self.eps, self.tolerance = eps, tolerance
        self._all = (point, gradients)
        self.x = point.inputs[which]
        gradient = self.gradients[which]
        self.analytic = np.zeros_like(self.x) if gradient is None else gradient
        numeric, slack = np.full((2, self.x.size), np.nan)
        others = np.setdiff1d(np.arange(min(self.x.size, LARGEST)), compared.entries)
        for found in (compare(point, gradients, which, others, eps, tolerance), compared):
            usable = found.told & found.known[k] & np.isfinite(found.slopes.error[k])
            numeric[found.entries] = np.where(usable, found.slopes.value[k], np.nan)
            slack[found.entries] = found.slack[k]
        self.numeric, self._exact = numeric.reshape(self.x.shape), slack.reshape(self.x.shape)
        self.slack = _LOOSER * self._exact

    @property
    def known(self) -> Any:
        """A mask of the entries that have a numeric derivative."""
        return ~np.isnan(self.numeric)

    @property
    def wrong(self) -> Any:
        """A mask of the entries where analytic and numeric differ."""
        return self.known & ~(np.abs(self.analytic - self.numeric) <= self._exact)

    @property
    def sizable(self) -> Any:
        """A mask of the entries that are far enough from zero to divide by."""
        return np.abs(self.numeric) > 1e3 * self.slack

    def matches(self, candidate: Any) -> bool:
        """Whether the candidate equals the numeric gradient wherever that is known, and explains every error."""
        off, before = np.abs(candidate - self.numeric), np.abs(self.analytic - self.numeric)
        lost = self._exact - self.tolerance * np.maximum(np.abs(self.analytic), np.abs(self.numeric))
        explained = ~self.wrong | (off <= _EXPLAINED * before + lost)
        return bool((off <= self.slack)[self.known].all() and explained.all())

    def within(self, mask: Any) -> "Evidence":
        """The same evidence, restricted to the entries of a mask."""
        part = copy(self)
        part.numeric = np.where(mask, self.numeric, np.nan)
        return part

    def of(self, which: int) -> "Evidence":
        """The evidence on another input at the same point, for the same cotangent."""
        point, gradients = self._all
        point, gradients = point.weighted_by(self.cotangent), gradients.weighted_by(self.cotangent)
        entries = np.arange(min(point.inputs[which].size, LARGEST))
        compared = compare(point, gradients, which, entries, self.eps, self.tolerance)
        return Evidence(point, gradients, which, self.eps, self.tolerance, compared)

    def output_name(self, k: int) -> str:
        """What a sentence calls output k."""
        return "output" if len(self.point.outputs) == 1 else f"output {k}"

    def outputs_alike(self) -> list[tuple[str, Any]]:
        """The outputs that have the shape of the input, each with its name."""
        outputs = enumerate(self.point.outputs)
        return [(f"the {self.output_name(k)}", y) for k, y in outputs if y.shape == self.x.shape]

    def inputs_alike(self) -> list[tuple[str, Any]]:
        """The other inputs that have the shape of this one, each with its name."""
        inputs = zip(self.point.names, self.point.inputs, strict=True)
        return [(name, z) for i, (name, z) in enumerate(inputs) if i != self.which and z.shape == self.x.shape]

    def where_wrong(self) -> str:
        """Where the wrong entries lie: in some slices of an axis, by the sign of the input, or scattered."""
        wrong, known = self.wrong, self.known
        for axis, n in enumerate(wrong.shape):
            others = tuple(a for a in range(wrong.ndim) if a != axis)
            hit = wrong.any(axis=others)
            if hit.sum() <= n / 2 or hit.sum() == n - 1:
                places = [int(i) for i in np.flatnonzero(hit)]
                if wrong.ndim > 1 and not (wrong | ~known | ~np.expand_dims(hit, others)).all():
                    continue
                ends = {0: " (the first)", n - 1: " (the last)"}.get(places[0], "") if len(places) == 1 else ""
                what = f"index {places[0]}{ends}" if len(places) == 1 else f"indices {places[:8]}"
                return f"at {what} of axis {axis}"
        for words, mask in (("negative", self.x < 0), ("positive", self.x > 0)):
            if (wrong == (mask & known)).all():
                return f"where the input is {words}"
        return f"in {wrong.sum()} of {known.sum()} entries"

    def output_changes_far_away(self) -> bool:
        """Whether some output changes with a wrong entry after all, if that is moved far enough."""
        for entry in np.flatnonzero(self.wrong)[:_PROBED]:
            for step in (-1, 1):
                x = self.x.copy()
                x.flat[entry] += step * (1 + 2 * np.abs(x).max())
                y = self.point.at([*self.point.inputs[: self.which], x, *self.point.inputs[self.which + 1 :]])
                if y is None or (y != self.point.flat).any():
                    return True
        return False
