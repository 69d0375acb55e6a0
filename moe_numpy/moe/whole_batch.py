"""What a router on one of several ranks knows of the tokens on all of them.

Logits are few numbers beside tokens. So ranks exchange them, and every router decides for the whole batch as one
process would: noise, capacity, balance, choices that compare tokens. Then each rank keeps what concerns its own tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..kernels import to_host
from ..parallel import Communicator, Gather
from ..parallel.collectives import gather, gather_numbers
from ..typing import Float, Random
from .routing import Batch


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """The tokens of all ranks, by rank.

    Attributes:
        communicator: the ranks.
        counts: tokens of each.
        batch: of all together; ``batch.rng`` draws for all.
        told: how many lengths of sequences this rank told the others.
        gathered: by kind, what was gathered.
    """

    communicator: Communicator
    counts: tuple[int, ...]
    batch: Batch
    told: int = 0
    gathered: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, communicator: Communicator, num_tokens: int, batch: Batch) -> "WholeBatch":
        """All ranks together: each has its tokens, and the batch as it knows it."""
        has_ids, has_modality = batch.token_ids is not None, batch.modality is not None
        uneven = batch.lengths or ()
        known = [num_tokens, batch.sequence_length, len(uneven), int(has_ids) + 2 * has_modality]
        all_known = gather_numbers(communicator, known, "sizes")
        counts = tuple(n for n, *_ in all_known)
        used = [each for each in all_known if each[0]] or all_known[:1]
        lengths: tuple[int, ...] | None = None
        told = 0
        if len({length for _, length, _, _ in used}) > 1 or any(num for _, _, num, _ in used):
            mine = uneven or (batch.sequence_length,) * (num_tokens // max(batch.sequence_length, 1))
            told = len(mine)
            sizes = [num or (n // max(length, 1)) for n, length, num, _ in all_known]
            lengths = tuple(to_host(gather(communicator, np.array(mine, np.int64), sizes, "sizes")).tolist())
        ids = batch.token_ids
        if ids is not None:
            ids = gather(communicator, ids.reshape(-1), counts, "token ids")
        modality = batch.modality_of_tokens
        if any(has & 2 for *_, has in all_known):
            own = np.zeros(num_tokens, np.int64) if modality is None else modality
            modality = to_host(gather(communicator, own, counts, "modality"))
        length = max(length for _, length, _, _ in used)
        whole = replace(batch, sequence_length=length, lengths=lengths, token_ids=ids, shares=counts, modality=modality)
        return cls(communicator, counts, whole, told)

    @property
    def own(self) -> slice:
        """The tokens of this rank among all."""
        ends = list(accumulate(self.counts, initial=0))
        return slice(*list(pairwise(ends))[self.communicator.rank])

    def gather(self, x: Float[Tensor, "n E"], kind: str) -> Float[Tensor, "N E"]:
        """A row for each token of all ranks, from those of this one."""
        gathered: Tensor = Gather.apply(x, communicator=self.communicator, counts=self.counts, kind=kind)
        self.gathered[kind] = gathered
        return gathered

    def note(self, name: str, results: Sequence[Tensor | None]) -> None:
        """Enter a pass of the router of this name, which made ``results`` of what was gathered, into the tally."""
        reached = _ops_below(results)
        logits, ids = self.gathered["logits"].data, self.batch.token_ids
        described = {
            "name": name,
            "training": self.batch.training,
            "num_experts": logits.shape[1],
            "bytes": logits.dtype.itemsize,
            "id_bytes": 0 if ids is None else ids.dtype.itemsize,
            "gathered": list(self.gathered),
            "gradients": [kind for kind, x in self.gathered.items() if x.function in reached],
        }
        tokens = self.counts[self.communicator.rank]
        self.communicator.ledger.tally.add("router", described, passes=1, tokens=tokens, lengths=self.told)

    def of_own(self, batch: Batch) -> Batch:
        """The batch of this rank, which draws for all tokens and gets what its own are given."""
        rng = None if batch.rng is None else OwnDraws(batch.rng, sum(self.counts), self.own)
        return replace(batch, rng=rng)


def _ops_below(results: Sequence[Tensor | None]) -> set[Any]:
    """The ops whose results these are made of, down to what was gathered."""
    ops = [x.function for x in results if x is not None and x.function is not None]
    seen: set[Any] = set()
    while ops:
        op = ops.pop()
        if op not in seen:
            seen.add(op)
            if not isinstance(op, Gather):
                ops += [edge.source for edge in op.edges if edge is not None and not edge.is_leaf]
    return seen


class OwnDraws:
    """Draws for the rows of all ranks, of which a rank gets its own: what it draws does not depend on who has which.

    Args:
        rng: in the same state on every rank.
        num_rows: of all ranks.
        own: those of this one.
    """

    def __init__(self, rng: Random, num_rows: int, own: slice):
        self._rng, self._num_rows, self._own = rng, num_rows, own

    def random(self, size: tuple[int, ...]) -> Any:
        """As of the generator."""
        return self._rng.random(self._of_all(size))[self._own]

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Any:
        """As of the generator."""
        return self._rng.uniform(low, high, self._of_all(size))[self._own]

    def standard_normal(self, size: tuple[int, ...]) -> Any:
        """As of the generator."""
        return self._rng.standard_normal(self._of_all(size))[self._own]

    def gumbel(self, size: tuple[int, ...]) -> Any:
        """As of the generator, with the usual location and scale."""
        return self._rng.gumbel(size=self._of_all(size))[self._own]

    def _of_all(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return (self._num_rows, *size[1:])
