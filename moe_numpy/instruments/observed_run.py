"""One run of a probe under observation: what backward from each term leaves at each router, and what a step moves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import Function, Tensor, decisions, substitute
from ..autodiff.decisions import Decision
from ..moe import HierarchicalMoE, MoE, SoftMoE
from ..ops import Affine
from ..typing import Array, Float
from .graph_walk import functions_of
from .probe import Probe

# A gradient this small beside its term is rounding: it comes from terms that cancel exactly.
_ZERO = 1e-10
_STEP = 1e-6


class _WatchedAffine(Affine):
    """The op that makes logits; remembers the gradient that arrives at them."""

    arrived: Any = None

    def backward(self, grad: Float[Array, "*batch o"]) -> Any:
        self.arrived = grad
        return super().backward(grad)


@dataclass(frozen=True)
class RouterLogits:
    """One router of a layer after a forward pass: what made its logits, and what they chose."""

    level: str
    parameters: dict[str, Tensor]
    made_by: _WatchedAffine
    kept: Any  # Bool[..., E], of the shape of the logits
    dropped: Any


@dataclass(frozen=True)
class ArrivedGradient:
    """What backward from one term left at one router: which logits, which parameters, and the gradients themselves."""

    at_logits: Any  # Bool, of the shape of the logits
    at_parameters: dict[str, bool]
    gradients: dict[str, Any]


class ObservedRun:
    """One probe, run forward under observation after ``change(layer)``."""

    def __init__(self, probe: Probe, change: Callable[[Any], None] = lambda layer: None):
        self.probe = probe
        self.layer = probe.layer()
        change(self.layer)
        with substitute(Affine, _WatchedAffine), decisions.recording() as self.decided:
            self.y, self.routing = probe.run(self.layer)
        self.cotangent = np.random.default_rng([probe.seed, 6]).standard_normal(self.y.shape)
        self.watched = list(_routers(self.layer, self.routing, functions_of(self.y)))
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

    def backward_from(self, term: str) -> list[ArrivedGradient]:
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

        None if every direction tried changes a discrete choice.
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

        If every step tried changes a choice, those that carry a gradient.
        """
        rng = np.random.default_rng([self.probe.seed, 8])
        shapes = [p.shape for logits in self.watched for p in logits.parameters.values()]
        for _ in range(5):
            after = self._after_step([rng.standard_normal(shape) for shape in shapes], _STEP)
            if after is not None:
                return {name: _differs(value, after.quantities[name]) for name, value in self.quantities.items()}
        return {name: self.carries_gradient(name) for name in self.quantities}

    def state(self) -> tuple[bool, bool, bool, bool]:
        """The fields of :class:`moe_numpy.instruments.gradient_paths.State`."""
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

    def _arrived(self, logits: RouterLogits, threshold: float) -> ArrivedGradient:
        grad = logits.made_by.arrived
        reached = np.zeros(logits.kept.shape, bool) if grad is None else np.abs(grad) > threshold
        gradients = {name: np.zeros(p.shape) if p.grad is None else p.grad for name, p in logits.parameters.items()}
        at_parameters = {name: bool((np.abs(g) > threshold).any()) for name, g in gradients.items()}
        return ArrivedGradient(reached, at_parameters, gradients)

    def _after_step(self, directions: list[Any], step: float) -> "ObservedRun | None":
        """The same run with moved router parameters; None if that changes a choice."""

        def move(layer: Any) -> None:
            parameters = [p for _, group in _parameters(layer) for p in group.values()]
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.data = parameter.data + step * direction

        after = ObservedRun(self.probe, move)
        return after if _same_choices(self.decided, after.decided) else None

    def _with_state(self, state: Any) -> "ObservedRun":
        def move(layer: Any) -> None:
            layer.router.balancer_state.data = state

        return ObservedRun(self.probe, move)


def _parameters(layer: Any, level: str = "") -> list[tuple[str, dict[str, Tensor]]]:
    """The parameters of each router of a layer, the first of them the one that makes logits."""
    if isinstance(layer, SoftMoE):
        return [("", {"phi": layer.phi})]
    if not isinstance(layer, HierarchicalMoE):
        return [(level, dict(layer.router.named_parameters()))]
    below = "experts" if isinstance(layer.groups[0], MoE) else f"groups of {level or 'groups'}"
    inner = [found for group in layer.groups for found in _parameters(group, below)]
    return [(level or "groups", dict(layer.router.named_parameters())), *inner]


def _routings(routing: Any) -> list[Any]:
    """Of a layer and, in a tree, of its branches, in the order of :func:`_parameters`."""
    return [routing, *(found for child in getattr(routing, "children", ()) for found in _routings(child))]


def _routers(layer: Any, routing: Any, functions: list[Function]) -> Iterator[RouterLogits]:
    """Match each router with the op that used its weight and with what it decided."""
    for (level, parameters), of_router in zip(_parameters(layer), _routings(routing), strict=True):
        weight = next(iter(parameters.values()))
        (op,) = [
            op for op in functions if isinstance(op, _WatchedAffine) and any(e and e.source is weight for e in op.edges)
        ]
        shape = op.outputs[0][0]
        kept, dropped = np.ones(shape, bool), np.zeros(shape, bool)
        if of_router is not None:
            kept[:] = False
            of_router = of_router.only_kept()
            kept[of_router.token, of_router.expert] = True
            lost = of_router.statistics.dropped
            dropped[lost.token, lost.expert] = True
        yield RouterLogits(level, parameters, op, kept, dropped)


def _terms(y: Tensor, routing: Any, cotangent: Any) -> dict[str, Tensor]:
    """Every scalar that training adds up, without its coefficient."""
    losses = {} if routing is None else dict(routing.losses)
    return {"task": (y * cotangent).sum(), **losses}


def _quantities(routing: Any) -> dict[str, Any]:
    if routing is None:
        return {}
    routing = routing.only_kept()
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
