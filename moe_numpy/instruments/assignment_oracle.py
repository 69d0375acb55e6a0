"""How good are the ways to balance? Each is scored against the optimal balanced assignment."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..autodiff import Tensor, no_grad
from ..moe import Batch, Router, RouterConfig
from ..moe.assignment import BalancedAssignment, Sinkhorn
from ..moe.balancers import LossFreeBias, QuantileBalancing
from ..moe.selection import TopK
from ..typing import Array, Bool, Float
from .text_table import text_table


@dataclass(frozen=True)
class AssignmentScore:
    """One way to assign tokens to experts.

    Attributes:
        method: its name.
        objective: Σ of the scores of all chosen pairs.
        gain: 0 is what assigning at random gets on average, 1 the optimum. Above 1 is possible only by giving an
            expert more than its share.
        imbalance: the largest load divided by the mean load; 1 is perfect.
        overflow: assignments beyond the share ⌈kT/E⌉ of their experts, as a fraction of all.
    """

    method: str
    objective: float
    gain: float
    imbalance: float
    overflow: float


@dataclass(frozen=True)
class AssignmentScores:
    """The answer of :func:`score_assignments`: the optimum first."""

    num_tokens: int
    num_experts: int
    top_k: int
    rows: tuple[AssignmentScore, ...]

    def __getitem__(self, method: str) -> AssignmentScore:
        return {row.method: row for row in self.rows}[method]

    def as_json(self) -> dict[str, Any]:
        """Numbers and strings only."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            [r.method, f"{r.objective:.4g}", f"{100 * r.gain:.1f} %", f"{r.imbalance:.2f}", f"{100 * r.overflow:.1f} %"]
            for r in self.rows
        ]
        head = f"T={self.num_tokens} E={self.num_experts} k={self.top_k}"
        return text_table([head, "objective", "gain", "max/mean load", "over share"], rows)


@no_grad()
def score_assignments(
    scores: Float[Array, "T E"],
    k: int = 1,
    *,
    updates: Sequence[int] = (1, 10, 100),
    bias_rate: float = 0.01,
    ema: float = 0.9,
) -> AssignmentScores:
    """Score greedy top-k, Sinkhorn, BASE (k = 1), loss-free bias and quantile balancing on one batch.

    The last two adapt: they see the same batch repeatedly, once per update.

    Args:
        scores: of every token for every expert. They serve as logits: Sinkhorn balances exp(scores).
        k: experts per token.
        updates: after how many updates to score bias and quantiles, in ascending order.
        bias_rate: γ of the loss-free bias, in units of the scores.
        ema: how slowly quantile balancing moves.

    Raises:
        ValueError: ``k`` is not in 1..E, or ``updates`` do not ascend.
    """
    if list(updates) != sorted(set(updates)) or any(n < 0 for n in updates):
        raise ValueError(f"updates must ascend from 0 or more, got {tuple(updates)}")
    scores = np.asarray(scores, dtype=np.float64)
    optimum = optimal_top_k(scores, k)
    at_random = k * len(scores) * scores.mean()
    best = scores[optimum].sum()

    def score(method: str, chosen: Any) -> AssignmentScore:
        load, share = chosen.sum(axis=0), -(-k * len(scores) // scores.shape[1])
        objective = float(scores[chosen].sum())
        gain = (objective - at_random) / (best - at_random) if best > at_random else 1.0
        overflow = np.maximum(load - share, 0).sum() / load.sum()
        return AssignmentScore(method, objective, float(gain), float(load.max() / load.mean()), float(overflow))

    rows = [score("optimum", optimum), score("greedy", _chosen(scores, TopK(k)))]
    rows.append(score("sinkhorn", _chosen(scores, Sinkhorn(k))))
    if k == 1:
        rows.append(score("base", _chosen(scores, BalancedAssignment())))
    for name, balancer in (("bias", LossFreeBias(bias_rate)), ("quantile", QuantileBalancing(k, ema))):
        done, router = 0, _router(scores, RouterConfig(TopK(k), scores=None, gates=(), balancer=balancer))
        for n in updates:
            for _ in range(n - done):
                _route(router, scores)
                router.after_step()
            done = n
            rows.append(score(f"{name}, {n} update{'s' * (n != 1)}", _route(router, scores)))
    return AssignmentScores(len(scores), scores.shape[1], k, tuple(rows))


def optimal_top_k(scores: Float[Array, "T E"], k: int) -> Bool[Array, "T E"]:
    """The k experts per token with the largest Σ of scores, at most ⌈kT/E⌉ tokens per expert.

    Exact, by scipy's linear-sum assignment. Its rows are the pairs (t, e), so no token can get an expert twice.
    A pair takes either a place of its expert, worth its score, or one of the E - k refusals of its token, worth 0.
    Rows without a pair fill the places that stay empty. T = 128 and E = 8 take about a second.

    Raises:
        ValueError: ``k`` is not in 1..E.
    """
    from scipy.optimize import linear_sum_assignment

    num_tokens, num_experts = scores.shape
    if not 1 <= k <= num_experts:
        raise ValueError(f"top_k must be between 1 and num_experts={num_experts}, got {k}")
    share = -(-k * num_tokens // num_experts)
    num_pairs, num_places = num_tokens * num_experts, num_experts * share
    value = np.full((num_places + num_tokens * (num_experts - k),) * 2, -np.inf)
    value[num_pairs:, :num_places] = 0
    for pair, (t, e) in enumerate(np.ndindex(num_tokens, num_experts)):
        value[pair, e * share : (e + 1) * share] = scores[t, e]
        refusals = num_places + t * (num_experts - k)
        value[pair, refusals : refusals + num_experts - k] = 0
    _, column = linear_sum_assignment(value, maximize=True)
    return (column[:num_pairs] < num_places).reshape(num_tokens, num_experts)


def _router(scores: Any, config: RouterConfig) -> Router:
    """A router whose logits are its input."""
    num_experts = scores.shape[1]
    router = Router(config, num_experts, num_experts, rng=np.random.default_rng(0), dtype=np.float64)
    router.weight.data = np.eye(num_experts)
    return router


def _route(router: Router, scores: Any) -> Any:
    """Bool[T, E]: what the router chooses while training."""
    candidates = router(Tensor(scores), Batch(len(scores), training=True)).trace.candidates
    chosen = np.zeros(scores.shape, bool)
    chosen[candidates.token, candidates.expert] = True
    return chosen


def _chosen(scores: Any, selection: Any) -> Any:
    return _route(_router(scores, RouterConfig(selection, scores=None, gates=())), scores)
