"""Selections that balance a whole batch: Sinkhorn's iterations, and the optimal assignment of BASE layers."""

import itertools
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import decisions
from ..kernels import to_host
from ..typing import Array, Bool, Float, Int, Shaped
from .routing import Batch, Candidates
from .selection import FixedK, Selection, top_k_candidates


@dataclass(frozen=True)
class Sinkhorn(FixedK):
    """Top-k of a matrix that Sinkhorn iterations have balanced (Clark et al. 2022; the router of Megatron-LM).

    Rows and columns of exp(h) are scaled in turn until every token weighs 1/T and every expert 1/E. Only while
    training, since it looks at the whole batch; in evaluation a token takes its best experts.
    """

    k: int = 1
    tolerance: float = 1e-4
    causal = False

    @property
    def words(self) -> str:
        return f"Sinkhorn, top-{self.k}"

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        if batch.training and len(scores):
            scores = sinkhorn(scores, self.tolerance)
        return top_k_candidates(scores, self.k)


def sinkhorn(h: Float[Array, "T E"], tolerance: float = 1e-4, max_iterations: int = 1000) -> Float[Array, "T E"]:
    """a_t exp(h_te) b_e with a, b such that every row sums to 1/T and every column to 1/E.

    Stops when b changes by less than ``tolerance`` on average.
    """
    xp = array_namespace(h)
    num_tokens, num_experts = h.shape
    cost = xp.exp(h - h.max(axis=1, keepdims=True))  # a undoes the shift; without it a row could underflow to zero
    b = xp.ones(num_experts, dtype=h.dtype)
    for _ in range(max_iterations):
        a = 1 / (num_tokens * (cost @ b) + 1e-30)
        before, b = b, 1 / (num_experts * (a @ cost) + 1e-30)
        change, size = to_host(xp.stack([xp.abs(b - before).mean(), b.mean()])).tolist()
        if change <= tolerance * size:
            break
    return a[:, None] * cost * b


@dataclass(frozen=True)
class BalancedAssignment(Selection):
    """One expert per token, every expert the same number of tokens, the sum of scores as large as possible.

    BASE layers (Lewis et al. 2021, equation 2). Only while training, since it looks at the whole batch; in evaluation a
    token takes its best expert. Solved exactly by :func:`optimal_assignment`: each expert has ⌈T / E⌉ places.
    """

    causal = False
    words = "assignment"

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        xp = array_namespace(scores)
        if not batch.training:
            return top_k_candidates(scores, 1)
        token = xp.arange(scores.shape[0])
        expert = xp.asarray(optimal_assignment(to_host(scores)))
        decisions.record("balanced assignment", expert, lambda t: f"token {t}: assigned to expert {int(expert[t])}")
        return Candidates(token, expert, xp.zeros_like(token), by_token=True)


def optimal_assignment(scores: Shaped[Array, "T E"]) -> Int[Array, " T"]:
    """The expert of each token that maximises Σ_t scores[t, expert_t], at most C = ⌈T/E⌉ tokens for each expert.

    A market: each expert has a price π, and each token goes where s_te - π_e is largest. Prices at which every
    expert gets C tokens prove that no assignment is better: they minimise the dual Σ_t max_e(s_te - π_e) + C Σ_e π_e.

    1. Start from the prices for a quarter of the tokens, found in the same way.
    2. Each expert in turn adjusts its price: :func:`adjusted`. Most tokens are then in their final place.
    3. Move the others along cheapest paths from expert to expert until no expert has more than C: :func:`balanced`.

    The last step makes it exact, up to rounding; the others make it fast: T = 2048 and E = 16 take a few milliseconds.
    If all scores are equal, the first C tokens go to expert 0, the next C to expert 1, and so on.

    Raises:
        ValueError: a score is not finite.
    """
    num_tokens, num_experts = scores.shape
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite for a balanced assignment")
    if num_tokens == 0 or num_experts == 1:
        return np.zeros(num_tokens, dtype=np.int64)
    # Fewer than E tokens without a preference fill the remaining places, so that every expert gets exactly C.
    s = np.zeros((num_experts, -(-num_tokens // num_experts) * num_experts))
    s[:, :num_tokens] = scores.T
    expert, _ = _solved(s)
    return expert[:num_tokens]


def _solved(s: Float[Array, "E T"]) -> tuple[Int[Array, " T"], Float[Array, " E"]]:
    """The best assignment, and the prices that prove it; E divides T."""
    num_experts, num_tokens = s.shape
    prices = np.zeros(num_experts)
    if num_tokens >= 32 * num_experts:
        quarter = s[:, ::4][:, : num_tokens // (4 * num_experts) * num_experts]
        _, prices = _solved(np.ascontiguousarray(quarter))
    return balanced(s, adjusted(s, prices))


def adjusted(s: Float[Array, "E T"], prices: Float[Array, " E"]) -> Float[Array, " E"]:
    """One round of coordinate descent on the dual: each expert in turn sets the price at which C = T/E tokens want it.

    π_e lies halfway between the C-th and the next largest of s_et - max_{i≠e}(s_it - π_i). Such rounds alone are not
    enough: with nearly equal tokens the descent becomes very slow, or stops before the minimum.
    """
    capacity = s.shape[1] // len(s)
    prices = prices.copy()
    gain = s - prices[:, None]
    for e in range(len(s)):
        gain[e] = -np.inf
        bids = np.partition(s[e] - gain.max(axis=0), (-capacity - 1, -capacity))
        prices[e] = (bids[-capacity - 1] + bids[-capacity]) / 2
        gain[e] = s[e] - prices[e]
    return prices


def balanced(s: Float[Array, "E T"], prices: Float[Array, " E"]) -> tuple[Int[Array, " T"], Float[Array, " E"]]:
    """The best assignment that gives every expert C = T/E tokens, and the prices that prove it, from any prices.

    Successive shortest paths for the transportation problem (Ahuja, Magnanti and Orlin 1993, Network Flows, section
    9.7), on the E experts instead of T + E nodes. Tokens begin where s_et - π_e is largest. To move token t from i to j
    costs (s_it - π_i) - (s_jt - π_j) >= 0; the edge from i to j is the cheapest such move. Of all paths from an expert
    with too many tokens to one with too few, take the cheapest, and move one token along each of its edges. First the
    price of each expert falls by the cost of the cheapest path to it. Then the edges of the path cost 0, no edge costs
    less than 0, and so every token remains where s_et - π_e is largest.

    Of equal tokens the last move, to the last of equally near experts.
    """
    num_experts = len(s)
    capacity = s.shape[1] // num_experts
    expert = (s - prices[:, None]).argmax(axis=0)
    load = np.bincount(expert, minlength=num_experts)
    loss = np.empty((num_experts, num_experts))  # of the cheapest move from i to j, prices aside
    changed = list(range(num_experts))
    while load.max() > capacity:
        for i in changed:
            own = s[:, expert == i]
            loss[i] = (own[i] - own).min(axis=1, initial=np.inf)
        # Rounding can make a cost of zero negative.
        cost = np.maximum(loss - prices[:, None] + prices, 0)
        distance, previous = _cheapest_paths(cost, load > capacity)
        to_free = np.where(load < capacity, distance, np.inf)
        path = [int(np.flatnonzero(to_free == to_free.min())[-1])]
        prices = prices - distance
        while previous[path[0]] >= 0:
            path.insert(0, int(previous[path[0]]))

        moves = []
        for i, j in itertools.pairwise(path):
            own = np.flatnonzero(expert == i)
            moves.append((j, own[s[i, own] - s[j, own] == loss[i, j]]))
        # If every edge has several equal tokens, they move together.
        count = min(load[path[0]] - capacity, capacity - load[path[-1]], *(len(tokens) for _, tokens in moves))
        for j, tokens in moves:
            expert[tokens[-count:]] = j
        load[path[0]] -= count
        load[path[-1]] += count
        changed = path
    return expert, prices


def _cheapest_paths(cost: Float[Array, "E E"], start: Bool[Array, " E"]) -> tuple[Float[Array, " E"], Int[Array, " E"]]:
    """What the cheapest path from a start to each node costs, and the node before it on that path; -1 for none.

    Bellman and Ford's method, all edges at once. As no cost is negative, rounding cannot turn a path into a cycle.
    """
    distance = np.where(start, 0, np.inf)
    previous = np.full(len(cost), -1)
    while True:
        through = distance[:, None] + cost
        shorter = through.min(axis=0)
        closer = shorter < distance
        if not closer.any():
            return distance, previous
        previous[closer] = through.argmin(axis=0)[closer]
        distance[closer] = shorter[closer]
