"""Feed-forward layers for rows: dense, or the experts that each row chooses, without sorting all rows by expert."""

from typing import Any

import numpy as np

from .. import ops
from ..autodiff import Tensor
from ..moe import MoE
from ..moe.gates import PickScores
from ..moe.router import Router
from ..moe.routing import Batch
from ..nn import FeedForward
from ..typing import Float
from .maps import Map
from .rows import Rows


class FeedForwardStep:
    """:class:`moe_numpy.nn.FeedForward` from arrays to arrays."""

    def __init__(self, layer: FeedForward):
        self.gate, self.up, self.down = Map(layer.gate), Map(layer.up), Map(layer.down)

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows) -> Float[np.ndarray, "N d"]:
        return self.down(ops.SwiGLU.compute(self.gate(x), self.up(x)))


class RouterStep:
    """A router in evaluation: the experts of each row and their gate weights. Nothing is dropped."""

    def __init__(self, router: Router):
        self.config, self.num_experts = router.config, router.num_experts
        self.logits = Map.of(np.asarray(router.weight.data, np.float32))
        self.logits.bias = None if router.bias is None else np.asarray(router.bias.data, np.float32)
        self.state = None if router.config.balancer is None else router.balancer_state.data

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows) -> tuple[Any, Any, Any]:
        """Rows and experts, ordered by row, and the gate weights."""
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

    def __init__(self, layer: MoE):
        self.router, self.gate_on = RouterStep(layer.router), layer.router.config.gate_on
        self.experts = layer.experts
        self.shared = None if layer.shared is None else FeedForwardStep(layer.shared)
        self.shared_gate = None if layer.shared_gate is None else Map(layer.shared_gate)

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows) -> Float[np.ndarray, "N d"]:
        token, expert, gate = self.router(x, rows)
        y = np.zeros_like(x)
        for e in np.unique(expert):
            mine = expert == e
            of, g = token[mine], gate[mine][:, None]
            given = x[of] * g if self.gate_on == "input" else x[of]
            answer = self.experts.one(int(e), Tensor(given)).data
            y[of] += answer if self.gate_on == "input" else g * answer
        if self.shared is not None:
            always = self.shared(x, rows)
            if self.shared_gate is not None:
                always = ops.Sigmoid.compute(self.shared_gate(x)) * always
            y = y + always
        return y


def feed_forward_step(layer: Any) -> Any:
    """The step of a layer. ValueError for one whose rows depend on one another."""
    if isinstance(layer, FeedForward):
        return FeedForwardStep(layer)
    if isinstance(layer, MoE) and layer.router.config.selection.causal:
        return MoEStep(layer)
    raise ValueError(f"a row of {type(layer).__name__} depends on other rows; it cannot be decoded by itself")
