"""Who goes where: from scores to a list of candidate assignments.

The choice is discrete. It is made on plain arrays and carries no gradient.
"""

from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from .. import kernels
from ..autodiff import decisions
from ..typing import Array, Float


@dataclass(frozen=True)
class Candidates:
    """Assignments before any is dropped: token ``token[m]`` wants expert ``expert[m]``.

    ``choice[m]`` is 0 for the token's first choice, 1 for its second, and so on. Listed token by token.
    """

    token: Any  # Int[M]
    expert: Any  # Int[M]
    choice: Any  # Int[M]


@dataclass(frozen=True)
class TopK:
    """Each token takes the k experts with the highest scores; ties go to the lowest index."""

    k: int = 2

    def validate(self, num_experts: int) -> None:
        """Raise ValueError unless 1 <= k <= num_experts."""
        if not 1 <= self.k <= num_experts:
            raise ValueError(f"top_k must be between 1 and num_experts={num_experts}, got {self.k}")

    def __call__(self, scores: Float[Array, "T E"]) -> Candidates:
        """List the k best experts of each token, best first."""
        xp = array_namespace(scores)
        num_tokens = scores.shape[0]
        chosen = kernels.of(scores).top_k(scores, self.k)
        decisions.record("top-k set", chosen, lambda t: self._explain(scores, t))
        return Candidates(
            token=xp.repeat(xp.arange(num_tokens), self.k),
            expert=chosen.reshape(-1),
            choice=xp.tile(xp.arange(self.k), (num_tokens,)),
        )

    def _explain(self, scores: Float[Array, "T E"], token: int) -> str:
        """Name the closest pair among the ranks that decide the list."""
        ranked = sorted(scores[token].tolist(), reverse=True)
        gaps = [ranked[i] - ranked[i + 1] for i in range(min(self.k, len(ranked) - 1))]
        i = gaps.index(min(gaps)) if gaps else 0
        return f"token {token}: experts ranked {i + 1} and {i + 2} differ by {gaps[i]:.0e}" if gaps else f"token {token}"
