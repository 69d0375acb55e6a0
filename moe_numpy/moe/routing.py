"""The nouns of routing: what a router is told, what tokens ask for, what was decided, and what was observed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Function, Tensor
from ..kernels import count, stable_order, to_host
from ..ops import Softmax
from ..typing import Array, Bool, Float, Int, Random


@dataclass(frozen=True)
class Batch:
    """What a router may know about its tokens besides their vectors.

    Attributes:
        sequence_length: the T tokens are T / sequence_length sequences, one after the other.
        lengths: of the sequences where they differ, as they may once padding is taken out; ``sequence_length`` is then
            the longest. None if all are equal.
        training: whether noise and balancing are on.
        rng: random numbers for the parts that draw them while training.
        token_ids: of any shape with T entries; needed by hash routing.
        shares: how many of the tokens each rank has, where several share the batch.
        modality: of any shape with T entries, 0 for text, 1 for image patches; on the host. None if all are text.

    Padding is taken out before tokens are routed: T counts real tokens.
    """

    sequence_length: int
    training: bool = False
    rng: Random | None = None
    token_ids: Int[Array, "..."] | None = None
    lengths: tuple[int, ...] | None = None
    shares: tuple[int, ...] | None = None
    modality: Int[np.ndarray, "..."] | None = None

    def sequences(self) -> Iterator[tuple[slice, "Batch"]]:
        """Sequences that differ in length, one by one: their tokens, and a batch for each."""
        for mine in parts_of(self.lengths or ()):
            yield mine, replace(self._of(mine), sequence_length=mine.stop - mine.start, lengths=None)

    def of_ranks(self) -> Iterator[tuple[slice, "Batch"]]:
        """The tokens of each rank, and a batch for them: what each would see without the others."""
        ends = list(accumulate(self.lengths or (), initial=0))  # of sequences
        for mine in parts_of(self.shares or ()):
            lengths = self.lengths
            if lengths is not None:
                lengths = lengths[ends.index(mine.start) : ends.index(mine.stop)]
            yield mine, replace(self._of(mine), lengths=lengths, shares=None)

    def _of(self, mine: slice) -> "Batch":
        """Of some tokens."""
        ids, modality = (None if a is None else a.reshape(-1)[mine] for a in (self.token_ids, self.modality))
        return replace(self, token_ids=ids, modality=modality)

    def of_modality(self, wanted: int) -> tuple[Int[np.ndarray, " n"], "Batch"]:
        """The tokens of one modality, ascending, and a batch for them; they stay in their sequences."""
        if self.modality is None:
            raise ValueError("the batch does not say which modality its tokens are of")
        modality = self.modality.reshape(-1)
        mine = np.flatnonzero(modality == wanted)
        lengths = self.lengths or (self.sequence_length,) * (modality.size // max(self.sequence_length, 1))
        counts = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[mine]) if len(mine) else np.zeros(1, int)
        counts = counts[counts > 0] if len(mine) else counts
        uneven = tuple(counts.tolist()) if counts.min() < counts.max() else None
        ids = None if self.token_ids is None else self.token_ids.reshape(-1)[mine]
        longest = int(counts.max())
        own = replace(self, sequence_length=longest, lengths=uneven, token_ids=ids, shares=None, modality=None)
        return mine, own

    @property
    def modality_of_tokens(self) -> Int[np.ndarray, " T"] | None:
        """:attr:`modality`, flat."""
        return None if self.modality is None else self.modality.reshape(-1)

    def need_rng(self, who: object) -> Random:
        """The generator, or a ValueError that names the part that needs it."""
        if self.rng is None:
            raise ValueError(f"{who} needs rng while training; pass rng=, or call eval()")
        return self.rng


def parts_of(sizes: Sequence[int]) -> list[slice]:
    """Parts of these sizes, one after the other."""
    return [slice(stop - n, stop) for n, stop in zip(sizes, accumulate(sizes), strict=True)]


@dataclass(frozen=True)
class Candidates:
    """Assignments before any is dropped: token ``token[m]`` asks for expert ``expert[m]``; no pair occurs twice.

    Attributes:
        token, expert: the pairs.
        rank: 0 for the token's first choice, 1 for its second, and so on.
        sent: False for a candidate that is included in normalising but not dispatched; None stands for all True.
            Once it is normalised, only a GPU still lists it, with a gate weight of 0.
        by_token: whether they are listed token by token.
    """

    token: Int[Array, " M"]
    expert: Int[Array, " M"]
    rank: Int[Array, " M"]
    sent: Bool[Array, " M"] | None = None
    by_token: bool = False

    def listed_by_token(self, num_tokens: int) -> "Candidates":
        """The same, token by token; those of one token stay in order."""
        if self.by_token:
            return self
        order = stable_order(self.token, max(num_tokens, 1))
        sent = None if self.sent is None else self.sent[order]
        return Candidates(self.token[order], self.expert[order], self.rank[order], sent, by_token=True)

    def of_tokens(self, mine: slice, index: Int[Array, " m"] | None = None) -> tuple["Candidates", Int[Array, " m"]]:
        """Those of some tokens, which are numbered from 0 then; and which they are, ``index`` where it is known."""
        if index is None:
            index = true_indices(_are_of(mine, self.token))
        sent = None if self.sent is None else self.sent[index]
        token, expert, rank = (a[index] for a in (self.token, self.expert, self.rank))
        return Candidates(token - mine.start, expert, rank, sent, self.by_token), index

    def load(self, num_experts: int) -> Int[Array, " E"]:
        """How many of those that are sent ask for each expert."""
        if self.sent is None:
            return count(self.expert, num_experts)
        expert = array_namespace(self.expert).where(self.sent, self.expert, num_experts)
        return count(expert, num_experts + 1)[:num_experts]


def true_indices(mask: Bool[Array, " M"]) -> Int[Array, " N"]:
    """The indices where the mask holds, ascending.

    Their number decides the shapes of what follows, so it has to come to the host. :func:`where_true` does without.
    """
    return _true_indices_of(mask)[0]


def _true_indices_of(*masks: Bool[Array, "..."]) -> list[Int[Array, "..."]]:
    """:func:`true_indices` of several masks, whose numbers come to the host at once."""
    xp = array_namespace(*masks)
    numbers = to_host(xp.stack([mask.sum() for mask in masks])).tolist()
    orders = [stable_order((~mask).astype(np.int64), 2) for mask in masks]
    return [order[:number] for order, number in zip(orders, numbers, strict=True)]


def _are_of(mine: slice, token: Int[Array, " N"]) -> Bool[Array, " N"]:
    """Which of the tokens are among these."""
    return (token >= mine.start) & (token < mine.stop)


@dataclass(frozen=True)
class Dropped:
    """The assignments that found no place, in the order of tokens.

    ``capacity`` is the number of places of an expert; of each one's expert where sequences differ in length.
    """

    token: Int[Array, " dropped"]
    expert: Int[Array, " dropped"]
    capacity: int | Int[Array, " dropped"] | None

    def __len__(self) -> int:
        return len(self.token)

    def reason(self, i: int) -> str:
        """Why the i-th assignment was dropped, in words."""
        size = self.capacity if isinstance(self.capacity, int | None) else self.capacity[i]
        return f"token {self.token[i]}: expert {self.expert[i]} had filled its {size} places"


@dataclass(frozen=True)
class Statistics:
    """What a router did with one batch; constants, for tables and plots.

    Attributes:
        load: assignments that each expert was asked for, before dropping.
        scores: those of all experts; padded tokens have no row.
        asked: the candidates; their tokens are numbered with padding.
        fits: which of them were sent and found a place; None if all did.
        capacity: the places of an expert, of each candidate's where sequences differ in length; None for no limit.
        modality: that of each token, padding included; None if all are text.
    """

    load: Int[Array, " E"]
    scores: Float[Array, "T E"]
    asked: Candidates
    fits: Bool[Array, " M"] | None = None
    capacity: int | Int[Array, " M"] | None = None
    modality: Int[np.ndarray, " P"] | None = None

    def of_tokens(self, mine: slice, index: Int[Array, " m"]) -> "Statistics":
        """Those of some tokens, and of their candidates, which are those of ``index``."""
        asked, _ = self.asked.of_tokens(mine, index)
        fits = None if self.fits is None else self.fits[index]
        capacity = self.capacity if isinstance(self.capacity, int | None) else self.capacity[index]
        modality = None if self.modality is None else self.modality[mine]
        return Statistics(asked.load(len(self.load)), self.scores[mine], asked, fits, capacity, modality)

    def load_by_modality(self, num_modalities: int) -> Int[Array, "modalities E"]:
        """:attr:`load`, separately for the tokens of each modality."""
        xp, num_experts = array_namespace(self.load), len(self.load)
        if self.modality is None:
            return xp.concat([self.load[None], xp.zeros((num_modalities - 1, num_experts), dtype=self.load.dtype)])
        keys = xp.asarray(self.modality)[self.asked.token] * num_experts + self.asked.expert
        if self.asked.sent is not None:
            keys = keys[self.asked.sent]
        return count(keys, num_modalities * num_experts).reshape(num_modalities, num_experts)

    @cached_property
    def dropped(self) -> Dropped:
        """The assignments that found no place. Found when asked for, since their number must come to the host."""
        if self.fits is None or self.capacity is None:
            nothing = self.asked.token[:0]
            return Dropped(nothing, nothing, self.capacity)
        sent = self.asked.sent
        lost = true_indices(~self.fits if sent is None else sent & ~self.fits)
        size = self.capacity if isinstance(self.capacity, int) else self.capacity[lost]
        return Dropped(self.asked.token[lost], self.asked.expert[lost], size)

    @property
    def num_dropped(self) -> Int[Array, ""]:
        """How many assignments found no place; an array, for which nobody waits."""
        xp = array_namespace(self.load)
        return xp.zeros((), dtype=xp.int64) if self.fits is None else self.load.sum() - self.fits.sum()

    @property
    def importance(self) -> Float[Array, " E"]:
        """The mean score of each expert over all tokens."""
        return self.scores.sum(axis=0) / max(len(self.scores), 1)

    @property
    def dropped_fraction(self) -> float:
        """Dropped assignments over all assignments."""
        return int(to_host(self.num_dropped)) / max(int(to_host(self.load).sum()), 1)


@dataclass(frozen=True)
class RoutingTrace:
    """What auxiliary losses and balancers look at: everything from before capacity drops anything.

    Padding is taken out already, and tokens are numbered without it.

    Attributes:
        logits: h, without noise.
        noisy: h with noise; ``logits`` itself if there is none.
        sigma: standard deviation of normal noise, or None.
        scores: what the gate weights are computed from.
        gate: the gate weights of the candidates.
        candidates: which tokens asked for which experts.
        load: assignments that each expert was asked for.
        load_since_update: the same, summed over the forward passes since the last optimizer step, this included.
        per_token: k, experts per token on average.
        batch: sequences and mode.
    """

    logits: Float[Tensor, "T E"]
    noisy: Float[Tensor, "T E"]
    sigma: Float[Tensor, "T E"] | None
    scores: Float[Tensor, "T E"]
    gate: Float[Tensor, " M"]
    candidates: Candidates
    load: Int[Array, " E"]
    load_since_update: Int[Array, " E"]
    per_token: float
    batch: Batch

    def of_tokens(self, mine: slice, batch: Batch) -> "RoutingTrace":
        """What a router would show that had seen these tokens only, as far as it is their own."""
        candidates, index = self.candidates.of_tokens(mine)
        load = candidates.load(len(self.load))
        sigma = None if self.sigma is None else self.sigma[mine]
        noisy = self.logits[mine] if self.noisy is self.logits else self.noisy[mine]
        return RoutingTrace(
            self.logits[mine],
            noisy,
            sigma,
            self.scores[mine],
            self.gate[index],
            candidates,
            load,
            self.load_since_update - self.load + load,
            self.per_token,
            batch,
        )

    def probabilities(self, scoring: type[Function] | None) -> Float[Tensor, "T E"]:
        """The scores normalised over all experts: a softmax, or s / Σs for other scores."""
        if scoring is None or scoring is Softmax:
            return Softmax.apply(self.logits, axis=-1)
        s = scoring.apply(self.logits)
        return s / (s.sum(axis=1, keepdims=True) + 1e-20)


@dataclass(frozen=True)
class Routing:
    """N assignments: token ``token[n]`` goes to expert ``expert[n]``, ordered by expert, then by token.

    On a GPU no shape may depend on values, so dropped assignments are listed too, behind ``offsets[E]``: they have
    expert E, which does not exist, and gate weight 0. :meth:`only_kept` leaves them out.

    Attributes:
        token, expert: the pairs. Tokens are numbered with padding, which has no assignment.
        gate: the gate weights, the only differentiable path through the selection; everything else is constant.
        offsets: expert e owns the assignments ``offsets[e]:offsets[e+1]``.
        num_tokens: T, padding included.
        gate_on: ``"output"`` or ``"input"``, see :class:`moe_numpy.moe.router.RouterConfig`.
        losses: auxiliary losses by name, without their coefficients.
        auxiliary_loss: their weighted sum, to be added to the task loss; None if there are none.
        statistics: load, scores and drops.
        trace: what the losses saw.
        first_token: the index of token 0 in the batch of all ranks.
        all_kept: whether it is known, without asking a GPU, that no dropped assignments are listed.
        children: in a tree of experts, the routings of the branches, each of the tokens that the branch got.
    """

    token: Int[Array, " N"]
    expert: Int[Array, " N"]
    gate: Float[Tensor, " N"]
    offsets: Int[Array, " E1"]
    num_tokens: int
    gate_on: str
    losses: Mapping[str, Tensor]
    auxiliary_loss: Tensor | None
    statistics: Statistics
    trace: RoutingTrace
    first_token: int = 0
    all_kept: bool = False
    children: tuple["Routing", ...] = ()

    @property
    def num_experts(self) -> int:
        return len(self.offsets) - 1

    def of_tokens(self, mine: slice) -> "Routing":
        """The assignments of some tokens, without dropped ones; tokens count from 0 then. The losses are of all."""
        xp, asked = array_namespace(self.expert), self.statistics.asked
        kept = xp.arange(len(self.token)) < self.offsets[-1]
        index, candidates = _true_indices_of(kept & _are_of(mine, self.token), _are_of(mine, asked.token))
        expert = self.expert[index]
        load = count(expert, self.num_experts)
        return replace(
            self,
            token=self.token[index] - mine.start,
            expert=expert,
            gate=self.gate[index],
            offsets=xp.concat([xp.zeros(1, dtype=load.dtype), xp.cumsum(load)]),
            num_tokens=mine.stop - mine.start,
            statistics=self.statistics.of_tokens(mine, candidates),
            first_token=self.first_token + mine.start,
            all_kept=True,
        )

    def only_kept(self) -> "Routing":
        """The same without dropped assignments at the end; how many are left comes to the host."""
        if self.all_kept:
            return self
        end = int(to_host(self.offsets)[-1])
        if end == len(self.token):
            return self
        return replace(self, token=self.token[:end], expert=self.expert[:end], gate=self.gate[:end])
