"""Randomness that helps a router explore. It is on only while training, and the experts never see it."""

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..ops import Affine, Softplus
from ..typing import Array, Float, Random


class Noise:
    """The base class: no noise at all."""

    learned = False  # whether the router keeps a weight [E, d] for the size of the noise

    @property
    def words(self) -> str:
        """Its name in tables."""
        return type(self).__name__

    def on_input(self, x: Float[Tensor, "T d"], rng: Random) -> Float[Tensor, "T d"]:
        """The router's own view of the tokens."""
        return x

    def on_logits(
        self, h: Float[Tensor, "T E"], x: Float[Tensor, "T d"], weight: Tensor | None, rng: Random
    ) -> tuple[Float[Tensor, "T E"], Float[Tensor, "T E"] | None]:
        """The noisy logits, and σ of the noise where it is normal (for the load loss)."""
        return h, None


@dataclass(frozen=True)
class Jitter(Noise):
    """The router's input times U(1-ε, 1+ε), entry by entry (Fedus et al. 2021, section 2.4)."""

    epsilon: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"Jitter: epsilon must be in [0, 1), got {self.epsilon}")

    def on_input(self, x: Float[Tensor, "T d"], rng: Random) -> Float[Tensor, "T d"]:
        """x · u with a fresh u for every entry."""
        return x * _like(x, rng.uniform(1 - self.epsilon, 1 + self.epsilon, x.shape))


@dataclass(frozen=True)
class ShazeerNoise(Noise):
    """h′ = h + N(0, 1) · (softplus(x W_nᵀ) + ε): noise of a learned size (Shazeer et al. 2017, equation 4)."""

    epsilon: float = 1e-2
    learned = True

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"ShazeerNoise: epsilon must not be negative, got {self.epsilon}")

    def on_logits(
        self, h: Float[Tensor, "T E"], x: Float[Tensor, "T d"], weight: Tensor | None, rng: Random
    ) -> tuple[Float[Tensor, "T E"], Float[Tensor, "T E"] | None]:
        """h′ = h + n σ with σ = softplus(x W_nᵀ) + ε; returns h′ and σ, both part of the graph.

        n is one ``rng.standard_normal(h.shape)``, cast to the dtype of h; ``weight`` is W_n [E, d], ε ``self.epsilon``.
        """
        sigma = Softplus.apply(Affine.apply(x, weight, None)) + self.epsilon
        return h + sigma * _like(h, rng.standard_normal(h.shape)), sigma


@dataclass(frozen=True)
class NormalNoise(Noise):
    """h′ = h + σ N(0, 1) with a constant σ, 1/E unless given (V-MoE, Riquelme et al. 2021, section 2.1)."""

    std: float | None = None

    def __post_init__(self) -> None:
        if self.std is not None and self.std < 0:
            raise ValueError(f"NormalNoise: std must not be negative, got {self.std}")

    def on_logits(
        self, h: Float[Tensor, "T E"], x: Float[Tensor, "T d"], weight: Tensor | None, rng: Random
    ) -> tuple[Float[Tensor, "T E"], Float[Tensor, "T E"] | None]:
        std = 1 / h.shape[1] if self.std is None else self.std
        if std == 0:
            return h, None
        sigma = Tensor(array_namespace(h.data).full(h.shape, std, dtype=h.dtype))
        return h + _like(h, std * rng.standard_normal(h.shape)), sigma


@dataclass(frozen=True)
class GumbelNoise(Noise):
    """h′ = h - ln(-ln U): the arg-max of h′ is then a sample from softmax(h) (Gumbel 1954; Jang et al. 2017)."""

    def on_logits(
        self, h: Float[Tensor, "T E"], x: Float[Tensor, "T d"], weight: Tensor | None, rng: Random
    ) -> tuple[Float[Tensor, "T E"], Float[Tensor, "T E"] | None]:
        return h + _like(h, rng.gumbel(size=h.shape)), None


def _like(x: Tensor, values: Any) -> Float[Array, "..."]:
    return array_namespace(x.data).asarray(values, dtype=x.dtype)
