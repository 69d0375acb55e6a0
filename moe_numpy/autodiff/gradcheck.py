"""gradcheck: compare every derivative of a function with finite differences, and say what is wrong.

    report = gradcheck(lambda x: Softmax.apply(x, axis=-1), [rng.standard_normal((3, 4))])
    report.raise_if_failed()

The outputs are weighted with a random cotangent. (All ones would accept a softmax whose gradient is zero,
since its entries always sum to one, and a missing inverse permutation, since a sum has no order.)
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .diagnosis import Evidence, diagnose
from .finite_differences import SMALL, Point, Slopes, evaluate, typical_size
from .gradient_report import Mismatch, Report

_TRIES = 6  # displaced points tried for entries that are not comparable where they stand
_DISPLACEMENT = 1e-2  # relative to the typical size of an input
_REPEATABLE = 1e-9  # BLAS may sum in another order from run to run
_FLOAT64_ROUNDS = 1e-10  # rounding of outputs: float64 stays below 1e-13 in sane code, float32 comes to 1e-7
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
        f: takes one Tensor for each input, returns a Tensor or a tuple of Tensors; deterministic.
        inputs: float64 NumPy arrays; they are not written to.
        rng: draws cotangents, samples and displacements; the same numbers each time if left out.
        eps: the step relative to the size of an entry. The 4-point rule is best near 1e-3; a smaller step
            comes less often upon a decision.
        tolerance: the largest relative error that passes.
        samples: check that many randomly chosen entries of each input; all of them if left out.
        names: what the report calls the inputs; the parameters of f if left out.

    Raises:
        ValueError: an input is not a float64 array, or ``names`` has the wrong length.
        TypeError: f returned something else than Tensors.

    What f or a backward raises comes through unchanged.
    """
    for i, x in enumerate(inputs):
        if not isinstance(x, np.ndarray) or x.dtype != np.float64:
            got = f"dtype {x.dtype}" if hasattr(x, "dtype") else type(x).__name__
            raise ValueError(f"gradcheck needs float64 NumPy arrays, input {i} has {got}")
    names = _names(f, len(inputs)) if names is None else list(names)
    if len(names) != len(inputs):
        raise ValueError(f"names must have one entry for each of the {len(inputs)} inputs, got {len(names)}")
    rng = np.random.default_rng(0) if rng is None else rng
    return _Check(f, names, rng, eps, tolerance).run([np.array(x, order="C") for x in inputs], samples)


class _Check:
    """One run of :func:`gradcheck`: base point first, then displaced points for what was not comparable."""

    def __init__(
        self,
        f: Callable[..., Any],
        names: Sequence[str],
        rng: np.random.Generator,
        eps: float,
        tolerance: float,
    ):
        self.f, self.names, self.rng, self.eps, self.tolerance = f, names, rng, eps, tolerance
        self.report = Report()
        self.wrong: dict[int, _Wrong] = {}

    def run(self, inputs: list[Any], samples: int | None) -> Report:
        point = Point(self.f, inputs, self.names, self.rng)
        if not self._is_sound(point):
            return self.report
        gradients = point.gradients()
        self._backward_is_sound(point, gradients)
        pending = [_choose(x.size, samples, self.rng) for x in inputs]
        reasons: Counter[str] = Counter()
        for which, entries in enumerate(pending):
            slopes = self._compare(point, gradients, which, entries)
            self._precision_is_full(point, gradients[which], which, entries, slopes)
            pending[which] = entries[~slopes.usable]
            reasons.update(f"{self.names[which]}: {reason}" for reason in slopes.reason if reason is not None)
        for reason, count in reasons.items():
            entries_are = "1 entry cannot" if count == 1 else f"{count} entries cannot"
            self.report.notes.append(f"{reason} ({entries_are} be compared there)")
        pending = self._compare_elsewhere(inputs, pending)
        self.report.skipped = sum(len(entries) for entries in pending)
        for which, wrong in sorted(self.wrong.items()):
            self.report.mismatches.append(self._mismatch(which, wrong))
        return self.report

    def _is_sound(self, point: Point) -> bool:
        """Whether f can be differentiated numerically: repeatable, finite, in float64, inputs left alone."""
        problems = self.report.problems
        problems += point.side_effects
        again, _ = evaluate(self.f, [x.copy() for x in point.inputs])
        if not problems and not all(map(_equal, point.outputs, again)):
            problems.append(
                "f is not deterministic: two runs on the same inputs differ; "
                "create the random generator inside f, from a fixed seed"
            )
        for i, y in enumerate(point.outputs):
            if y.dtype != np.float64:
                problems.append(f"output {i} is {y.dtype} for float64 inputs: look for where that type comes in")
            elif not np.isfinite(y).all():
                problems.append(f"output {i} is not finite: {np.count_nonzero(~np.isfinite(y))} of {y.size} entries")
        if not point.outputs:
            problems.append("f has no floating-point output")
        if not problems and self._is_coarse(point):
            problems.append(
                "the outputs change in steps as coarse as float32: look for float32 arithmetic inside forward"
            )
        return not problems

    def _is_coarse(self, point: Point) -> bool:
        """Whether rounding is far beyond float64, here and nearby: a jump would show at one point only."""
        if point.rounding(self.rng) < _FLOAT64_ROUNDS:
            return False
        nearby = [[_displaced(x, self.rng) for x in point.inputs] for _ in range(3)]
        return all(
            Point(self.f, inputs, self.names, self.rng).rounding(self.rng) > _FLOAT64_ROUNDS for inputs in nearby
        )

    def _backward_is_sound(self, point: Point, gradients: list[Any]) -> None:
        """Backward must be repeatable, add to what .grad holds, and not write to the arrays it is given."""
        problems = self.report.problems
        for name, first, second in zip(self.names, gradients, point.gradients(), strict=True):
            if not _equal(first, second):
                problems.append(f"{name}: backward on a second, fresh graph gives another gradient")
        start = [self.rng.standard_normal(x.shape) for x in point.inputs]
        for name, first, total, old in zip(self.names, gradients, point.gradients(start), start, strict=True):
            if first is not None and not _equal(total, first + old):
                problems.append(f"{name}: backward replaces what .grad holds instead of adding to it")
        problems += dict.fromkeys(point.side_effects)

    def _precision_is_full(self, point: Point, gradient: Any, which: int, entries: Any, slopes: Slopes) -> None:
        """Look for a gradient that is off everywhere by more than float64 loses, though within tolerance."""
        if gradient is None or which in self.wrong:
            return
        analytic = gradient.ravel()[entries]
        error = relative_error(analytic, slopes, self.tolerance)
        counted = slopes.usable & (analytic != 0)
        if counted.sum() < 3 or np.median(error[counted]) < _FLOAT64_LOSES:
            return
        finer = point.slopes(which, entries, self.eps / 2)
        doubt = np.abs(finer.value - slopes.value)[counted]
        if (doubt < 0.1 * np.abs(analytic - slopes.value)[counted]).mean() > 0.5:
            self.report.problems.append(
                f"{self.names[which]}: the gradient is off by about {np.median(error[counted]):.0e} "
                "everywhere. That passes the tolerance, but it looks like float32 arithmetic inside"
            )

    def _compare_elsewhere(self, inputs: list[Any], pending: list[Any]) -> list[Any]:
        """Compare at displaced points what could not be compared where it stands; returns what is left."""
        for _ in range(_TRIES):
            if not any(len(entries) for entries in pending):
                break
            point = Point(self.f, [_displaced(x, self.rng) for x in inputs], self.names, self.rng)
            if not all(np.isfinite(y).all() for y in point.outputs):
                continue
            gradients = point.gradients()
            for which, entries in enumerate(pending):
                if len(entries):
                    slopes = self._compare(point, gradients, which, entries)
                    self.report.moved += int(slopes.usable.sum())
                    pending[which] = entries[~slopes.usable]
        return pending

    def _compare(self, point: Point, gradients: list[Any], which: int, entries: Any) -> Slopes:
        slopes = point.slopes(which, entries, self.eps)
        analytic = _or_zeros(gradients[which], point.inputs[which]).ravel()[entries]
        error = relative_error(analytic, slopes, self.tolerance)
        self.report.compared += int(slopes.usable.sum())
        self.report.max_error = max(self.report.max_error, float(error.max(initial=0.0)))
        if (error > self.tolerance).any():
            wrong = self.wrong.setdefault(which, _Wrong(point, gradients))
            wrong.count += int((error > self.tolerance).sum())
            worst = int(error.argmax())
            if error[worst] > wrong.error:
                wrong.error, wrong.entry = float(error[worst]), int(entries[worst])
                wrong.analytic, wrong.numeric = float(analytic[worst]), float(slopes.value[worst])
        return slopes

    def _mismatch(self, which: int, wrong: "_Wrong") -> Mismatch:
        point = wrong.point
        shape = point.inputs[which].shape
        return Mismatch(
            name=self.names[which],
            shape=shape,
            index=tuple(int(i) for i in np.unravel_index(wrong.entry, shape)),
            analytic=wrong.analytic,
            numeric=wrong.numeric,
            error=wrong.error,
            tolerance=self.tolerance,
            wrong=wrong.count,
            diagnosis=diagnose(Evidence(point, wrong.gradients, which, self.eps, self.tolerance)),
        )


@dataclass
class _Wrong:
    """Where the gradient of one input was first found wrong, and its worst entry so far."""

    point: Point
    gradients: list[Any]
    count: int = 0
    error: float = 0.0
    entry: int = 0
    analytic: float = 0.0
    numeric: float = 0.0


def relative_error(analytic: Any, slopes: Slopes, tolerance: float) -> Any:
    """|analytic - numeric| / scale as in :func:`gradcheck`; infinite for NaN, 0 where incomparable."""
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


def _displaced(x: Any, rng: np.random.Generator) -> Any:
    """x and a little noise. Positive inputs stay positive: a logarithm may follow."""
    moved = x + _DISPLACEMENT * typical_size(x) * rng.standard_normal(x.shape)
    return np.abs(moved) if (x > 0).all() else moved


def _equal(a: Any, b: Any) -> bool:
    """Equal but for the order in which a library may sum."""
    if a is None or b is None or a.shape != b.shape:
        return a is b
    size = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    return np.allclose(a, b, rtol=0, atol=_REPEATABLE * size, equal_nan=True)


def _or_zeros(gradient: Any, x: Any) -> Any:
    return np.zeros_like(x) if gradient is None else gradient
