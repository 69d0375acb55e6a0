"""Which experts each token asks for: from scores to a list of candidate assignments.

The choice is discrete. It is made on plain arrays and carries no gradient.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import decisions
from ..devices import on_host
from ..kernels import tokens_and_ranks, top_k
from ..typing import Array, Float, Int
from .routing import Batch, Candidates, true_indices


class Selection:
    """A rule that turns scores [T, E] into candidates. The base class holds the defaults.

    Attributes:
        causal: whether a token's candidates depend on no later token. Dropping may still let a later token push it out.
        fixed: whether the number of candidates does not depend on the scores.
        scope: ``batch``, or ``sequence`` if the tokens of each sequence are chosen among by themselves.
    """

    causal: bool = True
    fixed: bool = True
    scope: str = "batch"

    @property
    def words(self) -> str:
        """Its name in tables."""
        return type(self).__name__

    @property
    def capacity_factor(self) -> float | None:
        """The factor of a rule that fills experts to a capacity by itself; None for the others."""
        return None

    def validate(self, num_experts: int) -> None:
        """Raise ValueError, naming the setting, if the rule does not work with this many experts."""

    def per_token(self, num_experts: int) -> float:
        """How many experts a token asks for, on average: the k of capacities and of active parameters."""
        return 1

    def within_group(self) -> "Selection":
        """The rule for choosing inside one of the groups that it chose."""
        return self

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """The candidates by these scores."""
        raise NotImplementedError(f"{type(self).__name__} does not choose")

    def of_batch(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """The same where sequences may differ in length: a rule with their scope then sees them one by one."""
        if batch.lengths is None or self.scope == "batch":
            return self(scores, batch)
        xp = array_namespace(scores)
        token, expert, rank = [], [], []
        for mine, alone in batch.sequences():
            found = self(scores[mine], alone)
            token.append(found.token + mine.start)
            expert.append(found.expert)
            rank.append(found.rank)
        return Candidates(xp.concatenate(token), xp.concatenate(expert), xp.concatenate(rank))


class FixedK(Selection):
    """A rule by which every token asks for ``k`` experts."""

    k: int

    def validate(self, num_experts: int) -> None:
        if not 1 <= self.k <= num_experts:
            raise ValueError(f"top_k must be between 1 and num_experts={num_experts}, got {self.k}")

    def per_token(self, num_experts: int) -> float:
        return self.k


@dataclass(frozen=True)
class TopK(FixedK):
    """Each token takes the k experts with the highest scores, best first; ties go to the lowest index."""

    k: int = 2

    @property
    def words(self) -> str:
        return f"top-{self.k}"

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        return top_k_candidates(scores, self.k)


@dataclass(frozen=True)
class RandomSecond(FixedK):
    """Top-2, the second dispatched with probability min(1, g₂ / ``threshold``).

    g₂ is the second score divided by the sum of both. The threshold of Lepikhin et al. 2020, algorithm 1, is 0.5;
    Mesh TensorFlow's, with which ST-MoE was trained, is 0.2. A second choice that is not dispatched is still included
    in normalising. In evaluation the second is always dispatched. Capacities are sized for k = 2, the maximum.
    """

    threshold: float = 0.5
    k = 2
    words = "top-2, 2nd random"

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"threshold must be positive, got {self.threshold}")

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        both = top_k_candidates(scores, 2)
        if not batch.training:
            return both
        s = scores[both.token, both.expert].reshape(-1, 2)
        xp, total = array_namespace(scores), s[:, 0] + s[:, 1]
        g2 = xp.where(total == 0, 0.5, s[:, 1] / xp.where(total == 0, 1, total))  # both may underflow
        coin = xp.asarray(batch.need_rng(self).random(len(s)), dtype=s.dtype)
        chance = g2 / self.threshold
        kept = coin < chance
        decisions.record("second choices kept", kept, lambda t: f"token {t}: g₂ / threshold is {float(chance[t]):.6g}")
        sent = xp.stack([xp.ones_like(kept), kept], axis=1).reshape(-1)
        return replace(both, sent=sent)


@dataclass(frozen=True)
class GroupLimited(FixedK):
    """Top-k among the experts of a token's best groups (DeepSeek-V2 2024, section 2.2.2; V3, section 2.1.2).

    Experts form ``num_groups`` groups of neighbours, one for each device. A group's score is its best expert
    (``"max"``, V2) or the sum of its two best (``"top2"``, V3). The other groups are excluded with -∞: with 0,
    a forbidden expert would win against a negative biased score.
    """

    k: int
    num_groups: int
    top_groups: int
    group_score: str = "top2"

    @property
    def words(self) -> str:
        return f"top-{self.k} of {self.top_groups}/{self.num_groups} groups"

    def validate(self, num_experts: int) -> None:
        """Groups divide the experts, and the chosen groups hold at least k of them."""
        super().validate(num_experts)
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

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """Score the groups, mask all but the best with -∞, take the top k of the rest, best first.

        Group j holds the E / ``num_groups`` experts from j E / ``num_groups`` on. Its score is its largest score if
        ``group_score`` is ``max``, the sum of its two largest if ``top2``. ``self.top_groups`` groups stay. The
        candidates of token 0 come first. ``batch`` is not used.
        """
        xp = array_namespace(scores)
        num_tokens, num_experts = scores.shape
        size = num_experts // self.num_groups
        grouped = scores.reshape(num_tokens, self.num_groups, size)
        if self.group_score == "max":
            group_scores = grouped.max(axis=2)
        else:
            two_best = top_k(scores.reshape(-1, size), 2).reshape(num_tokens, self.num_groups, 2)
            group_scores = xp.take_along_axis(grouped, two_best, axis=2).sum(axis=2)
        chosen = top_k(group_scores, self.top_groups)
        decisions.record("top groups", chosen, lambda t: _closest_ranks(group_scores, self.top_groups, t, "groups"))
        allowed = xp.zeros(group_scores.shape, dtype=bool)
        allowed[xp.arange(num_tokens)[:, None], chosen] = True
        allowed = xp.repeat(allowed, size, axis=1)
        return top_k_candidates(xp.where(allowed, scores, -xp.inf), self.k)


@dataclass(frozen=True)
class Dense(Selection):
    """Every token goes to every expert: the mixtures of 1991."""

    words = "all"

    def per_token(self, num_experts: int) -> float:
        return num_experts

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        xp = array_namespace(scores)
        num_tokens, num_experts = scores.shape
        token = xp.repeat(xp.arange(num_tokens), num_experts)
        return Candidates(token, xp.tile(xp.arange(num_experts), (num_tokens,)), xp.zeros_like(token), by_token=True)


@dataclass(frozen=True)
class Threshold(Selection):
    """Each token takes the experts whose score is above a threshold: k varies (ReMoE, Wang et al. 2024)."""

    value: float = 0.0
    fixed = False

    @property
    def words(self) -> str:
        return f"above {self.value:g}"

    def per_token(self, num_experts: int) -> float:
        """The maximum, E: how many are chosen depends on the scores. See :meth:`RouterConfig.per_token`."""
        return num_experts

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
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
        sent = true_indices(above.reshape(-1))
        return Candidates(sent // scores.shape[1], sent % scores.shape[1], xp.zeros_like(sent), by_token=True)


@dataclass(frozen=True)
class ExpertChoice(Selection):
    """Each expert takes the C tokens that score highest for it, C = ⌈factor · T / E⌉ (Zhou et al. 2022, equation 2).

    Load is perfectly even by construction. A token may get many experts or none, and whether it is taken depends on
    later tokens of the same set: not causal. ``scope`` is the set: the whole batch, or each sequence.
    """

    factor: float = 2.0
    scope: str = "sequence"
    causal = False
    words = "experts choose"

    @property
    def capacity_factor(self) -> float:
        return self.factor

    def validate(self, num_experts: int) -> None:
        if not 0 < self.factor <= num_experts:
            raise ValueError(f"capacity_factor must be in (0, num_experts={num_experts}], got {self.factor}")
        if self.scope not in ("batch", "sequence"):
            raise ValueError(f"scope must be batch or sequence, got {self.scope!r}")

    def per_token(self, num_experts: int) -> float:
        return self.factor

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        """List, for each expert of each sequence, the tokens that it takes, best first.

        n tokens are a set: ``batch.sequence_length`` of them, or all T if ``self.scope`` is ``batch``. In each set
        each expert takes the C = min(n, ⌈factor · n / E⌉) tokens of the largest scores; ties go to the earlier token.
        A rounding error of up to 1e-9 is not rounded up: factor 1.1, n = 100 and E = 10 make C = 11.
        The list goes through the sets, in each set through the experts. Tokens are counted from 0 to T - 1 over the
        whole batch. No candidate is a token's second choice: ``rank`` is 0.
        """
        xp = array_namespace(scores)
        num_tokens, num_experts = scores.shape
        length = num_tokens if self.scope == "batch" else batch.sequence_length
        if num_tokens == 0:
            nothing = xp.arange(0)
            return Candidates(nothing, nothing, nothing)
        capacity = min(length, max(1, int(np.ceil(self.factor * length / num_experts - 1e-9))))
        # One row for each expert of each sequence, over the tokens of the sequence.
        rows = scores.reshape(-1, length, num_experts).swapaxes(1, 2).reshape(-1, length)
        chosen = top_k(rows, capacity)
        decisions.record(
            "tokens taken by each expert", chosen, lambda r: _closest_ranks(rows, capacity, r, "tokens", "expert row")
        )
        first = xp.arange(rows.shape[0]) // num_experts * length
        expert = xp.repeat(xp.arange(rows.shape[0]) % num_experts, capacity)
        token = (chosen + first[:, None]).reshape(-1)
        return Candidates(token, expert, xp.zeros(token.shape, dtype=token.dtype))


@dataclass(frozen=True)
class Hash(Selection):
    """experts = table[token id]: a fixed random table, balanced over ids; only the experts learn (Roller et al. 2021).

    With k above 1 each id has k different experts, as in the first layers of DeepSeek-V4 (2026, section 2.1). The
    scores of the chosen experts are still their gate weights, unless the gates say otherwise. Ids on a GPU are trusted
    to be below ``vocab_size``: checking them would wait for it.
    """

    vocab_size: int = 256
    seed: int = 0
    k: int = 1
    words = "hash"

    def validate(self, num_experts: int) -> None:
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {self.vocab_size}")
        if not 1 <= self.k <= num_experts:
            raise ValueError(f"top_k must be between 1 and num_experts={num_experts}, got {self.k}")

    def per_token(self, num_experts: int) -> float:
        return self.k

    def within_group(self) -> Selection:
        """The rule with another table: the same one would send the tokens of a group to only some of its experts."""
        return replace(self, seed=self.seed + 1)

    def table(self, num_experts: int, xp: Any) -> Int[Array, "V k"]:
        """The experts of every id."""
        return _table(self.seed, self.vocab_size, self.k, num_experts, xp)

    def __call__(self, scores: Float[Array, "T E"], batch: Batch) -> Candidates:
        if batch.token_ids is None:
            raise ValueError("hash routing needs the token ids; pass token_ids=")
        ids = batch.token_ids.reshape(-1)
        if on_host(ids) and ids.size and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise ValueError(
                f"token_ids must be in [0, vocab_size={self.vocab_size}), got values from {ids.min()} to {ids.max()}"
            )
        chosen = self.table(scores.shape[1], array_namespace(scores))[ids]
        token, rank = tokens_and_ranks(chosen)
        return Candidates(token, chosen.reshape(-1), rank, by_token=True)


@cache
def _table(seed: int, vocab_size: int, k: int, num_experts: int, xp: Any) -> Int[Array, "V k"]:
    """An id's first expert is balanced over ids; the others follow it in different distances."""
    rng = np.random.default_rng(seed)
    first = rng.permutation(vocab_size) % num_experts
    if k == 1:
        return xp.asarray(first[:, None])
    distances = np.tile(np.arange(1, num_experts, dtype=np.int16), (vocab_size, 1))
    distances = rng.permuted(distances, axis=1)[:, : k - 1]
    return xp.asarray(np.column_stack([first, (first[:, None] + distances) % num_experts]))


class GivenTable(Hash):
    """The same with a table that a published model brings, [V, k] (DeepSeek-V4's ``tid2eid``).

    Raises:
        ValueError: an id has an expert twice, or one that the layer does not have.
    """

    def __init__(self, table: Int[np.ndarray, "V k"]):
        twice = (np.diff(np.sort(table, axis=1), axis=1) == 0).any(axis=1)
        if twice.any():
            raise ValueError(f"a table must have different experts for each id, got {table[twice][0]}")
        super().__init__(len(table), k=table.shape[1])
        object.__setattr__(self, "given", table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GivenTable) and np.array_equal(vars(self)["given"], vars(other)["given"])

    __hash__ = Hash.__hash__

    def validate(self, num_experts: int) -> None:
        super().validate(num_experts)
        table = self.table(num_experts, np)
        if not 0 <= table.min() <= table.max() < num_experts:
            raise ValueError(
                f"a table must have experts in [0, {num_experts}), got values from {table.min()} to {table.max()}"
            )

    def within_group(self) -> Selection:
        raise ValueError("a given table chooses among all experts, not inside a group")

    def table(self, num_experts: int, xp: Any) -> Int[Array, "V k"]:
        return xp.asarray(vars(self)["given"])


def top_k_candidates(scores: Float[Array, "T E"], k: int) -> Candidates:
    """The k best experts of each token, best first; the decision is recorded."""
    chosen = top_k(scores, k)
    decisions.record("top-k set", chosen, lambda t: _closest_ranks(scores, k, t, "experts"))
    token, rank = tokens_and_ranks(chosen)
    return Candidates(token, chosen.reshape(-1), rank, by_token=True)


def _closest_ranks(scores: Float[Array, "rows n"], k: int, row: int, what: str, who: str = "token") -> str:
    """Of the neighbouring ranks that decide the choice, the two whose scores are closest."""
    ranked = sorted(scores[row].tolist(), reverse=True)
    gaps = [ranked[i] - ranked[i + 1] for i in range(min(k, len(ranked) - 1))]
    if not gaps:
        return f"{who} {row}: only one of the {what} to choose"
    i = gaps.index(min(gaps))
    return f"{who} {row}: {what} ranked {i + 1} and {i + 2} differ by {gaps[i]:.0e}"
