"""Exercise 27: balancing without a loss."""

from typing import Any

import numpy as np

from moe_numpy.moe.balancers import LossFreeBias

from ..exercise import Case, Check, Exercise, case, one_by_one, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=27,
    name="loss_free_bias",
    title="Loss-free balancing",
    teaches="Balance without a loss: a bias moves the choice by fixed steps, and no gradient is disturbed.",
    difficulty=1,
    minutes=10,
    target="moe_numpy.moe.balancers:LossFreeBias.update",
    hints=(
        "An expert with fewer tokens than the mean must become easier to choose. Should its bias go up or down?",
        "Only the sign of the difference counts. self.rate is γ, the size of every step; `passes` changes no sign.",
        "state + self.rate * np.sign(observed.mean() - observed)",
    ),
)


def step(solution: Any, rate: float, state: Any, observed: Any, passes: int = 1) -> Any:
    """Build the balancer and call.

    Raises:
        ValueError: what comes back is not a new array.
    """
    new = solution(LossFreeBias(rate), state, observed, passes)
    if isinstance(new, np.ndarray) and np.may_share_memory(new, state):
        raise ValueError("update returned the state that it was given; return a new array, also where nothing moves")
    return new


def specification(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Compare each expert with the mean."""
    mean = sum(observed) / len(observed)
    new = state.copy()
    for i, count in enumerate(observed):
        if count < mean:
            new[i] += self.rate
        if count > mean:
            new[i] -= self.rate
    return new


def _loads(rng: np.random.Generator, experts: int) -> tuple[Any, Any]:
    """A bias, and counts of which none is the mean."""
    counts = rng.integers(0, 40, experts).astype(float)
    counts[0] += 1 if counts.sum() % experts == 0 else 0
    return rng.standard_normal(experts), counts


def typical(rng: np.random.Generator) -> list[Case]:
    return [case(rate, *_loads(rng, e)) for e, rate in [(4, 0.001), (8, 0.01), (3, 0.5), (16, 0.001), (4, 0.001)]]


def balanced(rng: np.random.Generator) -> list[Case]:
    """Some experts, or all, have exactly the mean, which divided by the passes is rounded; or γ is 0."""
    b = rng.standard_normal(4)
    return [
        case(0.1, b, np.array([5.0, 5.0, 5.0, 5.0])),
        case(0.1, b, np.array([5.0, 3.0, 7.0, 5.0])),
        case(0.1, b, np.zeros(4)),
        case(0.1, rng.standard_normal(1), np.array([9.0])),
        case(0.0, b, np.array([5.0, 3.0, 7.0, 5.0])),
        *(case(0.1, rng.standard_normal(n), np.full(n, 1.0), passes) for n in (3, 6, 7) for passes in (3, 10)),
    ]


def several_passes(rng: np.random.Generator) -> list[Case]:
    """Counts summed over several forward passes: still one step."""
    return [case(0.01, *_loads(rng, 5), passes) for passes in (2, 4)]


def any_size(rng: np.random.Generator) -> list[Case]:
    """Small and large steps, and many experts."""
    return [case(rate, *_loads(rng, e)) for e, rate in [(5, 1e-5), (5, 30.0), (300, 0.01)]]


def unused(rng: np.random.Generator) -> list[Case]:
    """One expert gets everything, or one nothing."""
    b = rng.standard_normal(5)
    return [
        case(0.01, 1000 * b, np.array([0.0, 0.0, 64.0, 0.0, 0.0])),
        case(0.01, b, np.array([9.0, 8.0, 0.0, 7.0, 9.0])),
    ]


def skewed(rng: np.random.Generator) -> list[Case]:
    """Counts whose median lies far from their mean."""
    return [case(0.01, rng.standard_normal(5), np.array([1.0, 2.0, 3.0, 6.0, 60.0]))]


def near_the_mean(rng: np.random.Generator) -> list[Case]:
    """Counts next to a mean that is no whole number, large counts, and loads that are no counts."""
    counts = (
        *([3.0, 4.0], [1.0, 2.0, 2.0], [7.0, 7.0, 7.0, 8.0], [0.0, 0.0, 1.0], [4097.0, 4098.0]),
        *([2.0**26 + 1, 2.0**26 + 2], [1.0, 1.0 + 2.0**-30], [1.0, 1.0 + 2.0**-50], [0.25, 0.5, 0.5]),
    )
    return [case(0.25, rng.standard_normal(len(c)), np.array(c)) for c in counts]


KNOWN = one_by_one(case(0.25, np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 6.0])))
CHECKS = (
    Check("one step towards the mean", 4, typical, "who has too little becomes easier to choose: +γ", run=step),
    Check("nothing moves at the mean", 2, balanced, "np.sign(0) is 0", run=step),
    Check("one step for several passes", 2, several_passes, "the sign does not change with the sum", run=step),
    Check("all steps have one size", 2, unused, "sign, not difference", run=step),
    Check("any rate, many experts", 1, any_size, "γ and all counts as they are", run=step),
    Check("close to the mean", 1, near_the_mean, "the mean need not be a whole number", run=step),
    Check("the mean decides", 1, skewed, "the fair share is the mean of the counts", run=step),
    *standard_checks(typical, run=step),
    Check("known values", 1, KNOWN, "the mean is 3: up, up, down gives 0.25, 1.25, 1.75", run=step),
)

MISTAKES = edits("""
sign reversed: Raises the bias of busy experts: they become busier still, until one has everything.
- _sign(observed.mean() - observed)
+ _sign(observed - observed.mean())
in proportion: Steps in proportion to the difference. The published rule takes only its sign: every step has size γ.
- _sign(observed.mean() - observed)
+ (observed.mean() - observed)
in relative proportion: Steps in proportion to the relative difference. The published rule takes only the sign.
- _sign(observed.mean() - observed)
+ (1 - observed / max(observed.mean(), 1))
no step at the mean forgotten: Moves an expert that has exactly the mean: sign(0) is 0.
- _sign(observed.mean() - observed)
+ np.where(observed <= observed.mean(), 1, -1).astype(state.dtype)
against the median: Compares with the median. One busy expert hardly moves it; the fair share is the mean.
- observed.mean() - observed
+ np.median(observed) - observed
raises only: Raises what has too little and leaves the others: biases drift upwards for ever.
- _sign(observed.mean() - observed)
+ (observed < observed.mean())
one step for each pass: Steps once per forward pass. An optimizer step is one step of size γ, however many passes.
- self.rate * _sign
+ passes * self.rate * _sign
mean of the passes: Divides the mean by the passes but not the counts: then nearly every expert looks too busy.
- observed.mean() - observed
+ observed.mean() / passes - observed
forgets the old bias: Starts again at 0 in every step: a bias can then never grow beyond γ.
- return state + self.rate
+ return self.rate
centres the bias: Subtracts the mean. It would change no choice, but the published rule does not do it.
- return state + self.rate * _sign(observed.mean() - observed)
+ new = state + self.rate * _sign(observed.mean() - observed); return new - new.mean()
changes the state in place: `state += ...` writes into the router's buffer. Return a new array.
- return state + self.rate * _sign(observed.mean() - observed)
+ state += self.rate * _sign(observed.mean() - observed); return state
steps of at most one: γ may be as large as it likes.
- self.rate * _sign(observed.mean() - observed)
+ min(self.rate, 1.0) * _sign(observed.mean() - observed)
mean of the first sixteen: The fair share is the mean over all experts.
- observed.mean() - observed
+ observed[:16].mean() - observed
mean rounded down: A mean of 3.5 is not 3: an expert with 3 has too little.
- observed.mean() - observed
+ observed.mean() // 1 - observed
mean of those in use: Leaves out experts without tokens: they are the ones that need to rise most.
- observed.mean() - observed
+ observed[observed > 0].mean() - observed if observed.any() else observed
indifferent near the mean: Counts a difference of less than 1 as none. Only an exact zero has no sign.
- _sign(observed.mean() - observed)
+ (_sign(observed.mean() - observed) * (abs(observed.mean() - observed) >= 1)).astype(state.dtype)
half a step: Takes half of γ.
- self.rate * _sign
+ 0.5 * self.rate * _sign
mean in float32: A float32 has 24 bits: the mean of large counts is rounded to one of them.
- observed.mean() - observed
+ np.float32(observed.mean()).astype(state.dtype) - observed
returns the state where nothing moves: The caller may write to one of them: return a new array in every case.
- return state + self.rate
+ return state if not _sign(observed.mean() - observed).any() else state + self.rate
divides by the passes: Rounding then makes a difference where there is none, and a balanced expert moves.
- observed.mean() - observed
+ (observed / passes).mean() - observed / passes
smooth sign: tanh of a small difference is small. Every step has size γ.
- _sign(observed.mean() - observed)
+ np.tanh(1000 * (observed.mean() - observed))
""")
