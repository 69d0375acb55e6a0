"""What ranks have to move, counted where it is decided and not where it is sent.

The ledger has the bytes that left; :mod:`moe_numpy.accounting.exchange_costs` says from a tally how many must have.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..typing import Array, Int


class Tally:
    """Sums of this rank by what they are of."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Any]] = {}

    def add(self, what: str, described: Mapping[str, Any], **amounts: int | Int[Array, " _"]) -> None:
        """Add to the entry of this description, which is made if there is none.

        Args:
            what: what the entry is of, such as ``"layer"``.
            described: plain values, the same on every rank.
            amounts: numbers of this rank, such as its tokens.
        """
        sums = self._entries.setdefault(json.dumps({"what": what, **described}), {})
        for name, amount in amounts.items():
            sums[name] = sums.get(name, 0) + np.asarray(amount, np.int64)

    def to_json(self) -> list[dict[str, Any]]:
        """The descriptions, each with ``amounts``, as plain values."""
        return [
            {**json.loads(described), "amounts": {name: amount.tolist() for name, amount in sums.items()}}
            for described, sums in self._entries.items()
        ]
