"""Which rank holds the weights of which expert.

A rank is one of the processes that share a model. Its places are numbered rank by rank, on each rank by ascending
expert: these numbers are the slots. An expert on several ranks has replicas, which share its tokens:

    slot of (e, t) = the (t mod n_e)-th slot of expert e,   t the token's index in the global batch, n_e replicas

So where a token goes does not depend on the number of tokens that each rank has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from ..devices import constant_beside
from ..typing import Array, Bool, Float, Int, Shaped


@dataclass(frozen=True)
class Placement:
    """Experts on ranks. A rank may hold none.

    Attributes:
        experts: the experts of each rank, ascending.
        num_experts: E; every expert is on at least one rank.

    Raises:
        ValueError: there are no ranks, an expert is nowhere, twice on a rank or out of range, or a rank's experts do
            not ascend; the message names them.
    """

    experts: tuple[tuple[int, ...], ...]
    num_experts: int

    def __post_init__(self) -> None:
        if self.num_experts < 1:
            raise ValueError(f"num_experts must be at least 1, got {self.num_experts}")
        if not self.experts:
            raise ValueError("experts must have one entry for each rank, got no ranks")
        for rank, held in enumerate(self.experts):
            for e in held:
                if not 0 <= e < self.num_experts:
                    raise ValueError(f"experts[{rank}] has {e}, expected 0 to {self.num_experts - 1}")
            for e, following in pairwise(held):
                if e == following:
                    raise ValueError(f"experts[{rank}] has expert {e} twice")
                if e > following:
                    raise ValueError(f"experts[{rank}] must ascend, got {following} after {e}")
        nowhere = sorted(set(range(self.num_experts)).difference(*self.experts))
        if nowhere:
            raise ValueError(f"every expert must be on a rank; nowhere: {', '.join(map(str, nowhere))}")

    @classmethod
    def even(cls, num_experts: int, num_ranks: int) -> "Placement":
        """Contiguous shares without replicas; where E does not divide, the first ranks hold one more."""
        if num_ranks < 1:
            raise ValueError(f"num_ranks must be at least 1, got {num_ranks}")
        shares = np.array_split(np.arange(num_experts), num_ranks)
        return cls(tuple(tuple(share.tolist()) for share in shares), num_experts)

    @classmethod
    def from_matrix(cls, held: Bool[Array, "R E"]) -> "Placement":
        """Read :attr:`held` back."""
        return cls(tuple(tuple(np.flatnonzero(row).tolist()) for row in held), held.shape[1])

    @property
    def num_ranks(self) -> int:
        """R, ranks without experts included."""
        return len(self.experts)

    def ranks_of(self, expert: int) -> tuple[int, ...]:
        """The ranks that hold an expert, ascending."""
        return tuple(rank for rank, held in enumerate(self.experts) if expert in held)

    @cached_property
    def held(self) -> Bool[Array, "R E"]:
        """Whether rank r holds expert e."""
        held = np.zeros((self.num_ranks, self.num_experts), bool)
        held[self.slot_rank, self.slot_expert] = True
        return held

    @cached_property
    def slot_expert(self) -> Int[Array, " slots"]:
        """The expert of each slot."""
        return np.array([e for held in self.experts for e in held], np.int64)

    @cached_property
    def slot_rank(self) -> Int[Array, " slots"]:
        """The rank of each slot."""
        return np.repeat(np.arange(self.num_ranks), np.diff(self.offsets))

    @cached_property
    def offsets(self) -> Int[Array, " R1"]:
        """Rank r has slots ``offsets[r]:offsets[r + 1]``."""
        return np.cumsum([0, *map(len, self.experts)])

    @cached_property
    def counts(self) -> Int[Array, " E"]:
        """How many replicas each expert has."""
        return np.bincount(self.slot_expert, minlength=self.num_experts)

    @cached_property
    def _by_expert(self) -> tuple[Int[Array, " slots"], Int[Array, " E"]]:
        """The slots by expert, then ascending, and where those of each expert begin."""
        return np.argsort(self.slot_expert, kind="stable"), np.cumsum(self.counts) - self.counts

    def slot_of(self, expert: Int[Array, " N"], token: Int[Array, " N"]) -> Int[Array, " N"]:
        """The slot that serves each assignment; ``token`` counts in the global batch."""
        slots, starts, counts = (constant_beside(expert, each) for each in (*self._by_expert, self.counts))
        return slots[starts[expert] + token % counts[expert]]

    def rank_load(self, load: Shaped[Array, " E"]) -> Float[Array, " R"]:
        """The load of each rank if each expert's is split evenly over its replicas: Σ load_e / n_e over its experts."""
        each = np.asarray(load, np.float64) / self.counts
        return np.bincount(self.slot_rank, each[self.slot_expert], self.num_ranks)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which JSON can hold."""
        return {"num_experts": self.num_experts, "experts": [list(held) for held in self.experts]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Placement":
        """Read :meth:`to_json` back. ValueError if an entry is missing, of another type, or does not fit."""
        return msgspec.convert(values, cls)
