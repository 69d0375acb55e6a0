"""Tokens to experts and back: y_t = Σ over the assignments n of token t of g_n f_e(n)(x_t).

Five strategies with the same values and gradients:

- ``loop``, the obvious one: for each expert, pick its tokens, run it, add the result.
- ``onehot``, that of GShard: a mask [T, E, C] sends tokens to places, X_ec = Σ_t mask_tec x_t; the same mask with
  gate weights brings answers back. Nothing but matrix multiplications, most of them with zeros.
- ``padded``: a buffer with C places for each expert, filled by index.
- ``sorted``: tokens copied into expert order once, all experts as one grouped computation, no padding.
- ``exchange``: the same on several ranks: tokens travel to the rank that holds their expert, answers travel back.

C is the largest number of assignments of any expert. A token without assignments gets 0.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..autodiff.arrays import is_finite
from ..kernels import add_rows, kernel, take_rows, to_host
from ..ops import Cast, FillPlaces, Reshape, Transpose
from ..ops.matmul import product
from ..parallel import Alone, Holding, Placement
from ..typing import Array, Float, Int
from .exchanged import exchanged
from .experts import rows_of_experts
from .routing import Routing


@runtime_checkable
class Experts(Protocol):
    """What dispatch needs of a set of experts."""

    def __call__(self, x: Tensor, offsets: Any) -> Tensor:
        """All experts at once; rows ``offsets[e]:offsets[e+1]`` belong to expert e, those after the last to none."""

    def one(self, e: int, x: Tensor) -> Tensor:
        """Expert e alone on some rows: what the call must equal."""


class Permute(Function):
    """r_n = x[token_n]: a copy of its token for each assignment, in expert order."""

    def forward(self, x: Float[Array, "T d"], token: Int[Array, " N"]) -> Float[Array, "N d"]:
        """Copy rows."""
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
    """r'_n = g_n r_n: gate weights on what experts see, not on what they answer."""

    def forward(self, r: Float[Array, "N d"], gate: Float[Array, " N"]) -> Float[Array, "N d"]:
        self.save(r, gate)
        return r * gate[:, None].astype(r.dtype)

    def backward(self, grad: Float[Array, "N d"]) -> tuple[Any, Any]:
        """dr_n = g_n dr'_n and dg_n = r_n · dr'_n."""
        r, gate = self.saved
        return grad * gate[:, None].astype(r.dtype), row_products(grad, r).astype(gate.dtype)


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


class ThroughMask(Function):
    """y_a = Σ_b mask_ab x_b over the places ab that are taken: a matrix multiplication, as the mask is 0 elsewhere.

    0 · NaN is NaN, and 0 · ∞ too. So rows of x that are not finite are added one by one, to the taken places only.
    """

    def forward(
        self, mask: Float[Array, "A B"], x: Float[Array, "B d"], places: Float[Array, "A B"]
    ) -> Float[Array, "A d"]:
        """``places`` is the mask with ones for gate weights."""
        self.save(mask, x, places)
        return _through(mask, x, places)

    def backward(self, grad: Float[Array, "A d"]) -> tuple[Any, Any, None]:
        """dmask_ab = dy_a · x_b, dx_b = Σ_a mask_ab dy_a over the places that are taken."""
        mask, x, places = self.saved
        dmask = product(grad, x.T) if self.needs_grad(0) else None
        return dmask, _through(mask.T, grad, places.T) if self.needs_grad(1) else None, None


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
    routing = routing.only_kept()
    place, capacity = _places(routing)
    num_places = routing.num_experts * capacity
    shape = (routing.num_tokens, routing.num_experts, capacity)
    index = (routing.token, routing.expert, place)
    ones = array_namespace(x.data).ones(routing.token.shape, dtype=x.dtype)
    gates = Cast.apply(GateMask.apply(routing.gate, *index, shape=shape), dtype=x.dtype)
    places = GateMask.apply(ones, *index, shape=shape)
    on_input = routing.gate_on == "input"
    gates, places = (Reshape.apply(m, shape=(routing.num_tokens, num_places)) for m in (gates, places))
    send, bring = (gates, places) if on_input else (places, gates)
    rows = ThroughMask.apply(Transpose.apply(send), x, Transpose.apply(places))
    return ThroughMask.apply(bring, experts(rows, _even_offsets(routing, capacity)), places)


def dispatch_padded(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Rows go by index into a buffer of C places per expert; answers are read out by index."""
    routing = routing.only_kept()
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


def dispatch_exchange(
    x: Float[Tensor, "T d"],
    routing: Routing,
    experts: Experts,
    holding: Holding | None = None,
    meanwhile: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "T d"]:
    """Permute, send, run the experts that are here on what comes from all ranks, send back, combine at home.

    Args:
        x, routing, experts: as for the other strategies.
        holding: which experts are on which rank; without it, all of them are on this one.
        meanwhile: computes what is added to the result, while rows and their gradients are on their way.
    """
    if holding is None:
        holding = Holding(Alone(), Placement.even(routing.num_experts, 1))
    routing = routing.only_kept()
    rows, gate = gate_input(Permute.apply(x, routing.token), routing.gate, routing)
    back, always = exchanged(rows, routing.expert, routing.token, routing.first_token, experts, holding, x, meanwhile)
    y = Combine.apply(back, gate, routing.token, num_tokens=routing.num_tokens)
    return y if always is None else always + y


STRATEGIES: Mapping[str, Callable[[Tensor, Routing, Experts], Tensor]] = {
    "loop": dispatch_loop,
    "onehot": dispatch_onehot,
    "padded": dispatch_padded,
    "sorted": dispatch_sorted,
    "exchange": dispatch_exchange,
}


def gate_input(rows: Tensor, gate: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """The rows, and the gate weights for the answers. A gate on the input scales the rows; the answers then get 1."""
    if routing.gate_on == "output":
        return rows, gate
    return GateRows.apply(rows, gate), Tensor(array_namespace(gate.data).ones_like(gate.data))


def _through(mask: Float[Array, "A B"], x: Float[Array, "B d"], places: Float[Array, "A B"]) -> Float[Array, "A d"]:
    y = product(mask, x)
    if is_finite(y):
        return y
    xp = array_namespace(x)
    finite = xp.isfinite(x).all(axis=1)
    y = product(xp.where(finite, mask, 0), xp.where(finite[:, None], x, 0))
    for b in np.flatnonzero(~to_host(finite)).tolist():
        y = y + xp.where(places[:, b : b + 1] != 0, mask[:, b : b + 1] * x[b], 0)
    return y


def _places(routing: Routing) -> tuple[Any, int]:
    """Each assignment's place in the queue of its expert, and C, the places that every expert needs."""
    xp = array_namespace(routing.offsets)
    place = xp.arange(len(routing.token)) - routing.offsets[routing.expert]
    return place, max(mine.stop - mine.start for mine in rows_of_experts(routing.offsets))


def _even_offsets(routing: Routing, capacity: int) -> Any:
    return array_namespace(routing.offsets).arange(routing.num_experts + 1) * capacity
