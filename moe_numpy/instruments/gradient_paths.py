"""Which logits receive gradient from which term, and what is constant: found by running backward, not written down.

Random layers of a recipe are run, and backward goes from each term alone: the task (a random functional of the
output) and every auxiliary loss. What arrives at the logits h = x W_gᵀ is looked at entry by entry.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..autodiff import Function, Tensor, decisions, substitute
from ..autodiff.decisions import Decision
from ..moe import HierarchicalMoE, Recipe, RouterConfig, SoftMoE
from ..nn import Module
from ..ops import Affine
from ..typing import Array, Float
from .graph_walk import functions_of
from .probe import Probe, as_recipe
from .text_table import text_table

# A gradient this small beside its term is rounding: it comes from terms that cancel exactly.
_ZERO = 1e-10
_STEP = 1e-6


class _Watched(Affine):
    """The product that makes logits; remembers the gradient that arrives at them."""

    arrived: Any = None

    def backward(self, grad: Float[Array, "*batch o"]) -> Any:
        self.arrived = grad
        return super().backward(grad)


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
        """In words. ``dead``: backward passes through it, but it never moves, so that only zeros arrive."""
        if self.carries_gradient:
            return "differentiable" if self.moves else "dead"
        return "moves without gradient" if self.moves else "constant"


@dataclass(frozen=True)
class State:
    """The state of a balancer (the bias b of loss-free balancing), by what shifting it does.

    Attributes:
        receives_gradient: from the task or any loss.
        changes_choice: a shift by about 1 changes which experts are chosen.
        changes_output: a small shift that changes no choice changes the output: the state leaked into the weights.
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
    """A fraction for people; 99.9 % is not rounded to all of them."""
    if fraction is None:
        return "-"
    return f"{np.floor(1000 * fraction) / 10 if fraction > 0.5 else np.ceil(1000 * fraction) / 10:.3g} %"


def describe_state(state: State) -> str:
    """A :class:`State` in words."""
    acts = [
        what
        for what, does in (
            ("the choice", state.changes_choice),
            ("the weights of what was chosen", state.changes_output),
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
        seeds: how many random layers; every other one gets crowded tokens, so that capacities are exceeded.
    """
    recipe = as_recipe(recipe)
    probes = [Probe(recipe, seed=seed, crowded=bool(seed % 2), num_experts=num_experts) for seed in range(seeds)]
    runs = [_Run(probe) for probe in probes]
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


@dataclass(frozen=True)
class _Logits:
    """One router of a layer after a forward pass: what made its logits, and what was chosen by them."""

    level: str
    parameters: dict[str, Tensor]
    made_by: _Watched
    kept: Any  # Bool[..., E], of the shape of the logits
    dropped: Any


@dataclass(frozen=True)
class _Arrived:
    """What backward from one term left at one router: which logits, which parameters, and the gradients themselves."""

    at_logits: Any  # Bool, of the shape of the logits
    at_parameters: dict[str, bool]
    gradients: dict[str, Any]


class _Remembering(Module):
    """A group of a layer of two levels, which keeps its routing for us to look at."""

    def __init__(self, group: Any):
        self.group, self.router = group, group.router
        self.routing: Any = None

    def forward(self, *args: Any) -> Any:
        y, self.routing = self.group(*args)
        return y, self.routing


class _Run:
    """One probe, run forward under observation, after ``change(layer)``."""

    def __init__(self, probe: Probe, change: Callable[[Any], None] = lambda layer: None):
        self.probe = probe
        self.layer = probe.layer()
        change(self.layer)
        self.groups = [_Remembering(group) for group in _groups(self.layer)]
        if self.groups:
            self.layer.groups = self.groups
        with substitute(Affine, _Watched), decisions.recording() as self.decided:
            self.y, self.routing = probe.run(self.layer)
        self.cotangent = np.random.default_rng([probe.seed, 6]).standard_normal(self.y.shape)
        routings = [self.routing, *(group.routing for group in self.groups)]
        self.watched = list(_routers(self.layer, routings, functions_of(self.y)))
        self.terms = _terms(self.y, self.routing, self.cotangent)
        self.quantities = _quantities(self.routing)

    @property
    def has_state(self) -> bool:
        """Whether a balancer keeps something between steps."""
        return getattr(getattr(self.layer, "router", None), "balancer_state", None) is not None

    def carries_gradient(self, name: str) -> bool:
        """Whether the quantity is a Tensor of the graph."""
        value = self.quantities[name]
        return isinstance(value, Tensor) and value.requires_grad

    def backward_from(self, term: str) -> list[_Arrived]:
        """Gradients of this term alone, at each router."""
        self.layer.zero_grad()
        for logits in self.watched:
            logits.made_by.arrived = None
        loss = self.terms[term]
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        threshold = _ZERO * abs(loss.item()) + np.finfo(float).tiny
        return [self._arrived(logits, threshold) for logits in self.watched]

    def finite_difference_error(self, term: str) -> float | None:
        """Relative difference between the gradient and a central difference of the term along a random direction.

        None if every direction that was tried changes a discrete choice.
        """
        loss = self.terms[term]
        gradients = [g for arrived in self.backward_from(term) for g in arrived.gradients.values()]
        rng = np.random.default_rng([self.probe.seed, 7])
        for _ in range(5):
            directions = [rng.standard_normal(g.shape) for g in gradients]
            ahead, behind = (self._after_step(directions, step) for step in (_STEP, -_STEP))
            if ahead is None or behind is None:
                continue
            numeric = (ahead.terms[term].item() - behind.terms[term].item()) / (2 * _STEP)
            analytic = sum(float((g * v).sum()) for g, v in zip(gradients, directions, strict=True))
            return abs(numeric - analytic) / max(abs(numeric), abs(analytic), 1e-3 * abs(loss.item()), 1e-300)
        return None

    def quantities_after_a_step(self) -> dict[str, bool]:
        """Which quantities a small step of the router's parameters moves.

        If every step changes a choice there is nothing to compare: then those that carry a gradient.
        """
        rng = np.random.default_rng([self.probe.seed, 8])
        shapes = [p.shape for logits in self.watched for p in logits.parameters.values()]
        for _ in range(5):
            after = self._after_step([rng.standard_normal(shape) for shape in shapes], _STEP)
            if after is not None:
                return {name: _differs(value, after.quantities[name]) for name, value in self.quantities.items()}
        return {name: self.carries_gradient(name) for name in self.quantities}

    def state(self) -> tuple[bool, bool, bool, bool]:
        """The fields of :class:`State`."""
        self.layer.zero_grad()
        for loss in self.terms.values():
            if loss.requires_grad:
                loss.backward(retain_graph=True)
        state = self.layer.router.balancer_state
        rng = np.random.default_rng([self.probe.seed, 9])
        far = self._with_state(state.data + rng.standard_normal(state.shape))
        choice = any(_differs(self.quantities[name], far.quantities[name]) for name in ("selection", "counts"))
        near = self._with_state(state.data + _STEP * rng.standard_normal(state.shape))
        if not _same_choices(self.decided, near.decided):
            return state.grad is not None, choice, False, False
        losses = [name for name in self.terms if name != "task"]
        return (
            state.grad is not None,
            choice,
            _differs(self.y, near.y),
            any(_differs(self.terms[name], near.terms[name]) for name in losses),
        )

    def _arrived(self, logits: _Logits, threshold: float) -> _Arrived:
        grad = logits.made_by.arrived
        reached = np.zeros(logits.kept.shape, bool) if grad is None else np.abs(grad) > threshold
        gradients = {name: np.zeros(p.shape) if p.grad is None else p.grad for name, p in logits.parameters.items()}
        at_parameters = {name: bool((np.abs(g) > threshold).any()) for name, g in gradients.items()}
        return _Arrived(reached, at_parameters, gradients)

    def _after_step(self, directions: list[Any], step: float) -> "_Run | None":
        """The same run with moved router parameters; None if that changes a choice."""

        def move(layer: Any) -> None:
            parameters = [p for _, group in _parameters(layer) for p in group.values()]
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.data = parameter.data + step * direction

        after = _Run(self.probe, move)
        return after if _same_choices(self.decided, after.decided) else None

    def _with_state(self, state: Any) -> "_Run":
        def move(layer: Any) -> None:
            layer.router.balancer_state.data = state

        return _Run(self.probe, move)


def _path(term: str, level: str, runs: list[_Run], arrived: list[list[_Arrived]], error: float | None) -> Path:
    pairs = [
        (logits, found)
        for run, all_found in zip(runs, arrived, strict=True)
        for logits, found in zip(run.watched, all_found, strict=True)
        if logits.level == level
    ]

    def fraction(where: Callable[[_Logits], Any]) -> float | None:
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


def _parameters(layer: Any) -> list[tuple[str, dict[str, Tensor]]]:
    """The parameters of each router of a layer, the first of them the one that makes logits."""
    if isinstance(layer, SoftMoE):
        return [("", {"phi": layer.phi})]
    if isinstance(layer, HierarchicalMoE):
        inner = [("experts", dict(group.router.named_parameters())) for group in _groups(layer)]
        return [("groups", dict(layer.router.named_parameters())), *inner]
    return [("", dict(layer.router.named_parameters()))]


def _groups(layer: Any) -> list[Any]:
    """The layers inside a layer of two levels."""
    return layer.groups if isinstance(layer, HierarchicalMoE) else []


def _routers(layer: Any, routings: list[Any], functions: list[Function]) -> Iterator[_Logits]:
    """Match each router with the product that used its weight and with what it decided."""
    for (level, parameters), of_router in zip(_parameters(layer), routings, strict=True):
        weight = next(iter(parameters.values()))
        (op,) = [op for op in functions if isinstance(op, _Watched) and any(e and e.source is weight for e in op.edges)]
        shape = op.outputs[0][0]
        kept, dropped = np.ones(shape, bool), np.zeros(shape, bool)
        if of_router is not None:
            kept[:] = False
            kept[of_router.token, of_router.expert] = True
            lost = of_router.statistics.dropped
            dropped[lost.token, lost.expert] = True
        yield _Logits(level, parameters, op, kept, dropped)


def _terms(y: Tensor, routing: Any, cotangent: Any) -> dict[str, Tensor]:
    """Every scalar that training adds up, before its coefficient."""
    losses = {} if routing is None else dict(routing.losses)
    return {"task": (y * cotangent).sum(), **losses}


def _quantities(routing: Any) -> dict[str, Any]:
    if routing is None:
        return {}
    return {
        "logits": routing.trace.logits,
        "scores": routing.trace.scores,
        "gate weights": routing.gate,
        "selection": np.stack([routing.trace.candidates.token, routing.trace.candidates.expert]),
        "counts": routing.statistics.load,
        "positions": np.stack([routing.token, routing.expert]),
    }


def _differs(a: Any, b: Any) -> bool:
    """Whether two values of one quantity differ by more than rounding."""
    a, b = (v.data if isinstance(v, Tensor) else v for v in (a, b))
    if a.shape != b.shape:
        return True
    return bool((np.abs(a - b) > 1e-12 * np.maximum(np.abs(a), np.abs(b))).any())


def _same_choices(a: list[Decision], b: list[Decision]) -> bool:
    return len(a) == len(b) and all(
        x.what == y.what and np.array_equal(x.chosen, y.chosen) for x, y in zip(a, b, strict=True)
    )
