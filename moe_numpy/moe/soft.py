"""Soft MoE: experts process mixtures of tokens instead of choosing among them (Puigcerver et al. 2023)."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..nn import Module
from ..nn.module import normal
from ..nn.padding import padding_of
from ..nn.sizes import require_sizes
from ..ops import Affine, Cast, MatMul, Reshape, Softmax, Transpose, Where
from ..ops.arithmetic import at_least_float32
from ..parallel import Holding
from ..typing import Array, Bool, Float, Random
from .exchanged import exchanged
from .experts import make_experts


class SoftMoE(Module):
    """h = X Φᵀ, dispatch = softmax of h over tokens, combine = softmax of h over slots; Y = combine f(dispatchᵀ X).

    Algorithm 1; the paper calls the two weights D and C. Each slot of each expert takes a weighted mean of all tokens
    of a sequence and gives its answer back to all of them. Nothing is chosen, so nothing is dropped and everything is
    differentiable. Every token sees every other, so it is not causal.

    Args:
        d_model: width d of a token.
        d_ff: hidden width of each expert.
        num_experts: E.
        slots: per expert. E · slots = S, the sequence length, costs as much as a dense layer.
        experts: kind of expert, see :class:`moe_numpy.moe.MoE`.
        rng: draws the weights.
        dtype: of the weights.
    """

    router = None

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        num_experts: int,
        slots: int = 1,
        *,
        experts: str = "swiglu",
        rng: Random,
        dtype: Any = np.float32,
    ):
        require_sizes(d_model=d_model, d_ff=d_ff, num_experts=num_experts, slots=slots)
        self.d_model, self.num_experts, self.slots = d_model, num_experts, slots
        self.holding: Holding | None = None
        self.phi = normal(rng, (num_experts * slots, d_model), d_model**-0.5, dtype)
        self.experts = make_experts(experts, num_experts, d_model, d_ff, rng=rng, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "B S d"],
        rng: Random | None = None,
        token_ids: Any = None,
        mask: Bool[Any, "B S"] | None = None,
    ) -> tuple[Float[Tensor, "B S d"], None]:
        """Mix within each sequence. There is no routing to report; ``rng`` and ``token_ids`` are not used.

        ``mask`` is True for real tokens; the others are in no slot, and get zeros.
        """
        if x.ndim != 3 or x.shape[2] != self.d_model or x.shape[1] == 0:
            raise ValueError(
                f"x must be [B, S, d_model={self.d_model}] with at least one token in a sequence, got shape {x.shape}"
            )
        padding = padding_of(mask, x.shape[:2])
        if padding is not None:
            x = padding.restore(padding.remove(x))  # zeros
        batch, _, d = x.shape
        n = self.num_experts * self.slots
        x_and_phi = at_least_float32(x), at_least_float32(self.phi)
        mixed, combine = fill_slots(*x_and_phi) if padding is None else fill_slots_among(*x_and_phi, padding.mask)
        # Experts need their rows together: slot by slot of all sequences, then back.
        rows = Reshape.apply(Transpose.apply(mixed, axes=(1, 0, 2)), shape=(n * batch, d))
        offsets = array_namespace(rows.data).arange(self.num_experts + 1) * (self.slots * batch)
        answers = Reshape.apply(self._answers(Cast.apply(rows, dtype=x.dtype), offsets), shape=(n, batch, d))
        y = MatMul.apply(combine, at_least_float32(Transpose.apply(answers, axes=(1, 0, 2))))
        y = Cast.apply(y, dtype=x.dtype)
        return y if padding is None else padding.restore(padding.remove(y)), None

    def _answers(self, rows: Float[Tensor, "N d"], offsets: Any) -> Float[Tensor, "N d"]:
        """Of the experts, wherever they are."""
        if self.holding is None:
            y: Tensor = self.experts(rows, offsets)
            return y
        xp = array_namespace(offsets)
        expert = xp.repeat(xp.arange(self.num_experts), rows.shape[0] // self.num_experts)
        return exchanged(rows, expert, xp.arange(rows.shape[0]), 0, self.experts, self.holding)[0]

    def active_parameters(self) -> int:
        """All of them: every token takes part in every slot."""
        return self.num_parameters()


def fill_slots(
    x: Float[Tensor, "B S d"], phi: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "B n d"], Float[Tensor, "B S n"]]:
    """What each slot holds, dispatchᵀ X, and the weights, combine, by which tokens read the slots' answers.

    For each sequence X [S, d] of the batch: h = X Φᵀ [S, n]; dispatch = softmax of h over the S tokens, so that a
    slot is a weighted mean of tokens; combine = softmax of h over the n slots, so that a token gets a weighted mean of
    answers.
    """
    h = Affine.apply(x, phi, None)
    dispatch, combine = Softmax.apply(h, axis=1), Softmax.apply(h, axis=2)
    return MatMul.apply(Transpose.apply(dispatch, axes=(0, 2, 1)), x), combine


def fill_slots_among(
    x: Float[Tensor, "B S d"], phi: Float[Tensor, "n d"], real: Bool[Array, "B S"]
) -> tuple[Float[Tensor, "B n d"], Float[Tensor, "B S n"]]:
    """:func:`fill_slots`, with dispatch among the real tokens only; over all zeros where a sequence has none."""
    h = Affine.apply(x, phi, None)
    xp = array_namespace(h.data)
    seen = xp.asarray(real | ~real.any(axis=1, keepdims=True))
    dispatch = Softmax.apply(Where.apply(seen[:, :, None], h, -xp.inf), axis=1)
    return MatMul.apply(Transpose.apply(dispatch, axes=(0, 2, 1)), x), Softmax.apply(h, axis=2)
