"""Upcycling: a dense network becomes a Mixture of Experts that computes the same function at first.

The dense network is y = D (silu(A x) ⊙ U x), with f hidden units. Its units are cut into G parts of f / G; a sum over
parts of units is the sum over units, so y = Σ_p D_p (silu(A_p x) ⊙ U_p x). Of every part there are E copies: E G
experts, number c G + p being copy c of part p. A layer with gate weights g_n answers

    Σ over the chosen experts n of g_n s f_n(x)  =  y   if   s Σ over the chosen copies of part p of g = 1   for every p

so two things are needed: every token meets every part equally often, and s is one over the sum of the gate weights.

- **The choice.** The router's rows of all parts of a copy are equal ("virtual groups", He et al. 2024, section 2.3),
  and so are their logits. A token that takes k G experts takes all parts of its best k copies. Ties go to the lowest
  number, and parts of one copy are neighbours: a token for which all logits tie takes the first k copies whole.
- **The scale.** Where gate weights are divided by their sum, they add up to 1, to 1 / G over each part, and s = G for
  every router. Where they are raw, they add up to something known only if all logits are equal: for a softmax k / E,
  k / (E G) over each part, and s = E G / k, which is E G² / T in the paper, T = k G. The router then is
  small noise, that only breaks the ties. If the logits of a token lie within Δ of each other, its sum is between
  k / E and e^Δ k / E: the layer's answer is too large by at most e^Δ - 1.
- **Where s goes.** SwiGLU is linear in U and in D, and not in A. s = 2^a b goes into both, 2^a into U and b into D: the
  paper finds that better for training than all in D. A power of two changes no mantissa, so bfloat16 weights stay exact
  where s is one.

The sums are not looked up by the router's name: :func:`plan` asks the router itself, in float64.

Komatsuzaki et al. 2022, "Sparse Upcycling"; He et al. 2024, "Upcycling Large Language Models into Mixture of Experts",
arXiv 2410.07524, sections 2.3 and 2.3.1.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..autodiff import Tensor, no_grad
from ..typing import Array, Float, Random
from .layer import Recipe
from .router import Router, RouterConfig
from .routing import Batch

ANY_ROUTER, TIE_BREAKING = 1.0, 1e-6
"""The standard deviation of first logits, for tokens of mean square 1: where gate weights add up to a constant whatever
the logits are, that of a new router; elsewhere noise that changes a sum in the sixth digit."""

_PROBED = 256  # random tokens
_CONSTANT = 1e-9  # relative; of sums in float64


@dataclass(frozen=True)
class Upcycling:
    """How a dense network becomes experts.

    Attributes:
        recipe: of the layer.
        copies: E, of each part.
        granularity: G, the number of parts.
        per_token: experts per token, k G.
        scale: s above.
        input_scale: of A and U where the gate weight scales what an expert sees, 1 / g; 1 elsewhere.
        any_router: whether the sum of the gate weights does not depend on the logits.
        noise: standard deviation of first logits.
        drift: the largest |s Σ g - 1| of 256 random tokens with this noise.
    """

    recipe: Recipe
    copies: int
    granularity: int
    per_token: int
    scale: float
    input_scale: float
    any_router: bool
    noise: float
    drift: float

    @property
    def num_experts(self) -> int:
        """E G."""
        return self.copies * self.granularity

    @property
    def scales(self) -> tuple[float, float]:
        """What U and D are multiplied by: the power of two that is next to √s, and the rest of s."""
        power = 2.0 ** round(math.log2(self.scale) / 2)
        return power, self.scale / power

    def experts(
        self, gate: Float[Array, "f d"], up: Float[Array, "f d"], down: Float[Array, "d f"]
    ) -> dict[str, Float[Array, "..."]]:
        """The matrices of all experts, in the type of those of the dense network y = D (silu(A x) ⊙ U x).

        There are G = ``self.granularity`` parts and E = ``self.copies`` copies. Part p has the hidden units p f/G ...
        (p + 1) f/G - 1: these rows of A and U, these columns of D. Expert c G + p is copy c of part p. U is multiplied
        by the first of ``self.scales``, D by the second; A and U by ``self.input_scale`` as well.

        Args:
            gate: A.
            up: U.
            down: D.

        Returns:
            ``gate_up`` [E G, 2 f / G, d], of each expert the rows of A above those of U, and ``down`` [E G, d, f / G].

        Raises:
            ValueError: G does not divide f.
        """
        (f, d), parts = gate.shape, self.granularity
        if f % parts:
            raise ValueError(f"granularity must divide d_ff={f}, the hidden units of the dense network, got {parts}")
        up_scale, down_scale = self.scales
        a = (gate * gate.dtype.type(self.input_scale)).reshape(parts, f // parts, d)
        u = (up * up.dtype.type(self.input_scale * up_scale)).reshape(parts, f // parts, d)
        back = (down * down.dtype.type(down_scale)).reshape(d, parts, f // parts).swapaxes(0, 1)
        return {
            "gate_up": np.tile(np.concatenate([a, u], axis=1), (self.copies, 1, 1)),
            "down": np.tile(back, (self.copies, 1, 1)),
        }

    def router(self, d_model: int, rng: Random, dtype: Any) -> Float[Array, "EG d"]:
        """W_g: a random row for each copy, the same for all its parts."""
        rows = rng.normal(0, self.noise * d_model**-0.5, (self.copies, d_model)).astype(dtype)
        return np.repeat(rows, self.granularity, axis=0)

    def layer(
        self,
        gate: Float[Array, "f d"],
        up: Float[Array, "f d"],
        down: Float[Array, "d f"],
        rng: Random,
        reinitialise: float = 0.0,
    ) -> dict[str, Float[Array, "..."]]:
        """All parameters and buffers of the layer by the names that :class:`moe_numpy.moe.MoE` gives them.

        Shared experts answer 0 at first: their ``down`` is zero.

        Args:
            gate, up, down: of the dense network.
            rng: draws the router, shared experts, and what is drawn anew.
            reinitialise: the share of each expert's hidden units to draw anew, see :func:`reinitialised`.
        """
        d, dtype, recipe = gate.shape[1], gate.dtype, self.recipe
        assert recipe.router is not None
        experts = self.experts(gate, up, down)
        if reinitialise:
            experts = reinitialised(**experts, share=reinitialise, rng=rng)
        arrays = {f"experts.{name}": array for name, array in experts.items()}
        arrays["router.weight"] = self.router(d, rng, dtype)
        if recipe.router.bias:
            arrays["router.bias"] = np.zeros(self.num_experts, dtype)
        if recipe.router.noise is not None and recipe.router.noise.learned:
            arrays["router.noise_weight"] = np.zeros((self.num_experts, d), dtype)
        if recipe.router.balancer is not None:
            arrays["router.balancer_state"] = recipe.router.balancer.initial(self.num_experts)
        width = recipe.shared_width(gate.shape[0] // self.granularity)
        if width:
            for name in ("gate", "up"):
                arrays[f"shared.{name}.weight"] = rng.normal(0, d**-0.5, (width, d)).astype(dtype)
            arrays["shared.down.weight"] = np.zeros((d, width), dtype)
            if recipe.shared_bias:
                of_width = {"gate": width, "up": width, "down": d}
                arrays |= {f"shared.{name}.bias": np.zeros(size, dtype) for name, size in of_width.items()}
        if recipe.gated_shared:
            arrays["shared_gate.weight"] = np.zeros((1, d), dtype)
        return arrays


def plan(recipe: Recipe, copies: int, granularity: int = 1, noise: float | None = None) -> Upcycling:
    """How a dense network becomes a layer of this recipe, with E = ``copies`` of each of G = ``granularity`` parts.

    Args:
        recipe: it chooses k G experts per token.
        copies: E.
        granularity: G.
        noise: standard deviation of first logits; None is 1 where any router will do, 1e-6 elsewhere.

    Raises:
        ValueError: the layer cannot compute the function of the dense network; the message says why.
    """
    for name, value in (("num_experts", copies), ("granularity", granularity)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if noise is not None and not 0 <= noise < math.inf:
        raise ValueError(f"noise must be at least 0 and finite, got {noise}")
    config = _of_tokens(recipe, copies * granularity)
    rng, shape = np.random.default_rng(0), (_PROBED, copies)
    tied, random = np.zeros((1, copies)), rng.standard_normal(shape)
    (at_zero,), shares = (_sums(config, np.repeat(h, granularity, axis=1), granularity) for h in (tied, random))
    uneven = np.ptp(shares, axis=1).max() > _CONSTANT * np.abs(shares).max() or np.ptp(at_zero) > _CONSTANT
    if uneven:
        raise ValueError(
            f"a token does not meet each of the {granularity} parts equally often: {config.selection.words} of "
            f"{copies * granularity} experts; experts per token must be a multiple of granularity={granularity}"
        )
    if not at_zero[0] > 0:
        raise ValueError("the gate weights of a token whose logits are all 0 add up to 0: there is nothing to scale")
    share, per_token = float(at_zero[0]), round(config.per_token(copies * granularity))
    any_router = bool(np.abs(shares / share - 1).max() < _CONSTANT)
    noise = (ANY_ROUTER if any_router else TIE_BREAKING) if noise is None else noise
    drifting = _sums(config, np.repeat(noise * random, granularity, axis=1), granularity)
    drift = float(np.abs(drifting / share - 1).max())
    met = per_token / granularity
    on_input = config.gate_on == "input"
    return Upcycling(
        recipe=recipe,
        copies=copies,
        granularity=granularity,
        per_token=per_token,
        scale=1 / met if on_input else 1 / share,
        input_scale=met / share if on_input else 1.0,
        any_router=any_router,
        noise=noise,
        drift=0.0 if any_router else drift,
    )


def reinitialised(
    gate_up: Float[Array, "E two_f d"], down: Float[Array, "E d f"], share: float, rng: Random
) -> dict[str, Float[Array, "..."]]:
    """Draw a share of each expert's hidden units anew, so that the copies differ; the function changes.

    The rows of A and U and the columns of D of these units come from normal distributions with the mean and standard
    deviation of the entries that they replace, each matrix with its own. Nakamura et al. 2025, "Drop-Upcycling",
    arXiv 2502.19261, section 3; they find a share of 0.5 best for long training.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of units to draw anew must be between 0 and 1, got {share}")
    gate_up, down, f = gate_up.copy(), down.copy(), down.shape[2]
    for of_expert, back in zip(gate_up, down, strict=True):
        units = rng.permutation(f)[: round(share * f)]
        for part in (of_expert[:f], of_expert[f:], back.T):
            old = part[units]
            if old.size:
                part[units] = rng.normal(old.mean(), old.std(), old.shape).astype(old.dtype)
    return {"gate_up": gate_up, "down": down}


def _of_tokens(recipe: Recipe, num_experts: int) -> RouterConfig:
    """The router, without a capacity that drops nothing. ValueError for what no copy of a dense network can equal."""
    config = recipe.router
    if config is None:
        raise ValueError("experts of Soft MoE see means of tokens, and f of a mean is not the mean of f")
    if recipe.groups:
        raise ValueError("a tree of routers is not supported")
    if recipe.pools:
        raise ValueError("pools of experts by modality are not supported")
    if recipe.zero_experts:
        raise ValueError("experts that return their input are no copies of the dense network")
    if recipe.experts != "swiglu":
        raise ValueError(f"its experts are {recipe.experts} networks, and the dense one is swiglu")
    if not config.selection.causal:
        raise ValueError(f"{config.selection.words}: how many experts a token gets depends on the other tokens")
    if not config.selection.fixed:
        raise ValueError(f"{config.selection.words}: how many experts a token gets depends on its logits")
    config.selection.validate(num_experts)
    if config.capacity is not None:
        per_place = 1 if config.capacity.rounding.endswith("without_k") else config.per_token(num_experts)
        enough = num_experts / per_place
        least = min(f for f in (config.capacity.factor, config.capacity.eval_factor) if f is not None)
        if least < enough:
            raise ValueError(
                f"capacity_factor={least:g} may drop tokens, which get nothing from an expert then; from "
                f"{enough:g} on, or without a capacity, none is dropped"
            )
    return replace(config, capacity=None)


def _sums(config: RouterConfig, logits: Float[Array, "T EG"], granularity: int) -> Float[Array, "T G"]:
    """The sum of the gate weights that each token gives to the copies of each part, in evaluation."""
    num_tokens, num_experts = logits.shape
    router = Router(config, num_experts, num_experts, rng=np.random.default_rng(0), dtype=np.float64)
    router.weight.data = np.eye(num_experts)  # its input then is the logits
    ids = np.zeros(num_tokens, np.int64)  # for hashing, which asks for them
    with no_grad():
        routing = router(Tensor(logits), Batch(num_tokens, token_ids=ids))
    given = np.zeros((num_tokens, num_experts))
    np.add.at(given, (routing.token, routing.expert), routing.gate.data)
    return given.reshape(num_tokens, -1, granularity).sum(axis=1)
