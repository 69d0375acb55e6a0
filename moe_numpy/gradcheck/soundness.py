"""What must hold for finite differences to mean anything, and that gradients are right at a second point too."""

from typing import Any

import numpy as np

from .draws import displaced, of_other_sizes, typical_size
from .float32 import coarse_forward
from .point import Point, evaluate
from .slopes import along_direction

_REPEATABLE = 1e-9  # BLAS may sum in a different order from run to run
_FAR = 0.7  # how far away the second point is, relative to the typical size of an input
_PLACES = 3  # how many of them
_ROUNDED = 1e-13  # rounding of a directional derivative, relative to the outputs


def forward_problems(point: Point, rng: np.random.Generator) -> list[str]:
    """Why f cannot be checked; empty if it is repeatable, finite, in float64 and leaves its inputs alone."""
    problems = list(point.side_effects)
    again, _ = evaluate(point.f, [x.copy() for x in point.inputs])
    if not problems and not all(map(equal, point.outputs, again)):
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
    if not problems:
        point.elsewhere(displaced(point.inputs, rng, _FAR), rng)
        again, _ = evaluate(point.f, [x.copy() for x in point.inputs])
        if not all(map(equal, point.outputs, again)):
            problems.append(
                "f keeps something from one run to the next (a counter, a running mean, a cache): after a run on other "
                "inputs the same inputs give another result; reset it inside f"
            )
    return problems or coarse_forward(point, rng)


def wrong_elsewhere(point: Point, rng: np.random.Generator, eps: float, tolerance: float) -> list[str]:
    """Compare a directional derivative at other points, far away: what was kept from the first is wrong there."""
    far = [displaced(point.inputs, rng, _FAR) for _ in range(_PLACES)]
    places = [*far, *of_other_sizes(point.inputs, rng), displaced(point.inputs, rng)]
    right = 0
    for inputs in places:
        other = point.elsewhere(inputs, rng)
        if other is None or not other.flat.size:
            continue
        direction = [typical_size(x) * rng.standard_normal(x.shape) for x in other.inputs]
        found = along_direction(other, direction, eps)
        if found.reason[0] is not None or not found.terms[0, 0]:
            continue
        terms = np.array(
            [float((g * d).sum()) for g, d in zip(other.gradients(), direction, strict=True) if g is not None]
        )
        off = abs(terms.sum() - found.value[0, 0])
        size = max(found.terms[0, 0], float(np.abs(terms).sum()))
        if off <= found.error[0, 0] + tolerance * size + _ROUNDED * found.scale[0, 0]:
            right += 1
            if right == _PLACES:
                break
            continue
        return [
            f"right at the given inputs, wrong at others: along a random direction analytic {terms.sum():.6g}, "
            f"numeric {found.value[0, 0]:.6g}. Something is kept from one pass to the next (a cache, a global, an "
            "attribute of the class or the module), or a case that the given inputs do not reach is wrong"
        ]
    return []


def equal(a: Any, b: Any) -> bool:
    """Whether a equals b up to the order in which a library may sum."""
    if a is None or b is None or a.shape != b.shape:
        return a is b
    size = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    return np.allclose(a, b, rtol=0, atol=_REPEATABLE * size, equal_nan=True)
