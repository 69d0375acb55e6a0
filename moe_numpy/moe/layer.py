"""The Mixture-of-Experts layer: route, dispatch, run the experts, combine."""

from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..nn import Module
from ..ops import GELU, ReLU
from ..typing import Float
from .dispatch import STRATEGIES
from .experts import MLPExperts, SwiGLUExperts
from .router import Router, RouterConfig, Routing

EXPERTS = ("swiglu", "relu", "gelu")


class MoE(Module):
    """y_t = Σ over the chosen experts e of w_te f_e(x_t), in place of a dense feed-forward layer.

    Args:
        d_model: width d of a token.
        d_ff: hidden width f of each expert.
        num_experts: E.
        router: a recipe from :mod:`moe_numpy.moe.recipes`, or your own :class:`RouterConfig`.
        experts: ``"swiglu"``, or two-layer networks with ``"relu"`` or ``"gelu"``.
        dispatch: ``"sorted"`` (fast) or ``"loop"`` (obvious); equal in value and gradient.
        rng: draws the weights.
        dtype: of the weights.

    Raises:
        ValueError: a setting is out of range; the message names it and what is allowed.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        num_experts: int,
        router: RouterConfig,
        *,
        experts: str = "swiglu",
        dispatch: str = "sorted",
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        for name, value in (("d_model", d_model), ("d_ff", d_ff), ("num_experts", num_experts)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if dispatch not in STRATEGIES:
            raise ValueError(f"dispatch must be one of {', '.join(STRATEGIES)}, got {dispatch!r}")
        if experts not in EXPERTS:
            raise ValueError(f"experts must be one of {', '.join(EXPERTS)}, got {experts!r}")
        self.d_model, self.dispatch = d_model, dispatch
        self.router = Router(router, d_model, num_experts, rng=rng, dtype=dtype)
        self.experts: SwiGLUExperts | MLPExperts
        if experts == "swiglu":
            self.experts = SwiGLUExperts(num_experts, d_model, d_ff, rng=rng, dtype=dtype)
        else:
            activation = ReLU if experts == "relu" else GELU
            self.experts = MLPExperts(num_experts, d_model, d_ff, activation=activation, rng=rng, dtype=dtype)

    def forward(
        self, x: Float[Tensor, "*batch d"], rng: np.random.Generator | None = None
    ) -> tuple[Float[Tensor, "*batch d"], Routing]:
        """Return the layer's output, of x's shape, and how it was routed.

        Leading axes are flattened to T tokens. ``rng`` feeds the router's noise while training.
        """
        if x.shape[-1] != self.d_model:
            raise ValueError(f"x must end in d_model={self.d_model}, got shape {x.shape}")
        tokens = x.reshape(-1, self.d_model)
        routing = self.router(tokens, rng)
        y = STRATEGIES[self.dispatch](tokens, routing, self.experts)
        return y.reshape(*x.shape), routing

    def active_parameters(self) -> int:
        """The parameters that one token meets: the router and k of the E experts."""
        of_one_expert = self.experts.num_parameters() // self.router.num_experts
        return self.router.num_parameters() + self.router.config.selection.k * of_one_expert
