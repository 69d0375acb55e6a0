"""Tokens to experts and back: y_t = Σ over the assignments n of token t of g_n f_e(n)(x_t).

Four strategies with the same values and gradients:

- ``loop``, the obvious one: for each expert, pick its tokens, run it, add the result.
- ``onehot``, that of GShard: a mask [T, E, C] sends tokens to places, X_ec = Σ_t mask_tec x_t; the same mask with
  gate weights brings answers back. Nothing but matrix multiplications, most of them with zeros.
- ``padded``: a buffer with C places for each expert, filled by index.
- ``sorted``: tokens copied into expert order once, all experts as one grouped computation, no padding.

C is the largest number of assignments of any expert. A token without assignments gets zero.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..kernels import add_rows, kernel, take_rows
from ..ops import Cast, MatMul, Reshape, Transpose
from ..typing import Array, Float, Int
from .experts import rows_of_experts
from .routing import Routing


@runtime_checkable
class Experts(Protocol):
    """What dispatch needs of a set of experts."""

    def __call__(self, x: Tensor, offsets: Any) -> Tensor:
        """All experts on rows sorted by expert."""

    def one(self, e: int, x: Tensor) -> Tensor:
        """Expert e alone."""


class Permute(Function):
    """r_n = x[token_n]: a copy of its token for each assignment, in expert order."""

    def forward(self, x: Float[Array, "T d"], token: Int[Array, " N"]) -> Float[Array, "N d"]:
        """Gather rows."""
        self.save(token)
        self.num_tokens = x.shape[0]
        return take_rows(x, token)

    def backward(self, grad: Float[Array, "N d"]) -> tuple[Any, None]:
        """dx_t = Σ over the assignments n of token t of dr_n."""
        (token,) = self.saved
        return add_rows(grad, token, self.num_tokens), None


@kernel
def combine(
    r: Float[Array, "N d"], gate: Float[Array, " N"], token: Int[Array, " N"], num_tokens: int
) -> Float[Array, "num_tokens d"]:
    """y_t = Σ over the rows n of token t of g_n r_n, added in the order of n; zero for a token without rows."""
    y = np.zeros((num_tokens, r.shape[1]), r.dtype)
    np.add.at(y, token, gate[:, None].astype(r.dtype, copy=False) * r)
    return y


@kernel(wide=(1,))
def combine_gradient(
    grad: Float[Array, "T d"], r: Float[Array, "N d"], gate: Float[Array, " N"], token: Int[Array, " N"]
) -> tuple[Float[Array, "N d"], Float[Array, " N"]]:
    """dr_n = g_n dy[token_n] and dg_n = r_n · dy[token_n]."""
    dy = grad[token]
    return gate[:, None].astype(r.dtype, copy=False) * dy, np.vecdot(r, dy).astype(gate.dtype, copy=False)


class Combine(Function):
    """y_t = Σ over the assignments n of token t of g_n r_n: the inverse permutation and the weighted sum in one."""

    def forward(
        self,
        r: Float[Array, "N d"],
        gate: Float[Array, " N"],
        token: Int[Array, " N"],
        *,
        num_tokens: int,
    ) -> Float[Array, "T d"]:
        """Add up rows times gate weights; zero for a token without assignments."""
        self.save(r, gate, token)
        return combine(r, gate, token, num_tokens)

    def backward(self, grad: Float[Array, "T d"]) -> tuple[Any, Any, None]:
        """dr_n = g_n dy[token_n], dg_n = r_n · dy[token_n]: descent raises the gate of answers that lower the loss."""
        r, gate, token = self.saved
        d_r, d_gate = combine_gradient(grad, r, gate, token)
        return d_r, d_gate.astype(gate.dtype, copy=False), None


@kernel
def row_products(a: Float[Array, "N d"], b: Float[Array, "N d"]) -> Float[Array, " N"]:
    """The inner product of each row of a with the same row of b."""
    return np.vecdot(a, b)


class GateRows(Function):
    """r'_n = g_n r_n: gate weights on what experts see instead of on what they answer."""

    def forward(self, r: Float[Array, "N d"], gate: Float[Array, " N"]) -> Float[Array, "N d"]:
        """Scale each row."""
        self.save(r, gate)
        return r * gate[:, None].astype(r.dtype)

    def backward(self, grad: Float[Array, "N d"]) -> tuple[Any, Any]:
        """dr_n = g_n dr'_n and dg_n = r_n · dr'_n."""
        r, gate = self.saved
        return grad * gate[:, None].astype(r.dtype), row_products(grad, r).astype(gate.dtype)


class FillPlaces(Function):
    """buffer[place_n] = r_n: rows into a buffer with padding; unused places stay zero."""

    def forward(self, r: Float[Array, "N d"], place: Int[Array, " N"], *, num_places: int) -> Float[Array, "EC d"]:
        """Scatter; no place is taken twice."""
        self.save(place)
        b = array_namespace(r).zeros((num_places, r.shape[1]), dtype=r.dtype)
        b[place] = r
        return b

    def backward(self, grad: Float[Array, "EC d"]) -> tuple[Any, None]:
        """dr_n = dbuffer[place_n]."""
        (place,) = self.saved
        return grad[place], None


class GateMask(Function):
    """mask[token_n, expert_n, place_n] = g_n, 0 elsewhere: GShard's combine mask (Lepikhin et al. 2020, algorithm 1).

    The dispatch mask is this one with ones for gate weights. It is not ``mask != 0``: a gate weight can underflow to
    zero, and its token would silently be lost.
    """

    def forward(
        self,
        gate: Float[Array, " N"],
        token: Int[Array, " N"],
        expert: Int[Array, " N"],
        place: Int[Array, " N"],
        *,
        shape: tuple[int, int, int],
    ) -> Float[Array, "T E C"]:
        """Scatter; no entry is written twice."""
        self.save(token, expert, place)
        mask = array_namespace(gate).zeros(shape, dtype=gate.dtype)
        mask[token, expert, place] = gate
        return mask

    def backward(self, grad: Float[Array, "T E C"]) -> tuple[Any, None, None, None]:
        """dg_n = dmask[token_n, expert_n, place_n]."""
        token, expert, place = self.saved
        return grad[token, expert, place], None, None, None


def dispatch_loop(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """For each expert: gather its tokens, run it, multiply by the gate weights, add back."""
    y = Tensor(array_namespace(x.data).zeros_like(x.data))
    for e, mine in enumerate(rows_of_experts(routing.offsets)):
        token = routing.token[mine]
        rows, gate = gate_input(x[token], routing.gate[mine], routing)
        y = y + Combine.apply(experts.one(e, rows), gate, token, num_tokens=routing.num_tokens)
    return y


def dispatch_onehot(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Two matrix multiplications with masks [T, E, C]."""
    place, capacity = _places(routing)
    num_places = routing.num_experts * capacity
    shape = (routing.num_tokens, routing.num_experts, capacity)
    index = (routing.token, routing.expert, place)
    ones = array_namespace(x.data).ones(routing.token.shape, dtype=x.dtype)
    gates = Cast.apply(GateMask.apply(routing.gate, *index, shape=shape), dtype=x.dtype)
    places = GateMask.apply(ones, *index, shape=shape)
    on_input = routing.gate_on == "input"
    send = Reshape.apply(gates if on_input else places, shape=(routing.num_tokens, num_places))
    bring = Reshape.apply(places if on_input else gates, shape=(routing.num_tokens, num_places))
    answers = experts(MatMul.apply(Transpose.apply(send), x), _even_offsets(routing, capacity))
    return MatMul.apply(bring, answers)


def dispatch_padded(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Rows into a buffer of C places for each expert, answers out of it by index."""
    place, capacity = _places(routing)
    at = routing.expert * capacity + place
    rows, gate = gate_input(Permute.apply(x, routing.token), routing.gate, routing)
    buffer = FillPlaces.apply(rows, at, num_places=routing.num_experts * capacity)
    answers = experts(buffer, _even_offsets(routing, capacity))
    return Combine.apply(answers[at], gate, routing.token, num_tokens=routing.num_tokens)


def dispatch_sorted(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Permute once, run all experts grouped, combine once."""
    rows, gate = gate_input(Permute.apply(x, routing.token), routing.gate, routing)
    return Combine.apply(experts(rows, routing.offsets), gate, routing.token, num_tokens=routing.num_tokens)


STRATEGIES: Mapping[str, Callable[[Tensor, Routing, Experts], Tensor]] = {
    "loop": dispatch_loop,
    "onehot": dispatch_onehot,
    "padded": dispatch_padded,
    "sorted": dispatch_sorted,
}


def gate_input(rows: Tensor, gate: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """The rows, and the gate weights for the answers: applied to the rows now, and 1 later, for a gate on the input."""
    if routing.gate_on == "output":
        return rows, gate
    return GateRows.apply(rows, gate), Tensor(array_namespace(gate.data).ones_like(gate.data))


def _places(routing: Routing) -> tuple[Any, int]:
    """Each assignment's place before its expert, and the places that every expert needs."""
    xp = array_namespace(routing.offsets)
    place = xp.arange(len(routing.token)) - routing.offsets[routing.expert]
    return place, max(mine.stop - mine.start for mine in rows_of_experts(routing.offsets))


def _even_offsets(routing: Routing, capacity: int) -> Any:
    return array_namespace(routing.offsets).arange(routing.num_experts + 1) * capacity
