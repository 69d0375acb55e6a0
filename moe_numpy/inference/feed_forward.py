"""Feed-forward layers for rows: dense, or the experts that each row chooses."""

from functools import partial
from typing import Any

import numpy as np

from .. import ops
from ..autodiff import Tensor
from ..moe import MoE
from ..moe.dispatch import combine
from ..moe.gates import Gate, PickScores, Renormalize, SelectedSoftmax
from ..moe.router import Router
from ..moe.routing import Batch, Candidates
from ..moe.selection import FixedK, TopK
from ..nn import FeedForward
from ..typing import Array, Float, Int
from .errors import NotRowByRowError
from .expert_tables import tables_of
from .experts import FEW, experts_of
from .maps import Map, matrix_of
from .program import Program
from .rows import Rows

_CHOSEN = ("experts", np.int64), ("gates", np.float32)


class FeedForwardStep:
    """:class:`moe_numpy.nn.FeedForward` from arrays to arrays."""

    def __init__(self, layer: FeedForward, format: str | None = None):
        self.gate, self.up, self.down = (Map.of(part, format) for part in (layer.gate, layer.up, layer.down))

    def add_to(self, program: Program, x: Float[Array, "N d"], name: str = "dense") -> Float[Array, "N d"]:
        """The step in a program."""
        gate, up = (part.add_to(program, x, f"{name} {i}") for i, part in enumerate((self.gate, self.up)))
        h = program.room(f"{name} hidden", *gate.shape)
        program.swiglu(gate, up, h)
        return self.down.add_to(program, h, f"{name} answer")


class RouterStep:
    """A router in evaluation: the experts of each row and their gate weights. Nothing is dropped."""

    def __init__(self, router: Router):
        self.config, self.num_experts = router.config, router.num_experts
        weight = matrix_of(np.asarray(router.weight.data, np.float32))
        self.logits = Map(weight, None if router.bias is None else router.bias.data)
        self.state = None if router.config.balancer is None else router.balancer_state.data

    def add_to(
        self, program: Program, x: Float[Array, "N d"], expert: Int[Array, "N k"], gate: Float[Array, "N k"]
    ) -> None:
        """The k experts of each row and their gate weights, in a program."""
        logits = self.logits.add_to(program, x, "logits")

        def define() -> None:
            _, found, gates = self.chosen(logits, program.now)
            expert[...], gate[...] = found.reshape(expert.shape), gates.reshape(gate.shape)

        how = self._softmax()
        if how is None:
            program.call(define)
        else:
            program.route(logits, *how, expert, gate, define)

    def _softmax(self) -> tuple[bool, bool] | None:
        """Whether the softmax is over all experts, and whether gates are divided by their sum; None for others."""
        c = self.config
        if type(c.selection) is not TopK or c.balancer is not None:
            return None
        if c.scores is ops.Softmax and c.choose_by == "scores" and c.gates in ((), (Gate(Renormalize),)):
            return True, bool(c.gates)
        return (False, True) if c.scores is None and c.gates == (Gate(SelectedSoftmax),) else None

    def __call__(self, x: Float[np.ndarray, "N d"], rows: Rows) -> tuple[Any, Any, Any]:
        """Rows, their experts, and the gate weights; row by row."""
        return self.chosen(self.logits(x), rows)

    def chosen(self, logits: Float[np.ndarray, "N E"], rows: Rows) -> tuple[Any, Any, Any]:
        """The same from their logits."""
        config = self.config
        scores = _scored(config.scores, logits)
        chosen_by = scores if config.choose_by == "scores" else logits
        if config.balancer is not None:
            chosen_by = config.balancer.shift(chosen_by, self.state)
        candidates = self.candidates(chosen_by, rows).listed_by_token(len(logits))
        gate = PickScores.compute(scores, candidates.token, candidates.expert)
        for step in config.gates:
            gate = step(Tensor(gate), candidates.token, len(logits)).data
        return candidates.token, candidates.expert, gate

    def candidates(self, scores: Float[np.ndarray, "N E"], rows: Rows) -> Candidates:
        """Which experts the rows ask for, by the scores that decide."""
        return self.config.selection.of_batch(scores, Batch(len(scores), token_ids=rows.tokens))


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
        self.tables = tables_of(self.experts)
        self.shared = None if layer.shared is None else FeedForwardStep(layer.shared, format)
        self.shared_gate = None if layer.shared_gate is None else Map.of(layer.shared_gate)

    def add_to(self, program: Program, x: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """The step in a program."""
        y = program.room("sparse", *x.shape)
        selection = self.router.config.selection
        if isinstance(selection, FixedK):
            self._add_experts(program, x, selection.k, y)
        else:
            latest: list[Any] = []

            def answer() -> None:
                latest[:] = self.router(x, program.now)
                y[...] = self._answers(x, *latest)

            program.call(answer)
            program.chosen.append(lambda: latest)
        if self.shared is not None:
            always = self.shared.add_to(program, x, "shared")
            if self.shared_gate is not None:
                gate = self.shared_gate.add_to(program, x, "shared gate")
                program.call(lambda: np.copyto(always, ops.Sigmoid.compute(gate) * always))
            program.add(y, always)
        return y

    def _add_experts(self, program: Program, x: Any, k: int, y: Any) -> None:
        layer, token = len(program.chosen), np.arange(len(x) * k) // k  # what a layer chose stays until the next call
        expert, gate = (program.room(f"{name} {layer}", len(x), k, dtype=t) for name, t in _CHOSEN)
        program.chosen.append(lambda: (token, expert.reshape(-1), gate.reshape(-1)))
        self.router.add_to(program, x, expert, gate)
        tables, gated = self.tables, self.gate_on == "input"
        few = min(expert.size, self.router.num_experts)
        if tables is None or (tables.fetch is not None and few > min(tables.most, FEW)):
            program.call(lambda: np.copyto(y, self._answers(x, token, expert.reshape(-1), gate.reshape(-1))))
            return
        if tables.before is not None:
            program.before(*tables.before)
        if tables.fetch is not None:
            program.call(partial(tables.fetch, expert))
        groups = program.group(expert, gate, self.router.num_experts)
        answer = tables.add_to(program, program.gather(x, k, groups, tables.first[0], gated), groups)
        after = program.room("ones", expert.size) if gated else groups.gate
        if gated:
            after[...] = 1
        program.combine(answer, k, groups, after, y)

    def _answers(self, x: Float[np.ndarray, "N d"], token: Any, expert: Any, gate: Any) -> Float[np.ndarray, "N d"]:
        gate, given = gate.astype(np.float32, copy=False), x[token]
        if self.gate_on == "input":
            given, gate = given * gate[:, None], np.ones_like(gate)
        return combine(self.experts(given, expert), gate, token, len(x))


def feed_forward_step(layer: Any, format: str | None = None, experts_format: str | None = None) -> Any:
    """The step of a layer. NotRowByRowError if its rows depend on one another, or for another kind of layer."""
    if isinstance(layer, FeedForward):
        return FeedForwardStep(layer, format)
    if isinstance(layer, MoE) and layer.router.config.selection.causal:
        return MoEStep(layer, format, experts_format)
    why = ": the experts of a row depend on other rows" if isinstance(layer, MoE) else ""
    raise NotRowByRowError(f"{type(layer).__name__} layers cannot be decoded row by row{why}")
