"""How ranks reach one another. The rest of the package knows this face, and no rank by itself.

A communicator moves rows of one array: to each rank its part, from each rank what it sends here. All else is made of
that (:mod:`collectives`), so a further way to connect ranks needs no more than ``rank``, ``size`` and ``exchange``.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ..typing import Array, Shaped
from .ledger import Ledger


@runtime_checkable
class Communicator(Protocol):
    """The ranks of one job, as one of them sees them.

    Attributes:
        rank: the own number, 0 to size - 1.
        size: R, how many there are.
        ledger: what was sent, and what there was to send.
    """

    rank: int
    size: int
    ledger: Ledger

    def exchange(
        self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str
    ) -> Shaped[Array, "M *rest"]:
        """Send the first ``send[0]`` rows to rank 0, the next ``send[1]`` to rank 1 ...; return what comes, by rank.

        All ranks call it, in the same order; ``receive[r]`` must be what rank r sends here.

        Args:
            rows: of any dtype, on the device of this rank.
            send: Σ send = N.
            receive: Σ receive = M.
            kind: under which the ledger counts the bytes.
        """

    def begin(
        self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str
    ) -> "Pending":
        """The same, and do not wait: computing goes on until :meth:`Pending.wait`."""


@runtime_checkable
class Pending(Protocol):
    """Rows that are on their way."""

    def wait(self) -> Any:
        """The rows, once they are there."""


class Arrived:
    """Rows that need no waiting."""

    def __init__(self, rows: Any):
        self._rows = rows

    def wait(self) -> Any:
        return self._rows


class Then:
    """Rows that are on their way, and what is done with them once they are there."""

    def __init__(self, pending: Pending, work: Callable[[Any], Any]):
        self._pending, self._work = pending, work

    def wait(self) -> Any:
        return self._work(self._pending.wait())


class Alone:
    """The only rank of a job: what is sent is what comes."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.ledger = Ledger(1)

    def exchange(
        self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str
    ) -> Shaped[Array, "M *rest"]:
        require_counts(rows, send, receive, 1)
        return rows

    def begin(self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str) -> Pending:
        return Arrived(self.exchange(rows, send, receive, kind))


def require_counts(rows: Any, send: Sequence[int], receive: Sequence[int], size: int) -> None:
    """ValueError unless there is one number for each rank, and as many rows as are sent."""
    if len(send) != size or len(receive) != size:
        raise ValueError(f"expected counts for {size} ranks, got {len(send)} to send and {len(receive)} to receive")
    if sum(send) != len(rows):
        raise ValueError(f"{sum(send)} rows are to be sent, got {len(rows)}")
