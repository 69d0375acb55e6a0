"""gradcheck: compare every derivative of a function with finite differences, and say what is wrong.

    report = gradcheck(lambda x: Softmax.apply(x, axis=-1), [rng.standard_normal((3, 4))])
    report.raise_if_failed()

The outputs are weighted with a random cotangent. (All ones would accept a softmax whose gradient is zero,
since its entries always sum to one, and a missing inverse permutation, since a sum has no order.)
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .diagnosis import Evidence, diagnose
from .finite_differences import SMALL, Point, Slopes, displaced
from .report import Mismatch, Report
from .soundness import backward_problems, forward_problems

_TRIES = 6  # displaced points tried for entries that cannot be compared where they are
_FLOAT64_LOSES = 3e-9  # a float32 number in the path of the gradient costs 3e-8, the 4-point rule about 1e-11


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

    The relative error of an entry is |analytic - numeric| / scale with

        scale = max(|analytic|, |numeric|, 1e-3 · largest |numeric| of that input, rounding / tolerance)

    where ``rounding`` is what the finite difference itself loses in float64. Where a small step changes a
    recorded decision (see ``decisions``) or crosses a kink, the entry is compared at a displaced point.

    Args:
        f: takes one Tensor per input, returns a Tensor or a tuple of Tensors; deterministic.
        inputs: float64 NumPy arrays; they are not written to.
        rng: draws cotangents, samples and displacements; seeded with 0 if left out.
        eps: the step relative to the size of an entry. The 4-point rule is most accurate near 1e-3; a smaller
            step crosses a decision less often.
        tolerance: the largest relative error that passes.
        samples: how many randomly chosen entries of each input to check; all if left out.
        names: what the report calls the inputs; the parameters of f if left out.

    Raises:
        ValueError: an input is not a float64 array, or ``names`` has the wrong length.
        TypeError: f returned anything other than Tensors.

    Exceptions raised by f or a backward pass through unchanged.
    """
    for i, x in enumerate(inputs):
        if not isinstance(x, np.ndarray) or x.dtype != np.float64:
            got = f"dtype {x.dtype}" if hasattr(x, "dtype") else f"type {type(x).__name__}"
            raise ValueError(f"gradcheck needs float64 NumPy arrays, input {i} is of {got}")
    names = _names(f, len(inputs)) if names is None else names
    if len(names) != len(inputs):
        raise ValueError(f"names: expected one per input, {len(inputs)}, got {len(names)}")
    rng = np.random.default_rng(0) if rng is None else rng
    point = Point(f, [np.array(x, order="C") for x in inputs], names, rng)
    report = Report(problems=forward_problems(point, rng))
    if not report.problems:
        gradients = point.gradients()
        report.problems += backward_problems(point, gradients, rng)
        _Comparison(report, rng, eps, tolerance).run(point, gradients, samples)
    return report


class _Comparison:
    """Analytic against numeric gradients, into a report: at the given point first, then at displaced ones."""

    def __init__(self, report: Report, rng: np.random.Generator, eps: float, tolerance: float):
        self.report, self.rng, self.eps, self.tolerance = report, rng, eps, tolerance
        self.wrong: dict[int, Mismatch] = {}

    def run(self, point: Point, gradients: list[Any], samples: int | None) -> None:
        pending = [_choose(x.size, samples, self.rng) for x in point.inputs]
        reasons: Counter[str] = Counter()
        for which, entries in enumerate(pending):
            slopes = self._compare(point, gradients, which, entries)
            self._look_for_float32(point, gradients[which], which, entries, slopes)
            pending[which] = entries[~slopes.usable]
            reasons.update(f"{point.names[which]}: {reason}" for reason in slopes.reason if reason is not None)
        for reason, count in reasons.items():
            entries_are = "1 entry cannot" if count == 1 else f"{count} entries cannot"
            self.report.notes.append(f"{reason} ({entries_are} be compared there)")
        pending = self._compare_elsewhere(point, pending)
        self.report.skipped = sum(len(entries) for entries in pending)
        self.report.mismatches = [mismatch for _, mismatch in sorted(self.wrong.items())]

    def _compare(self, point: Point, gradients: list[Any], which: int, entries: Any) -> Slopes:
        """Count the entries into the report, remember the worst wrong one, and return the slopes."""
        slopes = point.slopes(which, entries, self.eps)
        gradient = gradients[which]
        analytic = np.zeros(len(entries)) if gradient is None else gradient.ravel()[entries]
        error = _relative_error(analytic, slopes, self.tolerance)
        self.report.compared += int(slopes.usable.sum())
        self.report.max_error = max(self.report.max_error, float(error.max(initial=0.0)))
        if (error > self.tolerance).any():
            shape = point.inputs[which].shape
            if which not in self.wrong:
                diagnosis = diagnose(Evidence(point, gradients, which, self.eps, self.tolerance))
                self.wrong[which] = Mismatch(point.names[which], shape, self.tolerance, diagnosis)
            mismatch = self.wrong[which]
            mismatch.wrong += int((error > self.tolerance).sum())
            worst = int(error.argmax())
            if error[worst] > mismatch.error:
                mismatch.error = float(error[worst])
                mismatch.index = tuple(map(int, np.unravel_index(entries[worst], shape)))
                mismatch.analytic, mismatch.numeric = float(analytic[worst]), float(slopes.value[worst])
        return slopes

    def _compare_elsewhere(self, point: Point, pending: list[Any]) -> list[Any]:
        """Compare the pending entries at displaced points; return those that could not be compared there either."""
        for _ in range(_TRIES):
            if not any(len(entries) for entries in pending):
                break
            nearby = Point(point.f, displaced(point.inputs, self.rng), point.names, self.rng)
            if not all(np.isfinite(y).all() for y in nearby.outputs):
                continue
            gradients = nearby.gradients()
            for which, entries in enumerate(pending):
                if len(entries):
                    slopes = self._compare(nearby, gradients, which, entries)
                    self.report.moved += int(slopes.usable.sum())
                    pending[which] = entries[~slopes.usable]
        return pending

    def _look_for_float32(self, point: Point, gradient: Any, which: int, entries: Any, slopes: Slopes) -> None:
        """Report a gradient that is off everywhere by more than float64 loses, though within tolerance."""
        if gradient is None or which in self.wrong:
            return
        analytic = gradient.ravel()[entries]
        error = _relative_error(analytic, slopes, self.tolerance)
        counted = slopes.usable & (analytic != 0)
        if counted.sum() < 3 or np.median(error[counted]) < _FLOAT64_LOSES:
            return
        finer = point.slopes(which, entries, self.eps / 2)
        doubt = np.abs(finer.value - slopes.value)[counted]
        if (doubt < 0.1 * np.abs(analytic - slopes.value)[counted]).mean() > 0.5:
            self.report.problems.append(
                f"{point.names[which]}: the gradient is off by about {np.median(error[counted]):.0e} "
                "everywhere. That passes the tolerance, but it looks like float32 arithmetic inside"
            )


def _relative_error(analytic: Any, slopes: Slopes, tolerance: float) -> Any:
    """|analytic - numeric| / scale as in :func:`gradcheck`; infinite for NaN, 0 where there is no slope."""
    numeric, usable = np.abs(slopes.value), slopes.usable
    scale = np.maximum(np.maximum(np.abs(analytic), numeric), slopes.noise / tolerance)
    scale = np.maximum(scale, SMALL * numeric[usable].max(initial=0.0))
    difference = np.abs(analytic - slopes.value)
    error = np.divide(difference, scale, out=np.zeros(len(scale)), where=(difference != 0) & np.isfinite(analytic))
    error[~np.isfinite(analytic)] = np.inf
    error[~usable] = 0.0
    return error


def _names(f: Callable[..., Any], count: int) -> list[str]:
    parameters = list(inspect.signature(f).parameters.values())
    if len(parameters) == count and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters):
        return [p.name for p in parameters]
    return [f"input {i}" for i in range(count)]


def _choose(size: int, samples: int | None, rng: np.random.Generator) -> Any:
    if samples is None or samples >= size:
        return np.arange(size)
    return np.sort(rng.choice(size, samples, replace=False))
