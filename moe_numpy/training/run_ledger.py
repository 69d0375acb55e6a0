"""What the ranks of a run have sent one another, and what there was to send."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from ..kernels import to_host
from ..parallel import Communicator
from ..parallel.collectives import gather, gather_numbers

_OWN_KIND = "ledger"  # under which ranks tell one another their ledgers


class RunLedger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ledgers of all ranks, R of them.

    A checkpoint has that of its steps, and a run goes on from there. What was sent after it is then not in the ledger,
    such as a validation at the same step.

    Attributes:
        num_ranks: R; in the deterministic mode the number of parts.
        since: the completed steps when counting began. It begins anew with another number of ranks.
        step: the completed steps now.
        sent: for each kind, the bytes [R, R] from each rank to each other.
        tally: what there was to send, see :class:`moe_numpy.parallel.tally.Tally`; amounts are lists by rank.
    """

    num_ranks: int
    since: int = 0
    step: int = 0
    sent: dict[str, list[list[int]]] = {}
    tally: list[dict[str, Any]] = []

    @classmethod
    def of(cls, communicator: Communicator, step: int) -> "RunLedger":
        """Those of all ranks of this process' lifetime. All ranks call it; the exchange for it is not counted."""
        ledger = communicator.ledger
        sent = {kind: to.tolist() for kind, to in ledger.sent.items()}
        text = np.frombuffer(json.dumps([sent, ledger.tally.to_json()]).encode(), np.uint8)
        sizes = [n for (n,) in gather_numbers(communicator, [len(text)], _OWN_KIND)]
        texts = np.split(to_host(gather(communicator, text, sizes, _OWN_KIND)), np.cumsum(sizes)[:-1])
        del ledger.sent[_OWN_KIND]
        all_sent, tallies = zip(*(json.loads(bytes(each)) for each in texts), strict=True)
        nothing = [0] * communicator.size
        kinds = dict.fromkeys(kind for each in all_sent for kind in each)
        return cls(
            communicator.size,
            step=step,
            sent={kind: [each.get(kind, nothing) for each in all_sent] for kind in kinds},
            tally=[_by_rank(entries) for entries in zip(*tallies, strict=True)],
        )

    def __add__(self, later: "RunLedger") -> "RunLedger":
        """This one, and what was sent since."""
        sent: dict[str, Any] = {}
        tally: dict[str, dict[str, Any]] = {}
        for ledger in (self, later):
            for kind, matrix in ledger.sent.items():
                sent[kind] = sent.get(kind, 0) + np.array(matrix, np.int64)
            for entry in ledger.tally:
                sums = tally.setdefault(_described(entry), {})
                for name, of_ranks in entry["amounts"].items():
                    sums[name] = sums.get(name, 0) + np.array(of_ranks, np.int64)
        return RunLedger(
            self.num_ranks,
            self.since,
            later.step,
            {kind: matrix.tolist() for kind, matrix in sent.items()},
            [json.loads(d) | {"amounts": {name: a.tolist() for name, a in sums.items()}} for d, sums in tally.items()],
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return msgspec.structs.asdict(self)


def _described(entry: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in entry.items() if name != "amounts"})


def _by_rank(entries: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One entry with the amounts of all ranks, which have entered the same in the same order."""
    first, *others = entries
    if any(_described(other) != _described(first) for other in others):
        raise RuntimeError(f"ranks have done different things: {_described(first)} is not what every rank entered")
    return first | {"amounts": {name: [entry["amounts"][name] for entry in entries] for name in first["amounts"]}}
