"""Who goes where: from scores to a list of candidate assignments.

The choice is discrete. It is made on plain arrays and carries no gradient.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_api_compat import array_namespace

from .. import kernels
from ..autodiff import decisions
from ..devices import on_host
from ..typing import Array, Bool, Float, Int, Random
from .assignment import optimal_assignment


@dataclass(frozen=True)
class Batch:
    """What a router may know about its tokens besides their vectors.

    Attributes:
        sequence_length: the T tokens are T / sequence_length sequences, one after the other.
        training: whether noise and balancing are on.
        rng: for the parts that draw random numbers while training.
        token_ids: Int[T], for hash routing.
    """

    sequence_length: int
    training: bool = False
    rng: Random | None = None
    token_ids: Any = None

    def need_rng(self, who: object) -> Random:
        """The generator, or a ValueError that names the part that needs it."""
        if self.rng is None:
            raise ValueError(f"{who} needs rng while training; pass rng=, or call eval()")
        return self.rng


@dataclass(frozen=True)
class Candidates:
    """Assignments before any is dropped: token ``token[m]`` wants expert ``expert[m]``; no pair occurs twice.

    ``choice[m]`` is 0 for the token's first choice, 1 for its second, and so on. ``sent[m]`` is False for one that
    counts when gate weights are normalised, and then goes nowhere; None stands for all True. ``by_token`` says that
    they are listed token by token.
    """

    token: Any  # Int[M]
    expert: Any  # Int[M]
    choice: Any  # Int[M]
    sent: Any = None  # Bool[M]
    by_token: bool = False

    def listed_by_token(self, num_tokens: int) -> "Candidates":
        """The same, token by token; those of one token stay in order."""
        if self.by_token:
            return self
        order = kernels.of(self.token).stable_order(self.token, max(num_tokens, 1))
        sent = None if self.sent is None else self.sent[order]
        return Candidates(self.token[order], self.expert[order], self.choice[order], sent, by_token=True)

    def only_sent(self, index: Any) -> "Candidates":
        """Those at the places ``index``, which ascend; all of them sent."""
        return Candidates(self.token[index], self.expert[index], self.choice[index], by_token=self.by_token)


def true_and_false(mask: Bool[Array, " M"]) -> tuple[Int[Array, " N"], Int[Array, " D"]]:
    """The indices where the mask holds, and those where it does not, each in ascending order.

    How many there are decides the shapes of what follows, so that one number has to come to the host.
    """
    k = kernels.of(mask)
    order = k.stable_order((~mask).astype(np.int64), 2)
    num_true = int(k.to_host(mask.sum()))
    return order[:num_true], order[num_true:]


@runtime_checkable
class Selection(Protocol):
    """A rule that turns scores [T, E] into candidates."""

    @property
    def causal(self) -> bool:
        """Whether a token's candidates depend on no later token. Dropping may still let later tokens push it out."""

    def validate(self, num_experts: int) -> None:
        """Raise ValueError, naming the setting, if the rule does not work with this many experts."""

    def per_token(self, num_experts: int) -> float:
        """How many experts a token asks for, on average: the k of capacities and of active parameters."""

    def __call__(self, scores: Any, batch: Batch) -> Candidates:
        """Choose."""


@dataclass(frozen=True)
class TopK:
    """Each token takes the k experts with the highest scores; ties go to the lowest index."""

    k: int = 2
    causal = True

    def validate(self, num_experts: int) -> None:
        """1 <= k <= num_experts."""
        _require_top_k(self.k, num_experts)

    def per_token(self, num_experts: int) -> float:
        """K."""
        return self.k

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """List the k best experts of each token, best first."""
        return top_k_candidates(scores, self.k)


@dataclass(frozen=True)
class RandomSecond:
    """Top-2, the second kept with probability min(1, 2 g₂) (Lepikhin et al. 2020, algorithm 1).

    g₂ is the second score divided by the sum of both. A second choice that is not kept goes nowhere, but the first
    is weighted as if it had gone. In evaluation the second is always kept.
    """

    k = 2
    causal = True

    def validate(self, num_experts: int) -> None:
        """At least two experts."""
        _require_top_k(2, num_experts)

    def per_token(self, num_experts: int) -> float:
        """2, the most there can be: capacities are made for it."""
        return 2

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """List both choices of each token, and send the second if the coin falls so."""
        both = top_k_candidates(scores, 2)
        if not batch.training:
            return both
        s = scores[both.token, both.expert].reshape(-1, 2)
        g2 = s[:, 1] / (s[:, 0] + s[:, 1])
        xp = array_namespace(scores)
        coin = xp.asarray(batch.need_rng(self).random(len(s)), dtype=s.dtype)
        kept = coin < 2 * g2
        decisions.record("second choices kept", kept, lambda t: f"token {t}: 2 g₂ is {float(2 * g2[t]):.6g}")
        sent = xp.stack([xp.ones_like(kept), kept], axis=1).reshape(-1)
        return replace(both, sent=sent)


@dataclass(frozen=True)
class GroupLimited:
    """Top-k among the experts of a token's best groups (DeepSeek-V2 2024, section 2.2.2; V3, section 2.1.2).

    Experts form ``num_groups`` groups of neighbours, one for each device. A group's score is its best expert
    (``"max"``, V2) or the sum of its two best (``"top2"``, V3). The other groups are excluded with -∞: with 0,
    a forbidden expert would win against a negative biased score.
    """

    k: int
    num_groups: int
    top_groups: int
    group_score: str = "top2"
    causal = True

    def validate(self, num_experts: int) -> None:
        """Groups divide the experts, and the chosen groups hold at least k of them."""
        _require_top_k(self.k, num_experts)
        if self.group_score not in ("max", "top2"):
            raise ValueError(f"group_score must be max or top2, got {self.group_score!r}")
        if self.num_groups < 1 or num_experts % self.num_groups:
            raise ValueError(f"num_groups must divide num_experts={num_experts}, got {self.num_groups}")
        if not 1 <= self.top_groups <= self.num_groups:
            raise ValueError(f"top_groups must be between 1 and num_groups={self.num_groups}, got {self.top_groups}")
        size = num_experts // self.num_groups
        if self.k > self.top_groups * size:
            raise ValueError(
                f"top_k must be at most the {self.top_groups * size} experts of {self.top_groups} groups, got {self.k}"
            )
        if self.group_score == "top2" and size < 2:
            raise ValueError(
                f"group_score top2 needs groups of at least 2 experts, got {num_experts} in {self.num_groups}"
            )

    def per_token(self, num_experts: int) -> float:
        """K."""
        return self.k

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """Score the groups, mask all but the best with -∞, take the top k of the rest, best first.

        Group g holds experts g E/G ... (g+1) E/G - 1. Its score is its largest score if ``group_score`` is ``max``, the
        sum of its two largest if ``top2``. ``self.top_groups`` groups stay. The candidates of token 0 come first.
        ``batch`` is not needed.
        """
        xp = array_namespace(scores)
        num_tokens, num_experts = scores.shape
        size = num_experts // self.num_groups
        grouped = scores.reshape(num_tokens, self.num_groups, size)
        k = kernels.of(scores)
        if self.group_score == "max":
            group_scores = grouped.max(axis=2)
        else:
            two_best = k.top_k(scores.reshape(-1, size), 2).reshape(num_tokens, self.num_groups, 2)
            group_scores = xp.take_along_axis(grouped, two_best, axis=2).sum(axis=2)
        chosen = k.top_k(group_scores, self.top_groups)
        decisions.record("top groups", chosen, lambda t: _closest_ranks(group_scores, self.top_groups, t, "groups"))
        allowed = xp.zeros(group_scores.shape, dtype=bool)
        allowed[xp.arange(num_tokens)[:, None], chosen] = True
        allowed = xp.repeat(allowed, size, axis=1)
        return top_k_candidates(xp.where(allowed, scores, -xp.inf), self.k)


@dataclass(frozen=True)
class Dense:
    """Every token goes to every expert: the mixtures of 1991."""

    causal = True

    def validate(self, num_experts: int) -> None:
        """Any number of experts will do."""

    def per_token(self, num_experts: int) -> float:
        """E."""
        return num_experts

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """List all pairs."""
        xp = array_namespace(scores)
        num_tokens, num_experts = scores.shape
        token = xp.repeat(xp.arange(num_tokens), num_experts)
        return Candidates(token, xp.tile(xp.arange(num_experts), (num_tokens,)), xp.zeros_like(token), by_token=True)


@dataclass(frozen=True)
class Threshold:
    """Each token takes the experts whose score is above a threshold: k varies (ReMoE, Wang et al. 2024)."""

    value: float = 0.0
    causal = True

    def validate(self, num_experts: int) -> None:
        """Any number of experts will do."""

    def per_token(self, num_experts: int) -> float:
        """E: all that there can be; how many there are, the scores decide."""
        return num_experts

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """List the pairs above the threshold."""
        xp = array_namespace(scores)
        above = scores > self.value
        flat = scores.reshape(-1)
        decisions.record(
            "experts above the threshold",
            above.reshape(-1),
            lambda i: (
                f"token {i // scores.shape[1]}, expert {i % scores.shape[1]}: {float(flat[i]) - self.value:.0e} above"
            ),
        )
        sent, _ = true_and_false(above.reshape(-1))
        return Candidates(sent // scores.shape[1], sent % scores.shape[1], xp.zeros_like(sent), by_token=True)


@dataclass(frozen=True)
class ExpertChoice:
    """Each expert takes the C tokens that score highest for it, C = ⌈factor · T / E⌉ (Zhou et al. 2022, equation 2).

    Load is perfectly even by construction. A token may get many experts or none, and whether it is taken
    depends on later tokens of the same set: not causal. ``scope`` is the set: the whole batch, or each sequence.
    """

    factor: float = 2.0
    scope: str = "sequence"
    causal = False

    def validate(self, num_experts: int) -> None:
        """A positive factor, a known scope."""
        if not 0 < self.factor <= num_experts:
            raise ValueError(f"capacity_factor must be in (0, num_experts={num_experts}], got {self.factor}")
        if self.scope not in ("batch", "sequence"):
            raise ValueError(f"scope must be batch or sequence, got {self.scope!r}")

    def per_token(self, num_experts: int) -> float:
        """The factor: experts per token on average."""
        return self.factor

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """List, for each expert of each sequence, the tokens that it takes, best first.

        L tokens are a set: ``batch.sequence_length`` of them, or all T if ``self.scope`` is ``batch``. In each set
        each expert takes the C = min(L, ⌈factor · L / E⌉) tokens of the largest scores; ties go to the earlier token.
        The list goes through the sets, in each set through the experts. Tokens are counted from 0 to T - 1 over the
        whole batch. A candidate is nobody's second choice: ``choice`` is 0.
        """
        xp = array_namespace(scores)
        num_tokens, num_experts = scores.shape
        length = num_tokens if self.scope == "batch" else batch.sequence_length
        if num_tokens == 0:
            nobody = xp.arange(0)
            return Candidates(nobody, nobody, nobody)
        capacity = min(length, int(np.ceil(self.factor * length / num_experts - 1e-9)))
        # One row for each expert of each sequence, over the tokens of the sequence.
        rows = scores.reshape(-1, length, num_experts).swapaxes(1, 2).reshape(-1, length)
        chosen = kernels.of(scores).top_k(rows, capacity)
        decisions.record(
            "tokens taken by each expert", chosen, lambda r: _closest_ranks(rows, capacity, r, "tokens", "expert row")
        )
        first = xp.arange(rows.shape[0]) // num_experts * length
        expert = xp.repeat(xp.arange(rows.shape[0]) % num_experts, capacity)
        token = (chosen + first[:, None]).reshape(-1)
        return Candidates(token, expert, xp.zeros(token.shape, dtype=token.dtype))


@dataclass(frozen=True)
class Hash:
    """expert = table[token id]: a fixed random table, balanced over ids; only the experts learn (Roller et al. 2021).

    The score of the chosen expert still weighs its answer, unless the weights say otherwise. Ids on a GPU are trusted
    to be below ``vocab_size``: looking at them would wait for it.
    """

    vocab_size: int = 256
    seed: int = 0
    causal = True

    def validate(self, num_experts: int) -> None:
        """Any number of experts will do."""
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {self.vocab_size}")

    def per_token(self, num_experts: int) -> float:
        """1."""
        return 1

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """Look every token up."""
        if batch.token_ids is None:
            raise ValueError("hash routing needs the token ids; pass token_ids=")
        xp = array_namespace(scores)
        num_tokens, num_experts = scores.shape
        ids = batch.token_ids.reshape(-1)
        if on_host(ids) and ids.size and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise ValueError(
                f"token_ids must be in [0, vocab_size={self.vocab_size}), got values from {ids.min()} to {ids.max()}"
            )
        table = np.random.default_rng(self.seed).permutation(self.vocab_size) % num_experts
        token = xp.arange(num_tokens)
        expert = xp.asarray(table)[ids]
        return Candidates(token, expert, xp.zeros_like(token), by_token=True)


@dataclass(frozen=True)
class Sinkhorn:
    """Top-k of a matrix that Sinkhorn iterations have balanced (Clark et al. 2022; the router of Megatron-LM).

    Rows and columns of exp(h) are scaled in turn until every token weighs 1/T and every expert 1/E. Only while
    training: it looks at the whole batch. In evaluation a token takes its best experts.
    """

    k: int = 1
    tolerance: float = 1e-4
    causal = False

    def validate(self, num_experts: int) -> None:
        """1 <= k <= num_experts."""
        _require_top_k(self.k, num_experts)

    def per_token(self, num_experts: int) -> float:
        """K."""
        return self.k

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """Balance in training, then choose."""
        if batch.training and len(scores):
            scores = sinkhorn(scores, self.tolerance)
        return top_k_candidates(scores, self.k)


def sinkhorn(h: Float[Array, "T E"], tolerance: float = 1e-4, max_iterations: int = 1000) -> Float[Array, "T E"]:
    """a_t exp(h_te) b_e with a, b such that every row sums to 1/T and every column to 1/E.

    Stops when b changes by less than ``tolerance`` on average.
    """
    xp, k = array_namespace(h), kernels.of(h)
    num_tokens, num_experts = h.shape
    cost = xp.exp(h - h.max(axis=1, keepdims=True))  # a takes the factor back, and no row underflows to zero
    b = xp.ones(num_experts, dtype=h.dtype)
    for _ in range(max_iterations):
        a = 1 / (num_tokens * (cost @ b) + 1e-30)
        before, b = b, 1 / (num_experts * (a @ cost) + 1e-30)
        change, size = k.to_host(xp.stack([xp.abs(b - before).mean(), b.mean()])).tolist()
        if change <= tolerance * size:
            break
    return a[:, None] * cost * b


@dataclass(frozen=True)
class BalancedAssignment:
    """One expert for each token, every expert the same number, the sum of scores the largest possible.

    BASE layers (Lewis et al. 2021, equation 2). Only while training: it looks at the whole batch. Solved exactly, by
    :func:`optimal_assignment`: each expert has ⌈T / E⌉ places. In evaluation a token takes its best expert.
    """

    causal = False

    def validate(self, num_experts: int) -> None:
        """Any number of experts will do."""

    def per_token(self, num_experts: int) -> float:
        """1."""
        return 1

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """Assign in training, choose greedily in evaluation."""
        xp = array_namespace(scores)
        if not batch.training:
            return top_k_candidates(scores, 1)
        token = xp.arange(scores.shape[0])
        expert = xp.asarray(optimal_assignment(kernels.of(scores).to_host(scores)))
        decisions.record("balanced assignment", expert, lambda t: f"token {t}: assigned to expert {int(expert[t])}")
        return Candidates(token, expert, xp.zeros_like(token), by_token=True)


def top_k_candidates(scores: Float[Array, "T E"], k: int) -> Candidates:
    """The k best experts of each token, best first, and the decision recorded."""
    chosen = kernels.of(scores).top_k(scores, k)
    decisions.record("top-k set", chosen, lambda t: _closest_ranks(scores, k, t, "experts"))
    token, choice = kernels.of(scores).k_choices(scores.shape[0], k)
    return Candidates(token, chosen.reshape(-1), choice, by_token=True)


def _closest_ranks(scores: Float[Array, "rows n"], k: int, row: int, what: str, who: str = "token") -> str:
    """Name the two neighbouring ranks, among those that decide the list, whose scores are closest."""
    ranked = sorted(scores[row].tolist(), reverse=True)
    gaps = [ranked[i] - ranked[i + 1] for i in range(min(k, len(ranked) - 1))]
    if not gaps:
        return f"{who} {row}: only one of the {what} to choose"
    i = gaps.index(min(gaps))
    return f"{who} {row}: {what} ranked {i + 1} and {i + 2} differ by {gaps[i]:.0e}"


def _require_top_k(k: int, num_experts: int) -> None:
    if not 1 <= k <= num_experts:
        raise ValueError(f"top_k must be between 1 and num_experts={num_experts}, got {k}")
