"""The expert feed-forward networks of one layer, all experts in one grouped computation.

Rows arrive sorted by expert; ``offsets[e]:offsets[e+1]`` are those of expert e. A grouped product multiplies each
expert's rows by that expert's matrix and writes into one buffer for all. ``one(e, x)`` runs a single expert with
ordinary ops: what ``forward`` must equal.

Rows after the last offset belong to no expert: their answers are zero, and they change no gradient.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, Tensor, decisions
from ..kernels import kernel, to_host, where_true
from ..nn import Module
from ..nn.module import constant, normal
from ..ops import GELU, Affine, Concatenate, ReLU, SwiGLU
from ..ops.activations import swiglu, swiglu_gradient
from ..typing import Array, Float, Int, Random


def rows_of_experts(offsets: Int[Array, " E1"]) -> list[slice]:
    """The rows of each expert as slices. All offsets come to the host at once."""
    return [slice(start, stop) for start, stop in pairwise(to_host(offsets).tolist())]


@kernel
def grouped_product(
    x: Float[Array, "N i"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N o"]:
    """y[n] = W_e x[n] for every row n of expert e; zero for a row of none."""
    y = np.concatenate([x[rows] @ weight[e].T for e, rows in enumerate(rows_of_experts(offsets))])
    return np.pad(y, [(0, len(x) - len(y)), (0, 0)])


@kernel
def grouped_product_input_gradient(
    grad: Float[Array, "N o"], weight: Float[Array, "E o i"], offsets: Int[Array, " E1"]
) -> Float[Array, "N i"]:
    """dx[n] = W_eᵀ dy[n]; zero for a row of no expert."""
    dx = np.concatenate([grad[rows] @ weight[e] for e, rows in enumerate(rows_of_experts(offsets))])
    return np.pad(dx, [(0, len(grad) - len(dx)), (0, 0)])


@kernel
def grouped_product_weight_gradient(
    grad: Float[Array, "N o"], x: Float[Array, "N i"], offsets: Int[Array, " E1"]
) -> Float[Array, "E o i"]:
    """dW_e = Σ over the rows n of expert e of dy[n] x[n]ᵀ; zero for an expert without rows.

    Rows ``offsets[e]:offsets[e+1]`` belong to expert e, with ``offsets[0]`` = 0. Rows from ``offsets[E]`` on, if there
    are any, belong to nobody.
    """
    return np.stack([grad[rows].T @ x[rows] for rows in rows_of_experts(offsets)])


class GroupedSwiGLU(Function):
    """y_n = D_e (silu(G_e x_n) ⊙ U_e x_n) for each row n of expert e (Shazeer 2020, equation 6).

    silu(z) = z σ(z), where σ(z) = 1 / (1 + exp(-z)). Rows ``offsets[e]:offsets[e+1]`` belong to expert e; an expert
    without rows gets gradients of zero. ``gate_up`` holds G_e above U_e, so that one matrix multiplication serves both.
    """

    def forward(
        self,
        x: Float[Array, "N d"],
        gate_up: Float[Array, "E two_f d"],
        down: Float[Array, "E d f"],
        offsets: Int[Array, " E1"],
    ) -> Float[Array, "N d"]:
        """Two grouped products, the activation between them."""
        f = down.shape[2]
        h = grouped_product(x, gate_up, offsets)
        a = swiglu(h[:, :f], h[:, f:])
        self.save(x, gate_up, down, offsets, h, a)
        return grouped_product(a, down, offsets)

    def backward(self, grad: Float[Array, "N d"]) -> tuple[Any, Any, Any, None]:
        """da = D_eᵀ dy, dD_e = Σ dy aᵀ; through the activation to dh; dx = [G_e; U_e]ᵀ dh, d[G_e; U_e] = Σ dh xᵀ."""
        x, gate_up, down, offsets, h, a = self.saved
        f = down.shape[2]
        d_a = grouped_product_input_gradient(grad, down, offsets)
        d_down = grouped_product_weight_gradient(grad, a, offsets)
        d_h = swiglu_gradient(d_a, h[:, :f], h[:, f:])
        d_x = grouped_product_input_gradient(d_h, gate_up, offsets)
        d_gate_up = grouped_product_weight_gradient(d_h, x, offsets)
        return d_x, d_gate_up, d_down, None


@kernel
def add_expert_bias(
    y: Float[Array, "N o"], bias: Float[Array, "E o"], offsets: Int[Array, " E1"]
) -> Float[Array, "N o"]:
    """y[n] + b_e for every row n of expert e, y[n] for a row of none. The result may be y itself, changed in place."""
    b = np.repeat(bias, np.diff(offsets), axis=0)
    return y + np.pad(b, [(0, len(y) - len(b)), (0, 0)])


@kernel
def sum_of_expert_rows(values: Float[Array, "N o"], offsets: Int[Array, " E1"]) -> Float[Array, "E o"]:
    """The sum of each expert's rows; zero for an expert without rows."""
    return np.stack([values[rows].sum(axis=0) for rows in rows_of_experts(offsets)])


class GroupedAffine(Function):
    """y_n = W_e x_n + b_e for each row n of expert e."""

    def forward(
        self,
        x: Float[Array, "N i"],
        weight: Float[Array, "E o i"],
        bias: Float[Array, "E o"],
        offsets: Int[Array, " E1"],
    ) -> Float[Array, "N o"]:
        self.save(x, weight, offsets)
        return add_expert_bias(grouped_product(x, weight, offsets), bias, offsets)

    def backward(self, grad: Float[Array, "N o"]) -> tuple[Any, Any, Any, None]:
        """dx_n = W_eᵀ dy_n, dW_e = Σ dy_n x_nᵀ, db_e = Σ dy_n over the rows of e."""
        x, weight, offsets = self.saved
        return (
            grouped_product_input_gradient(grad, weight, offsets),
            grouped_product_weight_gradient(grad, x, offsets),
            sum_of_expert_rows(grad, offsets),
            None,
        )


class SwiGLUExperts(Module):
    """E networks x → D (silu(G x) ⊙ U x), as in Mixtral, OLMoE and DeepSeek.

    Parameters ``gate_up`` [E, 2f, d] and ``down`` [E, d, f], drawn from N(0, 1/fan-in).
    """

    def __init__(self, num_experts: int, d_model: int, d_ff: int, *, rng: Random, dtype: Any = np.float32):
        self.gate_up = normal(rng, (num_experts, 2 * d_ff, d_model), d_model**-0.5, dtype)
        self.down = normal(rng, (num_experts, d_model, d_ff), d_ff**-0.5, dtype)

    def forward(self, x: Float[Tensor, "N d"], offsets: Any) -> Float[Tensor, "N d"]:
        return GroupedSwiGLU.apply(x, self.gate_up, self.down, offsets)

    def one(self, e: int, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        f = self.down.shape[2]
        gate_up = self.gate_up[e]
        gate, up = Affine.apply(x, gate_up[:f], None), Affine.apply(x, gate_up[f:], None)
        return Affine.apply(SwiGLU.apply(gate, up), self.down[e], None)


class ClampedSwiGLU(Function):
    """a = (u + 1) v σ(α v), with gate and up interleaved, v = min(h₀ ₂ ₄…, limit) and u = clip(h₁ ₃ ₅…, -limit, limit).

    The activation of gpt-oss (2025). The gradient is zero where a value was clipped.
    """

    def forward(self, h: Float[Array, "N two_f"], *, alpha: float = 1.702, limit: float = 7.0) -> Float[Array, "N f"]:
        self.alpha, self.limit = alpha, limit
        xp = array_namespace(h)
        self.dtype = h.dtype
        h = h.astype(xp.result_type(h.dtype, xp.float32), copy=False)
        gate, up = h[:, ::2], h[:, 1::2]
        decisions.record(
            "clipped",
            xp.concat([gate > self.limit, xp.abs(up) > self.limit], axis=1).reshape(-1),
            lambda i: f"entry {i} is near the limit of {self.limit}",
        )
        v = xp.minimum(gate, self.limit)
        u = xp.minimum(xp.maximum(up, -self.limit), self.limit)  # clip would wait for a GPU
        s = 1 / (1 + xp.exp(-self.alpha * v))
        self.save(h, v, u, s)
        return ((u + 1) * v * s).astype(self.dtype, copy=False)

    def backward(self, grad: Float[Array, "N f"]) -> Any:
        """da/dv = (u + 1) s (1 + α v (1 - s)) and da/du = v s, inside the limits."""
        h, v, u, s = self.saved
        xp = array_namespace(h)
        dh = xp.empty_like(h)
        dv = grad * (u + 1) * s * (1 + self.alpha * v * (1 - s))
        dh[:, ::2] = xp.where(h[:, ::2] <= self.limit, dv, 0)
        dh[:, 1::2] = xp.where(xp.abs(h[:, 1::2]) <= self.limit, grad * v * s, 0)
        return dh.astype(self.dtype, copy=False)


class GptOssExperts(Module):
    """E networks x → D a(U x + b) + c with :class:`ClampedSwiGLU` (gpt-oss 2025).

    Parameters ``gate_up`` [E, 2f, d] with rows interleaved, ``gate_up_bias`` [E, 2f], ``down`` [E, d, f] and
    ``down_bias`` [E, d].
    """

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        d_ff: int,
        *,
        alpha: float = 1.702,
        limit: float = 7.0,
        rng: Random,
        dtype: Any = np.float32,
    ):
        self.activation = {"alpha": alpha, "limit": limit}
        self.gate_up = normal(rng, (num_experts, 2 * d_ff, d_model), d_model**-0.5, dtype)
        self.gate_up_bias = constant(rng, (num_experts, 2 * d_ff), 0, dtype)
        self.down = normal(rng, (num_experts, d_model, d_ff), d_ff**-0.5, dtype)
        self.down_bias = constant(rng, (num_experts, d_model), 0, dtype)

    def forward(self, x: Float[Tensor, "N d"], offsets: Any) -> Float[Tensor, "N d"]:
        h = GroupedAffine.apply(x, self.gate_up, self.gate_up_bias, offsets)
        h = ClampedSwiGLU.apply(h, **self.activation)
        return GroupedAffine.apply(h, self.down, self.down_bias, offsets)

    def one(self, e: int, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        h = ClampedSwiGLU.apply(Affine.apply(x, self.gate_up[e], self.gate_up_bias[e]), **self.activation)
        return Affine.apply(h, self.down[e], self.down_bias[e])


class WithZeroExperts(Module):
    """Real experts, followed by experts that return their input (LongCat-Flash 2025, section 2.1).

    A token that chooses one of those saves the computation; its gate weight still counts.
    """

    def __init__(self, real: Any, num_real: int):
        self.real, self.num_real = real, num_real

    def forward(self, x: Float[Tensor, "N d"], offsets: Any) -> Float[Tensor, "N d"]:
        """The rows of real experts come first."""
        xp, of_real = array_namespace(offsets), offsets[: self.num_real + 1]
        first, listed = where_true(xp.arange(x.shape[0]) < of_real[-1])
        if listed is None:
            end = len(first)
            return Concatenate.apply(self.real(x[:end], of_real), x[end:], axis=0)
        others = xp.where(listed, 0.0, 1.0)[:, None]
        return self.real(x, of_real) + x * others.astype(x.dtype)

    def one(self, e: int, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.real.one(e, x) if e < self.num_real else x


class MLPExperts(Module):
    """E networks x → W₂ act(W₁ x + b₁) + b₂, as in GShard, Switch and V-MoE.

    Args:
        activation: the Function between the two layers, :class:`ReLU` or :class:`GELU`.
    """

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        d_ff: int,
        *,
        activation: type[ReLU | GELU] = ReLU,
        rng: Random,
        dtype: Any = np.float32,
    ):
        self.activation = activation
        self.first = normal(rng, (num_experts, d_ff, d_model), d_model**-0.5, dtype)
        self.first_bias = constant(rng, (num_experts, d_ff), 0, dtype)
        self.second = normal(rng, (num_experts, d_model, d_ff), d_ff**-0.5, dtype)
        self.second_bias = constant(rng, (num_experts, d_model), 0, dtype)

    def forward(self, x: Float[Tensor, "N d"], offsets: Any) -> Float[Tensor, "N d"]:
        hidden = self.activation.apply(GroupedAffine.apply(x, self.first, self.first_bias, offsets))
        return GroupedAffine.apply(hidden, self.second, self.second_bias, offsets)

    def one(self, e: int, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        hidden = self.activation.apply(Affine.apply(x, self.first[e], self.first_bias[e]))
        return Affine.apply(hidden, self.second[e], self.second_bias[e])


KINDS: Mapping[str, Callable[..., Module]] = {
    "swiglu": SwiGLUExperts,
    "relu": partial(MLPExperts, activation=ReLU),
    "gelu": partial(MLPExperts, activation=GELU),
    "gpt_oss": GptOssExperts,
}


def make_experts(kind: str, num_experts: int, d_model: int, d_ff: int, *, rng: Random, dtype: Any, **more: Any) -> Any:
    """The experts of a kind named in :data:`KINDS`, with its settings. ValueError for another name."""
    if kind not in KINDS:
        raise ValueError(f"experts must be one of {', '.join(KINDS)}, got {kind!r}")
    return KINDS[kind](num_experts, d_model, d_ff, rng=rng, dtype=dtype, **more)
