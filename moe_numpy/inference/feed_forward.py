"""Feed-forward layers for rows: dense, or the experts that each row chooses."""

from typing import Any

import numpy as np

from .. import ops
from ..autodiff import Tensor
from ..moe import MoE
from ..moe.dispatch import combine
from ..moe.gates import PickScores
from ..moe.router import Router
from ..moe.routing import Batch
from ..nn import FeedForward
from ..typing import Float
from .errors import NotRowByRowError
from .experts import experts_of
from .maps import Map, matrix_of
from .rows import Rows


class FeedForwardStep:
    """:class:`moe_numpy.nn.FeedForward` from arrays to arrays."""

    def __init__(self, layer: FeedForward, format: str | None = None):
        self.gate, self.up, self.down = (Map.of(part, format) for part in (layer.gate, layer.up, layer.down))

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows) -> Float[np.ndarray, "N d"]:
        return self.down(ops.SwiGLU.compute(self.gate(x), self.up(x)))


class RouterStep:
    """A router in evaluation: the experts of each row and their gate weights. Nothing is dropped."""

    def __init__(self, router: Router):
        self.config, self.num_experts = router.config, router.num_experts
        weight = matrix_of(np.asarray(router.weight.data, np.float32))
        self.logits = Map(weight, None if router.bias is None else router.bias.data)
        self.state = None if router.config.balancer is None else router.balancer_state.data

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows) -> tuple[Any, Any, Any]:
        """Rows, their experts, and the gate weights; row by row."""
        config = self.config
        logits = self.logits(x)
        scores = _scored(config.scores, logits)
        chosen_by = scores if config.choose_by == "scores" else logits
        if config.balancer is not None:
            chosen_by = config.balancer.shift(chosen_by, self.state)
        batch = Batch(len(x), token_ids=rows.tokens)
        candidates = config.selection.of_batch(chosen_by, batch).listed_by_token(len(x))
        gate = PickScores.compute(scores, candidates.token, candidates.expert)
        for step in config.gates:
            gate = step(Tensor(gate), candidates.token, len(x)).data
        return candidates.token, candidates.expert, gate


def _scored(scores: Any, logits: Any) -> Any:
    """What a :class:`RouterConfig` calls ``scores``, of arrays."""
    if scores is None:
        return logits
    compute = getattr(scores, "compute", None)  # of a Function; others are functions of Tensors
    return scores(Tensor(logits)).data if compute is None else compute(logits)


class MoEStep:
    """:class:`moe_numpy.moe.MoE` in evaluation, without capacity: what a row gets depends on no other row."""

    def __init__(self, layer: MoE, format: str | None = None, experts_format: str | None = None):
        self.router, self.gate_on = RouterStep(layer.router), layer.router.config.gate_on
        self.experts = experts_of(layer.experts, experts_format)
        self.shared = None if layer.shared is None else FeedForwardStep(layer.shared, format)
        self.shared_gate = None if layer.shared_gate is None else Map.of(layer.shared_gate)

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows) -> Float[np.ndarray, "N d"]:
        token, expert, gate = self.router(x, rows)
        gate, given = gate.astype(np.float32, copy=False), x[token]
        if self.gate_on == "input":
            given, gate = given * gate[:, None], np.ones_like(gate)
        y = combine(self.experts(given, expert), gate, token, len(x))
        if self.shared is not None:
            always = self.shared(x, rows)
            if self.shared_gate is not None:
                always = ops.Sigmoid.compute(self.shared_gate(x)) * always
            y = y + always
        return y


def feed_forward_step(layer: Any, format: str | None = None, experts_format: str | None = None) -> Any:
    """The step of a layer. NotRowByRowError if its rows depend on one another."""
    if isinstance(layer, FeedForward):
        return FeedForwardStep(layer, format)
    if isinstance(layer, MoE) and layer.router.config.selection.causal:
        return MoEStep(layer, format, experts_format)
    raise NotRowByRowError(f"a row of {type(layer).__name__} depends on other rows; it cannot be decoded by itself")
