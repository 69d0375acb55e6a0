"""Exercise 27: balancing without a loss."""

from typing import Any

import numpy as np

from moe_numpy.moe.balancers import LossFreeBias

from ..exercise import Case, Check, Exercise, case, one_by_one, strided

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
    """Build the balancer and call."""
    return solution(LossFreeBias(rate), state, observed, passes)


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


def _loads(rng: np.random.Generator, experts: int, dtype: Any = np.float64) -> tuple[Any, Any]:
    """A bias, and counts of which none is the mean."""
    counts = rng.integers(0, 40, experts).astype(dtype)
    counts[0] += 1 if counts.sum() % experts == 0 else 0
    return rng.standard_normal(experts).astype(dtype), counts


def typical(rng: np.random.Generator) -> list[Case]:
    """Several numbers of experts and rates."""
    return [case(rate, *_loads(rng, e)) for e, rate in [(4, 0.001), (8, 0.01), (3, 0.5), (16, 0.001)]]


def balanced(rng: np.random.Generator) -> list[Case]:
    """Some experts, or all, have exactly the mean."""
    b = rng.standard_normal(4)
    return [
        case(0.1, b, np.array([5.0, 5.0, 5.0, 5.0])),
        case(0.1, b, np.array([5.0, 3.0, 7.0, 5.0])),
        case(0.1, b, np.zeros(4)),
        case(0.1, rng.standard_normal(1), np.array([9.0])),
    ]


def several_passes(rng: np.random.Generator) -> list[Case]:
    """Counts of several forward passes, added up, are still one step."""
    return [case(0.01, *_loads(rng, 5), passes) for passes in (2, 4)]


def unused(rng: np.random.Generator) -> list[Case]:
    """One expert takes everything, or one nothing."""
    b = rng.standard_normal(5)
    return [case(0.01, b, np.array([0.0, 0.0, 64.0, 0.0, 0.0])), case(0.01, b, np.array([9.0, 8.0, 0.0, 7.0, 9.0]))]


def skewed(rng: np.random.Generator) -> list[Case]:
    """Counts whose median lies far from their mean."""
    return [case(0.01, rng.standard_normal(5), np.array([1.0, 2.0, 3.0, 6.0, 60.0]))]


def single(rng: np.random.Generator) -> list[Case]:
    """The state in float32."""
    return [case(0.01, *_loads(rng, e, np.float32)) for e in (4, 7)]


# Wrong solutions


def sign_reversed(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Raises the bias of busy experts: they become busier still, until one has everything."""
    return state + self.rate * np.sign(observed - observed.mean())


def in_proportion(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Steps in proportion to the difference. The published rule takes its sign alone: every step has size γ."""
    return state + self.rate * (observed.mean() - observed)


def in_relative_proportion(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Steps in proportion to the relative difference. The published rule takes the sign alone."""
    return state + self.rate * (1 - observed / max(observed.mean(), 1))


def no_step_at_the_mean_forgotten(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Moves an expert that has exactly the mean: sign(0) is 0."""
    return state + np.where(observed <= observed.mean(), self.rate, -self.rate).astype(state.dtype)


def against_the_median(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Compares with the median. One busy expert hardly moves it; the fair share is the mean."""
    return state + self.rate * np.sign(np.median(observed) - observed)


def raises_only(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Raises what has too little and leaves the others: biases drift upwards for ever."""
    return state + self.rate * (observed < observed.mean())


def one_step_for_each_pass(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Steps once for each forward pass. The bias is part of the optimizer step: γ once, however many passes."""
    return state + passes * self.rate * np.sign(observed.mean() - observed)


def mean_of_the_passes(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Divides the mean by the passes but not the counts: then nearly every expert looks too busy."""
    return state + self.rate * np.sign(observed.mean() / passes - observed)


def forgets_the_old_bias(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Starts again at 0 in every step: a bias can then never grow beyond γ."""
    return self.rate * np.sign(observed.mean() - observed)


def centres_the_bias(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """Takes the mean off. It would change no choice, but the published rule does not do it."""
    new = state + self.rate * np.sign(observed.mean() - observed)
    return new - new.mean()


def changes_the_state_in_place(self: Any, state: Any, observed: Any, passes: int) -> Any:
    """`state += ...` writes into the router's buffer behind its back. Return a new array."""
    state += self.rate * np.sign(observed.mean() - observed)
    return state


CHECKS = (
    Check("one step towards the mean", 4, typical, "who has too little becomes easier to choose: +γ", run=step),
    Check("nothing moves at the mean", 2, balanced, "np.sign(0) is 0", run=step),
    Check("one step for several passes", 2, several_passes, "the sign does not change with the sum", run=step),
    Check("all steps have one size", 2, unused, "sign, not difference", run=step),
    Check("the mean decides", 1, skewed, "the fair share is the mean of the counts", run=step),
    Check("float32", 1, single, "a float32 state stays float32", run=step),
    Check("arrays with gaps", 1, strided(typical), "do not rely on the order in memory", run=step),
    Check(
        "known values",
        1,
        one_by_one(case(0.5, np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 6.0]))),
        "the mean is 3: up, up, down gives 0.5, 1.5, 1.5",
        run=step,
    ),
)

MISTAKES = (
    sign_reversed,
    in_proportion,
    in_relative_proportion,
    no_step_at_the_mean_forgotten,
    against_the_median,
    raises_only,
    one_step_for_each_pass,
    mean_of_the_passes,
    forgets_the_old_bias,
    centres_the_bias,
    changes_the_state_in_place,
)
