"""The strategy ``exchange`` where a row travels once to each rank, however many experts there want it.

    rows                      x_t once; copied on arrival
    gradients of answers      dy_t once, and gate weights: dr_n = g_n dy_t is the same product there as at home
    answers                   all, g_n r_n is added up at home; with ``sums`` on the rank of the experts first
    gradients of rows         likewise

The first two change no bit. The other two would: (a + b) + (c + d) is not ((a + b) + c) + d.
"""

from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..ops import Reshape
from ..parallel import Exchange, Holding
from ..parallel.copies import Copies, copies_of
from ..parallel.overlap import travel
from ..typing import Array, Float, Int
from .dispatch import Combine, Experts, combine, combine_gradient, dispatch_exchange
from .routing import Routing


class CombineReturned(Function):
    """y_t = Σ over the assignments n of token t of g_n r_n; the answers r come back from the ranks of their experts."""

    def forward(
        self,
        answers: Float[Array, "M d"],
        gate: Float[Array, " N"],
        token: Int[Array, " N"],
        *,
        copies: Copies,
    ) -> Float[Array, "T d"]:
        """All answers travel, and are added up as :class:`Combine` does."""
        r = copies.each.back(answers, "answers").wait()
        self.copies = copies
        self.save(r, gate, token)
        return combine(r, gate, token, copies.num_tokens)

    def backward(self, grad: Float[Array, "T d"]) -> tuple[Any, Any, None]:
        """dr_n = g_n dy[token_n], there: dy travels once to each rank. dg_n = r_n · dy[token_n], at home."""
        r, gate, token = self.saved
        _, d_gate = combine_gradient(grad, r, gate, token)
        dy = self.copies.there(grad.astype(r.dtype, copy=False), "gradients of answers").wait()
        g = self.copies.each.there(gate[:, None], "gates").wait()
        return g.astype(dy.dtype, copy=False) * dy, d_gate.astype(gate.dtype, copy=False), None


def dispatch_copies(
    x: Float[Tensor, "T d"],
    routing: Routing,
    experts: Experts,
    holding: Holding,
    meanwhile: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "T d"]:
    """As :func:`moe_numpy.moe.dispatch.dispatch_exchange`, and each row travels once to each rank.

    Where gate weights are on the input, the rows of a token differ, and all of them travel.
    """
    if routing.gate_on == "input":
        return dispatch_exchange(x, routing, experts, holding, meanwhile)
    routing = routing.only_kept()
    gate, sums = routing.gate, holding.deduplicate == "sums"
    of_tokens = routing.expert, routing.token, routing.first_token, routing.num_tokens
    copies, offsets, leaving = copies_of(holding, *of_tokens)
    rows, always = travel(x, copies, "rows", x, meanwhile)
    answers = experts(rows, offsets)
    y = (_sums_there if sums else _sums_at_home)(answers, gate, routing, copies)
    gradients = [name for name, t in (("rows", x), ("answers", y), ("gates", gate)) if t.requires_grad]
    holding.note(x, gradients, gate_bytes=gate.dtype.itemsize, **leaving)
    return y if always is None else always + y


def _sums_at_home(answers: Tensor, gate: Tensor, routing: Routing, copies: Copies) -> Tensor:
    y: Tensor = CombineReturned.apply(answers, gate, routing.token, copies=copies)
    return y


def _sums_there(answers: Tensor, gate: Tensor, routing: Routing, copies: Copies) -> Tensor:
    """y_t = Σ over ranks of Σ over the assignments n of t there of g_n r_n."""
    column = Reshape.apply(gate, shape=(len(routing.token), 1))
    there = Exchange.apply(column, way=copies.each, kind="gates")
    there = Reshape.apply(there, shape=(len(copies.copy),))
    partial = Combine.apply(answers, there, copies.copy, num_tokens=copies.num_come)
    back = Exchange.apply(partial, way=copies.once.reverse, kind="answers")
    ones = array_namespace(gate.data).ones(len(copies.distinct), dtype=gate.dtype)
    y: Tensor = Combine.apply(back, ones, copies.distinct, num_tokens=copies.num_tokens)
    return y
