"""Tokens to experts and back: y_t = Σ over the assignments n of token t of w_n f_e(n)(x_t).

Four strategies with the same values and gradients:

- ``loop``, the obvious one: for each expert, pick its tokens, run it, add the result.
- ``onehot``, that of GShard: a mask D [T, E, C] sends tokens to places, X_ec = Σ_t D_tec x_t; the same mask with
  weights brings answers back. Nothing but products, and most of them with zeros.
- ``padded``: a buffer with C places for each expert, filled by index.
- ``sorted``: tokens copied into expert order once, all experts as one grouped computation, no padding.

C is the largest number of assignments of any expert. A token without assignments gets zero.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from array_api_compat import array_namespace

from .. import kernels
from ..autodiff import Function, Tensor
from ..ops import Cast, MatMul, Reshape, Transpose
from ..typing import Array, Float, Int
from .router import Routing


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
        return kernels.of(x).take_rows(x, token)

    def backward(self, grad: Float[Array, "N d"]) -> tuple[Any, None]:
        """dx_t = Σ over the assignments n of token t of dr_n."""
        (token,) = self.saved
        return kernels.of(grad).add_rows(grad, token, self.num_tokens), None


class Combine(Function):
    """y_t = Σ over the assignments n of token t of w_n r_n: the inverse permutation and the weighted sum in one."""

    def forward(
        self,
        r: Float[Array, "N d"],
        w: Float[Array, " N"],
        token: Int[Array, " N"],
        *,
        num_tokens: int,
    ) -> Float[Array, "T d"]:
        """Scatter-add of weighted rows; zero for a token without assignments."""
        self.save(r, w, token)
        return kernels.of(r).combine(r, w, token, num_tokens)

    def backward(self, grad: Float[Array, "T d"]) -> tuple[Any, Any, None]:
        """dr_n = w_n dy[token_n] and dw_n = r_n · dy[token_n]: how well the answer fits decides its weight."""
        r, w, token = self.saved
        return *kernels.of(r).combine_gradient(grad, r, w, token), None


class WeighRows(Function):
    """r'_n = w_n r_n: weights on what experts see instead of on what they answer."""

    def forward(self, r: Float[Array, "N d"], w: Float[Array, " N"]) -> Float[Array, "N d"]:
        """Scale each row."""
        self.save(r, w)
        return r * w[:, None].astype(r.dtype)

    def backward(self, grad: Float[Array, "N d"]) -> tuple[Any, Any]:
        """dr_n = w_n dr'_n and dw_n = r_n · dr'_n."""
        r, w = self.saved
        return grad * w[:, None].astype(r.dtype), kernels.of(r).row_products(grad, r).astype(w.dtype)


class FillPlaces(Function):
    """b[place_n] = r_n: rows into a buffer with padding; zero in places that nobody takes."""

    def forward(self, r: Float[Array, "N d"], place: Int[Array, " N"], *, num_places: int) -> Float[Array, "P d"]:
        """Scatter; no place is taken twice."""
        self.save(place)
        b = array_namespace(r).zeros((num_places, r.shape[1]), dtype=r.dtype)
        b[place] = r
        return b

    def backward(self, grad: Float[Array, "P d"]) -> tuple[Any, None]:
        """dr_n = db[place_n]."""
        (place,) = self.saved
        return grad[place], None


class WeightMask(Function):
    """M[t_n, e_n, c_n] = w_n and 0 elsewhere: the combine mask [T, E, C] of GShard (Lepikhin et al. 2020, algorithm 1).

    The dispatch mask is this one with ones for weights. It is not ``M != 0``: a weight can underflow to zero and
    its token would silently be lost.
    """

    def forward(
        self,
        w: Float[Array, " N"],
        token: Int[Array, " N"],
        expert: Int[Array, " N"],
        place: Int[Array, " N"],
        *,
        shape: tuple[int, int, int],
    ) -> Float[Array, "T E C"]:
        """Scatter; no entry is written twice."""
        self.save(token, expert, place)
        mask = array_namespace(w).zeros(shape, dtype=w.dtype)
        mask[token, expert, place] = w
        return mask

    def backward(self, grad: Float[Array, "T E C"]) -> tuple[Any, None, None, None]:
        """dw_n = dM[t_n, e_n, c_n]."""
        token, expert, place = self.saved
        return grad[token, expert, place], None, None, None


def groups(offsets: Int[Array, " E1"]) -> list[slice]:
    """The assignments of each expert. All offsets come to the host at once."""
    return [slice(start, stop) for start, stop in pairwise(kernels.of(offsets).to_host(offsets).tolist())]


def dispatch_loop(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """For each expert: gather its tokens, run it, weigh, add back."""
    y = Tensor(array_namespace(x.data).zeros_like(x.data))
    for e, mine in enumerate(groups(routing.offsets)):
        token = routing.token[mine]
        rows, weight = _weigh_input(x[token], routing.weight[mine], routing)
        y = y + Combine.apply(experts.one(e, rows), weight, token, num_tokens=routing.num_tokens)
    return y


def dispatch_onehot(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Two products with masks [T, E, C]."""
    place, capacity = _places(routing)
    num_places = routing.num_experts * capacity
    shape = (routing.num_tokens, routing.num_experts, capacity)
    index = (routing.token, routing.expert, place)
    ones = array_namespace(x.data).ones(routing.token.shape, dtype=x.dtype)
    weights = Cast.apply(WeightMask.apply(routing.weight, *index, shape=shape), dtype=x.dtype)
    unweighted = WeightMask.apply(ones, *index, shape=shape)
    by_input = routing.weigh == "input"
    send = Reshape.apply(weights if by_input else unweighted, shape=(routing.num_tokens, num_places))
    bring = Reshape.apply(unweighted if by_input else weights, shape=(routing.num_tokens, num_places))
    answers = experts(MatMul.apply(Transpose.apply(send), x), _even_offsets(routing, capacity))
    return MatMul.apply(bring, answers)


def dispatch_padded(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Rows into a buffer of C places for each expert, answers out of it by index."""
    place, capacity = _places(routing)
    at = routing.expert * capacity + place
    rows, weight = _weigh_input(Permute.apply(x, routing.token), routing.weight, routing)
    buffer = FillPlaces.apply(rows, at, num_places=routing.num_experts * capacity)
    answers = experts(buffer, _even_offsets(routing, capacity))
    return Combine.apply(answers[at], weight, routing.token, num_tokens=routing.num_tokens)


def dispatch_sorted(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Permute once, run all experts grouped, combine once."""
    rows, weight = _weigh_input(Permute.apply(x, routing.token), routing.weight, routing)
    return Combine.apply(experts(rows, routing.offsets), weight, routing.token, num_tokens=routing.num_tokens)


STRATEGIES: Mapping[str, Callable[[Tensor, Routing, Experts], Tensor]] = {
    "loop": dispatch_loop,
    "onehot": dispatch_onehot,
    "padded": dispatch_padded,
    "sorted": dispatch_sorted,
}


def _weigh_input(rows: Tensor, weight: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """Weights go onto the rows now and are 1 later, where the router weighs its input."""
    if routing.weigh == "output":
        return rows, weight
    return WeighRows.apply(rows, weight), Tensor(array_namespace(weight.data).ones_like(weight.data))


def _places(routing: Routing) -> tuple[Any, int]:
    """Each assignment's place before its expert, and the places that every expert needs."""
    xp = array_namespace(routing.offsets)
    place = xp.arange(len(routing.token)) - routing.offsets[routing.expert]
    return place, max(mine.stop - mine.start for mine in groups(routing.offsets))


def _even_offsets(routing: Routing, capacity: int) -> Any:
    return array_namespace(routing.offsets).arange(routing.num_experts + 1) * capacity
