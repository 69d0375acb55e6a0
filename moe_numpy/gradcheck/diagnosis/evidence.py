"""What a diagnosis looks at: the analytic and the numeric gradient of one input."""

from copy import copy
from typing import Any

import numpy as np

from ..finite_differences import SMALL, Point

LARGEST = 4096  # of larger inputs, only the first entries are diagnosed
_LOOSER = 10  # patterns are matched within this multiple of the tolerance


class Evidence:
    """One input with a wrong gradient, at the point where it was found wrong.

    Args:
        point: where f was differentiated.
        gradients: the analytic gradients of all inputs there; None where no gradient arrived.
        which: the input that is wrong.
        eps: relative step for further finite differences.
        tolerance: relative error that passes.

    Attributes:
        x: the input.
        analytic: its gradient from backward; zeros if there was none.
        numeric: its gradient by finite differences; NaN where there is none.
        slack: how far an entry may be off and still count as equal.
    """

    def __init__(self, point: Point, gradients: list[Any], which: int, eps: float, tolerance: float):
        self.point, self.gradients, self.which, self.eps, self.tolerance = point, gradients, which, eps, tolerance
        self.x = point.inputs[which]
        gradient = gradients[which]
        self.analytic = np.zeros_like(self.x) if gradient is None else gradient
        self.numeric, noise = _numeric_gradient(point, which, eps)
        size = np.abs(self.numeric)
        self.slack = _LOOSER * (tolerance * np.fmax(size, SMALL * np.nanmax(size, initial=0.0)) + noise)

    @property
    def known(self) -> Any:
        """A mask of the entries that have a numeric derivative."""
        return ~np.isnan(self.numeric)

    @property
    def wrong(self) -> Any:
        """A mask of the entries where analytic and numeric differ."""
        return self.known & ~(np.abs(self.analytic - self.numeric) <= self.slack / _LOOSER)

    @property
    def sizable(self) -> Any:
        """A mask of the entries that are far enough from zero to divide by."""
        return np.abs(self.numeric) > 1e3 * self.slack

    def matches(self, candidate: Any) -> bool:
        """Whether the candidate equals the numeric gradient wherever that is known."""
        return bool((np.abs(candidate - self.numeric)[self.known] <= self.slack[self.known]).all())

    def within(self, mask: Any) -> "Evidence":
        """The same evidence, restricted to the entries of a mask."""
        part = copy(self)
        part.numeric = np.where(mask, self.numeric, np.nan)
        return part

    def of(self, which: int) -> "Evidence":
        """The evidence on another input at the same point."""
        return Evidence(self.point, self.gradients, which, self.eps, self.tolerance)

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


def _numeric_gradient(point: Point, which: int, eps: float) -> tuple[Any, Any]:
    """The numeric gradient of an input and its rounding error; NaN where it is not known."""
    x = point.inputs[which]
    entries = np.arange(min(x.size, LARGEST))
    slopes = point.slopes(which, entries, eps)
    numeric, noise = np.full(x.size, np.nan), np.zeros(x.size)
    numeric[entries] = np.where(slopes.usable, slopes.value, np.nan)
    noise[entries] = slopes.noise
    return numeric.reshape(x.shape), noise.reshape(x.shape)
