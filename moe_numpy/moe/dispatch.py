"""Tokens to experts and back: y_t = Σ over the assignments n of token t of w_n f_e(n)(x_t).

Two strategies with the same values and gradients. ``loop`` is the obvious one: for each expert, pick its
tokens, run it, add the result. ``sorted`` copies all tokens into expert order once, runs all experts as one
grouped computation, and adds everything back once.

A token without assignments, because it was dropped, gets zero.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from .. import kernels
from ..autodiff import Function, Tensor
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
        return x[token]

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
        return kernels.of(r).add_rows(r * w[:, None].astype(r.dtype), token, num_tokens)

    def backward(self, grad: Float[Array, "T d"]) -> tuple[Any, Any, None]:
        """dr_n = w_n dy[token_n] and dw_n = r_n · dy[token_n]: how well the expert's answer fits decides its weight."""
        r, w, token = self.saved
        g = grad[token]
        d_w = kernels.of(r).row_products(g, r).astype(w.dtype)
        g *= w[:, None].astype(r.dtype)
        return g, d_w, None


def dispatch_loop(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """For each expert: gather its tokens, run it, weigh, add back."""
    y = None
    for e in range(routing.num_experts):
        mine = slice(int(routing.offsets[e]), int(routing.offsets[e + 1]))
        token = routing.token[mine]
        answer = experts.one(e, x[token])
        part = Combine.apply(answer, routing.weight[mine], token, num_tokens=routing.num_tokens)
        y = part if y is None else y + part
    return y


def dispatch_sorted(x: Float[Tensor, "T d"], routing: Routing, experts: Experts) -> Float[Tensor, "T d"]:
    """Permute once, run all experts grouped, combine once."""
    rows = Permute.apply(x, routing.token)
    answers = experts(rows, routing.offsets)
    return Combine.apply(answers, routing.weight, routing.token, num_tokens=routing.num_tokens)


STRATEGIES: Mapping[str, Callable[[Tensor, Routing, Experts], Tensor]] = {
    "loop": dispatch_loop,
    "sorted": dispatch_sorted,
}
