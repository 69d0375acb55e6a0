"""Which logits receive gradient from which term, and what is constant: found by running backward, not written down.

Random layers of a recipe are run, and backward goes from each term alone: the task (a random functional of the
output) and every auxiliary loss. The gradient that arrives at the logits h = x W_gᵀ is examined entry by entry.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..moe import Recipe, RouterConfig
from .observed_run import ArrivedGradient, ObservedRun, RouterLogits
from .probe import Probe, as_recipe
from .text_table import text_table


@dataclass(frozen=True)
class Path:
    """What one term's gradient reaches at one router.

    Attributes:
        term: ``"task"`` or the name of an auxiliary loss.
        router: which router: empty for the only one; ``"groups"`` and ``"experts"`` where there are two levels.
        kept: the fraction of logits with a gradient other than 0, among those of chosen experts that took the token.
        dropped: the same among chosen experts that were full; None where no probe dropped anything.
        not_chosen: the same among experts that were not chosen; None where all are.
        parameters: for each parameter of the router, whether a gradient other than 0 arrives.
        finite_difference_error: the largest relative difference, over the probes, between backward and a finite
            difference along a random direction of the router's parameters; None if every step changed a choice.
    """

    term: str
    router: str
    kept: float | None
    dropped: float | None
    not_chosen: float | None
    parameters: dict[str, bool]
    finite_difference_error: float | None


@dataclass(frozen=True)
class Quantity:
    """Something between the logits and the output, and whether it is constant for the derivative.

    Attributes:
        name: what it is.
        moves: whether a small step of the router's parameters that changes no choice changes it.
        carries_gradient: whether backward can pass through it.
    """

    name: str
    moves: bool
    carries_gradient: bool

    @property
    def verdict(self) -> str:
        """In words. ``dead``: backward passes through it, but it never moves, so only zeros arrive."""
        if self.carries_gradient:
            return "differentiable" if self.moves else "dead"
        return "moves without gradient" if self.moves else "constant"


@dataclass(frozen=True)
class State:
    """The state of a balancer (the bias b of loss-free balancing), by what shifting it does.

    Attributes:
        receives_gradient: from the task or any loss.
        changes_choice: a shift by about 1 changes which experts are chosen.
        changes_output: a small shift that changes no choice changes the output: the state leaked into the gate weights.
        changes_losses: the same of the auxiliary losses.
    """

    receives_gradient: bool
    changes_choice: bool
    changes_output: bool
    changes_losses: bool


@dataclass(frozen=True)
class GradientPaths:
    """The answer of :func:`gradient_paths`."""

    paths: tuple[Path, ...]
    quantities: tuple[Quantity, ...]
    state: State | None
    probes: int

    @property
    def task_reaches_router(self) -> bool:
        """Whether any parameter of any router learns from the task; otherwise the router is dead or fixed."""
        return any(any(path.parameters.values()) for path in self.paths if path.term == "task")

    def as_json(self) -> dict[str, Any]:
        """Numbers, strings and None only."""
        return {"task_reaches_router": self.task_reaches_router, **asdict(self)}

    def __str__(self) -> str:
        header = ["gradient of", "kept", "dropped", "not chosen", "reaches"]
        rows = [
            [
                f"{p.term} ({p.router})" if p.router else p.term,
                *map(percent, (p.kept, p.dropped, p.not_chosen)),
                ", ".join(name for name, reached in p.parameters.items() if reached) or "nothing",
            ]
            for p in self.paths
        ]
        lines = [text_table(header, rows)]
        for verdict in ("differentiable", "dead", "constant", "moves without gradient"):
            names = [q.name for q in self.quantities if q.verdict == verdict]
            if names:
                lines.append(f"{verdict}: {', '.join(names)}")
        if self.state is not None:
            lines.append(f"balancing state: {describe_state(self.state)}")
        if not self.task_reaches_router:
            lines.append("The router learns nothing from the task.")
        return "\n".join(lines)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, rounded towards 50 %: only all is 100 %, only none is 0 %."""
    if fraction is None:
        return "-"
    return f"{np.floor(1000 * fraction) / 10 if fraction > 0.5 else np.ceil(1000 * fraction) / 10:.3g} %"


def describe_state(state: State) -> str:
    """A :class:`State` in words."""
    acts = [
        what
        for what, does in (
            ("the choice", state.changes_choice),
            ("the gate weights of what was chosen", state.changes_output),
            ("the auxiliary loss", state.changes_losses),
        )
        if does
    ]
    gradient = "receives a gradient" if state.receives_gradient else "receives no gradient"
    return f"{gradient}; it changes {' and '.join(acts) or 'nothing'}"


def gradient_paths(recipe: Recipe | RouterConfig, *, num_experts: int = 16, seeds: int = 6) -> GradientPaths:
    """Probe a recipe in training mode.

    Args:
        recipe: what to probe. Settings must suit ``num_experts``.
        num_experts: E.
        seeds: how many random layers; every second one gets crowded tokens, so that capacities are exceeded.
    """
    recipe = as_recipe(recipe)
    probes = [Probe(recipe, seed=seed, crowded=bool(seed % 2), num_experts=num_experts) for seed in range(seeds)]
    runs = [ObservedRun(probe) for probe in probes]
    terms = list(runs[0].terms)
    levels = list(dict.fromkeys(watched.level for watched in runs[0].watched))
    arrived = {term: [run.backward_from(term) for run in runs] for term in terms}
    errors = {term: [e for run in runs if (e := run.finite_difference_error(term)) is not None] for term in terms}
    paths = tuple(
        _path(term, level, runs, arrived[term], max(errors[term], default=None)) for term in terms for level in levels
    )
    steps = [run.quantities_after_a_step() for run in runs]
    names = list(runs[0].quantities)
    quantities = tuple(
        Quantity(name, any(step[name] for step in steps), runs[0].carries_gradient(name)) for name in names
    )
    states = [run.state() for run in runs if run.has_state]
    state = State(*(any(flags) for flags in zip(*states, strict=True))) if states else None
    return GradientPaths(paths, quantities, state, seeds)


def _path(
    term: str, level: str, runs: list[ObservedRun], arrived: list[list[ArrivedGradient]], error: float | None
) -> Path:
    pairs = [
        (logits, found)
        for run, all_found in zip(runs, arrived, strict=True)
        for logits, found in zip(run.watched, all_found, strict=True)
        if logits.level == level
    ]

    def fraction(where: Callable[[RouterLogits], Any]) -> float | None:
        reached = np.concatenate([found.at_logits[where(logits)].reshape(-1) for logits, found in pairs])
        return float(reached.mean()) if reached.size else None

    return Path(
        term,
        level,
        fraction(lambda logits: logits.kept),
        fraction(lambda logits: logits.dropped),
        fraction(lambda logits: ~(logits.kept | logits.dropped)),
        {name: any(found.at_parameters[name] for _, found in pairs) for name in pairs[0][0].parameters},
        error,
    )
