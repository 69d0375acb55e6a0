"""Exercise 42: fitting a scaling law."""

from itertools import product
from typing import Any

import numpy as np

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=42,
    name="scaling_fit",
    title="Fit of a scaling law",
    teaches="Only exponents need a search: with them fixed the law is linear, and the rest is solved exactly.",
    difficulty=2,
    minutes=25,
    target="moe_numpy.accounting.separable:separable_least_squares",
    imports=("from moe_numpy.accounting.separable import linear_least_squares",),
    hints=(
        "With α fixed, L = c + a / N^α is linear in c and a: linear_least_squares(terms(...), target, nonnegative) "
        "gives the best of both, and the sum of squares, for all values of α at once.",
        "np.linspace(max(center - reach, low), min(center + reach, high), 5) for each parameter, then "
        'np.meshgrid(*axes, indexing="ij"), each of its arrays flattened, are the arguments of terms.',
        "linear, squares = linear_least_squares(...); best = squares.argmin(); the new center has axis[best] for each "
        "of the flattened arrays; reach = 0.65 * reach. 18 times; then center.tolist(), linear[best].tolist().",
    ),
)


def fitted(solution: Any, law: str, n: Any, d: Any, losses: Any, ranges: Any, nonnegative: bool = False) -> Any:
    """Build the terms of a law, and call.

    Raises:
        TypeError: what comes back are no two lists.
    """

    def terms(*exponents: Any) -> Any:
        a, *rest = (np.asarray(e, np.float64)[:, None] for e in exponents)
        columns = [np.ones_like(a * n), n**-a]
        if law == "flat":
            columns = [np.ones_like(a * n), np.broadcast_to(n, (a * n).shape)]
        if law == "twins":  # exact, so that exchanging the two changes no bit
            columns = [np.ones_like(a * n), (n - a * np.asarray(exponents[1], np.float64)[:, None]) ** 2]
        if law in ("tokens", "grains"):
            columns.append(d ** -rest[0])
        if law == "grains":
            columns.append(n**-a * d ** -rest[1])
        return np.stack(columns, axis=-1)

    found = solution(terms, losses, ranges, nonnegative)
    if type(found) is not tuple or [type(part) for part in found] != [list, list]:
        raise TypeError("expected a tuple of two lists: the nonlinear parameters, and the linear ones")
    return np.array(found[0]), np.array(found[1])


def specification(terms: Any, target: Any, ranges: Any, nonnegative: bool) -> Any:
    """Combination by combination; of the linear ones every subset of columns by QR."""
    centers, reaches = [(a + b) / 2 for a, b in ranges], [(b - a) / 2 for a, b in ranges]
    best: Any = None
    for _ in range(18):
        axes = []
        for center, reach, (low, high) in zip(centers, reaches, ranges, strict=True):
            start, stop = max(center - reach, low), min(center + reach, high)
            axes.append([start + (stop - start) * i / 4 for i in range(5)])
        best = None
        for values in product(*axes):
            x = terms(*(np.array([v]) for v in values))[0]
            c, squares = _solved(x, target, nonnegative)
            if best is None or squares < best[0]:
                best = squares, list(values), c
        centers, reaches = best[1], [0.65 * reach for reach in reaches]
    return best[1], best[2]


def _solved(x: Any, y: Any, nonnegative: bool) -> tuple[list[float], float]:
    p = x.shape[1]
    best: tuple[list[float], float] = ([], np.inf)
    subsets = [s for s in product((False, True), repeat=p) if any(s)] if nonnegative else [(True,) * p]
    for subset in map(list, subsets):
        found = np.linalg.lstsq(x[:, subset], y, rcond=None)[0]
        squares = float(((x[:, subset] @ found - y) ** 2).sum())
        if squares < best[1] and (not nonnegative or (found >= 0).all()):
            c = np.zeros(p)
            c[subset] = found
            best = c.tolist(), squares
    return best


def _models(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
    """Sizes and tokens, in units of their means."""
    return np.exp(rng.uniform(-2, 2, count)), np.exp(rng.uniform(-2, 2, count))


def one_exponent(rng: np.random.Generator) -> list[Case]:
    """L = c + a / N^α, and some noise."""
    cases = []
    for alpha, count in ((0.5, 12), (0.9, 9)):
        n, d = _models(rng, count)
        losses = 1.7 + 0.8 * n**-alpha + 0.02 * rng.standard_normal(count)
        cases.append(case("size", n, d, losses, [(0.05, 1.5)]))
    n, d = _models(rng, 12)
    small = 1e-7 * (1.7 + 0.8 * n**-0.7 + 0.02 * rng.standard_normal(12))
    return [*cases, case("size", n, d, small, [(0.05, 1.5)])]


def two_exponents(rng: np.random.Generator) -> list[Case]:
    """L = c + a / N^α + b / D^β."""
    cases = []
    for alpha, beta in ((0.5, 0.9), (1.1, 0.4)):
        n, d = _models(rng, 20)
        losses = 1.2 + 0.8 * n**-alpha + 0.5 * d**-beta + 0.02 * rng.standard_normal(20)
        cases.append(case("tokens", n, d, losses, [(0.05, 1.5), (0.2, 2.5)]))
    return cases


def three_exponents(rng: np.random.Generator) -> list[Case]:
    """And another for granularity: L = c + (a + g / D^γ) / N^α + b / D^β."""
    n, d = _models(rng, 30)
    losses = 1.0 + 0.5 * n**-0.6 + 0.4 * d**-0.4 + 0.6 * n**-0.6 * d**-1.3 + 0.02 * rng.standard_normal(30)
    return [case("grains", n, d, losses, [(0.2, 1.2), (0.1, 1.0), (1.1, 2.5)])]


def at_the_edge(rng: np.random.Generator) -> list[Case]:
    """The best exponent lies outside its range, or near its end."""
    cases = []
    for alpha, bounds in ((1.5, (0.1, 0.8)), (0.2, (0.6, 1.4)), (0.74, (0.1, 0.75))):
        n, d = _models(rng, 15)
        losses = 1.7 + 0.8 * n**-alpha + 0.01 * rng.standard_normal(15)
        cases.append(case("size", n, d, losses, [bounds]))
    for far in (1.6e-4, 1e-4):  # and without noise, so near that the best of a round is not in the next grid
        n, d = _models(rng, 15)
        cases.append(case("size", n, d, 1.7 + 0.8 * n**-0.6, [(0.6 - far, 1.1)]))
    return [*cases, case("tokens", n, d, 1.1 + n**-0.6 + d**-0.9, [(0.5, 0.5), (0.2, 2.5)])]


def not_negative(rng: np.random.Generator) -> list[Case]:
    """The best coefficient would be negative; and where it may be."""
    cases = []
    for sign in (-0.4, 0.4):
        n, d = _models(rng, 16)
        losses = 1.5 + 0.8 * n**-0.6 + sign * d**-0.5 + 0.02 * rng.standard_normal(16)
        ranges = [(0.1, 1.2), (0.1, 1.2)]
        cases += [case("tokens", n, d, losses, ranges, nonnegative=True), case("tokens", n, d, losses, ranges)]
    return cases[:3]


TIED = one_by_one(
    case("flat", np.array([1.0, 2.0, 4.0]), np.ones(3), np.array([1.0, 2.0, 5.0]), [(0.0, 1.0)]),
    case("twins", np.array([0.2, 0.7, 1.5, 2.1]), np.ones(4), np.array([1.06, 0.79, 0.96, 1.7]), [(0.1, 1.5)] * 2),
    case("flat", np.array([1.0, 2.0, 3.0]), np.ones(3), np.array([3.0, 5.0, 7.5]), [(-1.0, 3.0), (2.0, 2.5)]),
)
CHECKS = (
    Check("one exponent", 4, one_exponent, "the best of five becomes the center, and the reach 0.65 of it", run=fitted),
    Check("two exponents", 3, two_exponents, "all 25 combinations; each parameter has a reach of its own", run=fitted),
    Check("three exponents", 1, three_exponents, "all 125 combinations", run=fitted),
    Check(
        "the end of a range",
        2,
        at_the_edge,
        "cut the grid off at low and high; its five values move together",
        run=fitted,
    ),
    Check("coefficients that may not be negative", 2, not_negative, "hand `nonnegative` on", run=fitted),
    *standard_checks(one_exponent, floats=False, run=fitted),
    Check(
        "ties", 1, TIED, "argmin takes the first: an exponent that plays no part ends at its lowest value", run=fitted
    ),
)

MISTAKES = edits("""
never closes in: The reach stays. The grid is then as coarse in the last round as in the first.
- reach * _SHRINK
+ reach
closes in too fast: Halves the reach. The best point may lie between the center's neighbours and be lost: 0.65.
- reach * _SHRINK
+ reach * 0.5
stays in the middle: The center does not move to the best point.
- center, reach = np.array([axis[best] for axis in mesh]), reach * _SHRINK
+ reach = reach * _SHRINK
the worst: Takes the largest sum of squares.
- squares.argmin()
+ squares.argmax()
leaves its range: Does not cut the grid off at the ends of the range.
- np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS)
+ np.linspace(c - r, c + r, _PER_AXIS)
cuts values, not the grid: Moves values beyond the end onto it: several are then equal, and the others too far apart.
- np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS)
+ np.clip(np.linspace(c - r, c + r, _PER_AXIS), a, b)
reach of the whole width: The first grid goes beyond the range on both sides. Half the width reaches the ends.
- (high - low) / 2
+ (high - low)
begins at the lowest: The first center is the middle of the range.
- (low + high) / 2, (high
+ low, (high
one round too few: There are 18 rounds.
- range(_ROUNDS)
+ range(_ROUNDS - 1)
one round too many: There are 18 rounds.
- range(_ROUNDS)
+ range(_ROUNDS + 1)
four values: Each parameter has five values in a round, so that the center is one of them.
- np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS)
+ np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS - 1)
without the ends: Leaves out the upper end of the grid.
- np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS)
+ np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS, endpoint=False)
equal in proportion: Spaces values by a factor. They lie at equal distances.
- np.linspace(max(c - r, a), min(c + r, b), _PER_AXIS)
+ np.exp(np.linspace(np.log(max(c - r, a, 1e-9)), np.log(max(min(c + r, b), 1e-9)), _PER_AXIS))
coefficients of the first: Returns the linear parameters of the first combination, not of the best.
- linear[best].tolist()
+ linear[0].tolist()
may be negative: Ignores `nonnegative`.
- target, nonnegative)
+ target, False)
never negative: Takes `nonnegative` for granted.
- target, nonnegative)
+ target, True)
one reach for all: Gives every parameter the largest reach. Each range has a width of its own.
- (high - low) / 2
+ np.full(len(low), (high - low).max() / 2)
first parameter fastest: Lets the first parameter change fastest. Of equal sums another is then the first.
- np.meshgrid(*axes, indexing="ij")
+ np.meshgrid(*axes[::-1], indexing="ij")[::-1]
best of all rounds: Keeps the best of earlier rounds, too. Asked for is the best of the last round.
- best = int(squares.argmin())
+ best = int(squares.argmin()); now = squares[best], [float(axis[best]) for axis in mesh], linear[best].tolist()
+         kept = min(kept, now, key=lambda found: found[0]) if _ else now
- return center.tolist(), linear[best].tolist()
+ return kept[1:]
small enough: Stops where the sum of squares is below a bound of its own. Small targets have small sums: 18 rounds.
- best = int(squares.argmin())
+ best = int(squares.argmin()); reach = reach * (squares[best] > 1e-9)
last of equals: Takes the last of equal sums of squares. The first counts.
- int(squares.argmin())
+ int(len(squares) - 1 - squares[::-1].argmin())
""")
