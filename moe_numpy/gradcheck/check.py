"""gradcheck: compare every derivative of a function with finite differences, and say what is wrong.

    report = gradcheck(lambda x: Softmax.apply(x, axis=-1), [rng.standard_normal((3, 4))])
    report.raise_if_failed()

The outputs are weighted with random cotangents. (All ones would accept a softmax whose gradient is zero,
since its entries always sum to one, and a missing inverse permutation, since a sum has no order.)
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .comparison import Comparison, Gradients, analytic_gradients, compare
from .diagnosis import Evidence, diagnose
from .draws import displaced, of_other_sizes, own_generator
from .float32 import coarse_backward
from .ladder import HIDDEN
from .point import Point
from .report import Mismatch, Report
from .shared_state import backward_problems, unrepeatable
from .soundness import forward_problems, wrong_elsewhere

_TRIES = 6  # displaced points tried for entries beside a kink or a decision


def gradcheck(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    *,
    rng: np.random.Generator | None = None,
    eps: float = 1e-4,
    tolerance: float = 1e-6,
    samples: int | None = None,
    names: Sequence[str] | None = None,
) -> Report:
    """Compare the gradients of L = Σ cotangent · f(*inputs) with finite differences, entry by entry.

    Two cotangents are used, a dense one and one with rows of zeros, and a third where the outputs are of very
    different size. The relative error of an entry is |analytic - numeric| / scale with

        scale = max(|analytic|, |numeric|, rounding / tolerance)

    where ``rounding`` bounds what the finite difference and backward lose in float64. Where a small step changes
    a recorded decision (see ``decisions``) or crosses a kink, and where rounding hides the slope, the entry is
    compared at another point; if it cannot be compared there either, it is skipped.

    Args:
        f: takes one Tensor per input, returns a Tensor or a tuple of Tensors; deterministic.
        inputs: float64 NumPy arrays; they are not written to.
        rng: seeds cotangents, samples and displacements, which are independent of what else it draws.
        eps: the usual step relative to the size of an entry. The 4-point rule is most accurate near 1e-3; a
            smaller step crosses a decision less often.
        tolerance: the largest relative error that passes.
        samples: how many randomly chosen entries of each input to check; all if left out.
        names: what the report calls the inputs; the parameters of f if left out.

    Raises:
        ValueError: an input is not a float64 array, or ``names`` has the wrong length.
        TypeError: f returned anything other than Tensors.

    Exceptions raised by f or a backward pass at the inputs pass through unchanged.
    """
    for i, x in enumerate(inputs):
        if not isinstance(x, np.ndarray) or x.dtype != np.float64:
            got = f"dtype {x.dtype}" if hasattr(x, "dtype") else f"type {type(x).__name__}"
            raise ValueError(f"gradcheck needs float64 NumPy arrays, input {i} is of {got}")
    names = _names(f, len(inputs)) if names is None else names
    if len(names) != len(inputs):
        raise ValueError(f"names: expected one per input, {len(inputs)}, got {len(names)}")
    rng = own_generator(rng)
    point = Point(f, [np.array(x, order="C") for x in inputs], names, rng)
    report = Report(problems=forward_problems(point, rng))
    if not report.problems:
        gradients = analytic_gradients(point)
        report.problems += unrepeatable(point, gradients.given[0])
    if not report.problems:
        report.problems += backward_problems(point, gradients.given[0], rng)
        check = _Check(report, rng, eps, tolerance)
        check.run(point, gradients, samples)
        if report.passed:
            report.problems += wrong_elsewhere(point, rng, eps, tolerance)
    return report


class _Check:
    """Fills a report: entries at the given point first, then those that cannot be told there at other points."""

    def __init__(self, report: Report, rng: np.random.Generator, eps: float, tolerance: float):
        self.report, self.rng, self.eps, self.tolerance = report, rng, eps, tolerance
        self.wrong: dict[int, Mismatch] = {}

    def run(self, point: Point, gradients: Gradients, samples: int | None) -> None:
        beside, hidden = [], []
        reasons: Counter[str] = Counter()
        for which, x in enumerate(point.inputs):
            found = self._compare(point, gradients, which, _choose(x.size, samples, self.rng))
            if which not in self.wrong:
                self.report.problems += coarse_backward(point, gradients, which, found)
            untold = [n for n in range(len(found.entries)) if not found.told[n]]
            near = [n for n in untold if found.slopes.decided[n] or not found.slopes.is_hidden(n)]
            beside.append(found.entries[near])
            hidden.append(found.entries[[n for n in untold if n not in set(near)]])
            reasons.update(f"{point.names[which]}: {found.slopes.reason[n] or HIDDEN}" for n in untold)
        for reason, count in reasons.items():
            entries_are = "1 entry cannot" if count == 1 else f"{count} entries cannot"
            self.report.notes.append(f"{reason} ({entries_are} be compared there)")
        for _ in range(_TRIES):
            beside = self._compare_at(point, displaced(point.inputs, self.rng), beside)
        pending = [np.concatenate(both) for both in zip(beside, hidden, strict=True)]
        for inputs in of_other_sizes(point.inputs, self.rng):
            pending = self._compare_at(point, inputs, pending)
        self.report.skipped = sum(len(entries) for entries in pending)
        self.report.mismatches = [mismatch for _, mismatch in sorted(self.wrong.items())]

    def _compare(self, point: Point, gradients: Gradients, which: int, entries: Any) -> Comparison:
        """Count the entries into the report and remember the worst wrong one."""
        found = compare(point, gradients, which, entries, self.eps, self.tolerance)
        self.report.compared += int(found.told.sum())
        error = found.error[:, found.told].max(axis=0, initial=0.0)
        self.report.max_error = max(self.report.max_error, float(error.max(initial=0.0)))
        if found.wrong.any():
            self._remember(point, gradients, which, found)
        return found

    def _remember(self, point: Point, gradients: Gradients, which: int, found: Comparison) -> None:
        shape = point.inputs[which].shape
        if which not in self.wrong:
            diagnosis = diagnose(Evidence(point, gradients, which, self.eps, self.tolerance, found))
            self.wrong[which] = Mismatch(point.names[which], shape, self.tolerance, diagnosis)
        mismatch = self.wrong[which]
        mismatch.wrong += int(found.wrong.any(axis=0).sum())
        k = found.cotangent
        error = np.where(found.wrong[k], found.error[k], 0.0)
        worst = int(error.argmax())
        if error[worst] > mismatch.error:
            mismatch.error = float(error[worst])
            mismatch.index = tuple(map(int, np.unravel_index(found.entries[worst], shape)))
            mismatch.analytic, mismatch.numeric = float(found.analytic[k, worst]), float(found.slopes.value[k, worst])

    def _compare_at(self, point: Point, inputs: Sequence[Any], pending: list[Any]) -> list[Any]:
        """Compare the pending entries at other inputs; return those that could not be compared there either."""
        if not any(len(entries) for entries in pending):
            return pending
        other = point.elsewhere(inputs, self.rng)
        if other is None:
            return pending
        gradients = analytic_gradients(other)
        left = []
        for which, entries in enumerate(pending):
            if len(entries):
                found = self._compare(other, gradients, which, entries)
                self.report.moved += int(found.told.sum())
                entries = entries[~found.told]
            left.append(entries)
        return left


def _names(f: Callable[..., Any], count: int) -> list[str]:
    parameters = list(inspect.signature(f).parameters.values())
    if len(parameters) == count and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters):
        return [p.name for p in parameters]
    return [f"input {i}" for i in range(count)]


def _choose(size: int, samples: int | None, rng: np.random.Generator) -> Any:
    if samples is None or samples >= size:
        return np.arange(size)
    return np.sort(rng.choice(size, samples, replace=False))
