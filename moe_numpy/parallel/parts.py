"""Several ranks in one process, one thread each: the ranks of a job without their processes.

    a part      a rank of the job: a thread, one of P
    a process   has some of the parts; the only one, or one of several that MPI connects

What a part computes depends on P and not on which process runs it. So P parts give the same bits on one process, on two
and on P; that is the deterministic mode of training. One part of a process runs at a time, until it waits for others,
and BLAS uses one thread: its sums depend on how many it has.
"""

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, TypeVar, cast

import numpy as np
from array_api_compat import array_namespace

from ..kernels.threads import one_thread_products
from ..typing import Array, Shaped
from .collectives import shares
from .communicator import Arrived, Communicator, Pending, require_counts
from .ledger import Ledger

Result = TypeVar("Result")


class PartStopped(RuntimeError):
    """Another part of this process has failed, so this one cannot go on."""


def run_parts(between: Communicator, num_parts: int, work: Callable[[Communicator], Result]) -> Result:
    """Call ``work`` once for each part of this process, with the communicator of the part; return the first's result.

    Args:
        between: the processes.
        num_parts: P, of all processes.
        work: what each part does. The first part of a process runs in the calling thread, which gets the signals.

    Raises:
        ValueError: there are fewer parts than processes.
        BaseException: whatever a part raised; of several, the lowest.
    """
    if num_parts < between.size:
        raise ValueError(f"{between.size} processes need at least as many parts, got {num_parts}")
    meeting = _Meeting(between, num_parts)
    first, *others = (Part(meeting, number) for number in range(meeting.own.start, meeting.own.stop))
    threads = [
        threading.Thread(
            target=copy_context().run, args=(meeting.turn, part.rank, lambda part=part: work(part)), daemon=True
        )
        for part in others
    ]
    for thread in threads:
        thread.start()
    result = meeting.turn(first.rank, lambda: work(first))
    for thread in threads:
        thread.join()
    if meeting.error is not None:
        raise meeting.error
    return cast(Result, result)


class Part:
    """The communicator of a part; see :class:`Communicator`."""

    def __init__(self, meeting: "_Meeting", number: int):
        self._meeting = meeting
        self.rank, self.size = number, meeting.num_parts
        self.ledger = Ledger(self.size)

    def exchange(
        self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str
    ) -> Shaped[Array, "M *rest"]:
        require_counts(rows, send, receive, self.size)
        self.ledger.note(kind, rows, send, self.rank)
        return self._meeting.exchange(self.rank, rows, list(send), list(receive), kind)

    def begin(self, rows: Shaped[Array, "N *rest"], send: Sequence[int], receive: Sequence[int], kind: str) -> Pending:
        return Arrived(self.exchange(rows, send, receive, kind))


class _Meeting:
    """Where the parts of one process meet: the last to come does what all came for."""

    def __init__(self, between: Communicator, num_parts: int):
        self.between, self.num_parts = between, num_parts
        self.parts_of = shares(num_parts, between.size)  # of each process
        self.own = self.parts_of[between.rank]
        self._errors: dict[int, BaseException] = {}
        self._running = threading.Lock()  # who has it computes
        self._change = threading.Condition(self._running)
        self._given: dict[int, tuple[Any, list[int], list[int], str]] = {}
        self._taken: dict[int, Any] = {}

    @property
    def error(self) -> BaseException | None:
        """That of the lowest part that has failed by itself; None as long as none has."""
        by_itself = [part for part, error in self._errors.items() if not isinstance(error, PartStopped)]
        return self._errors[min(by_itself or self._errors)] if self._errors else None

    def turn(self, part: int, work: Callable[[], Result]) -> Result | None:
        """What ``work`` returns; None if it, or another part, failed: see ``error``."""
        with self._change, one_thread_products():
            try:
                return work()
            except BaseException as error:
                self._errors[part] = error
                self._change.notify_all()
                return None

    def exchange(self, part: int, rows: Any, send: list[int], receive: list[int], kind: str) -> Any:
        self._given[part] = rows, send, receive, kind
        if len(self._given) == self.own.stop - self.own.start:
            self._taken = self._exchanged()
            self._given = {}
            self._change.notify_all()
        while part not in self._taken:
            if self.error is not None:
                raise PartStopped("another part of this process has failed")
            self._change.wait()
        return self._taken.pop(part)

    def _exchanged(self) -> dict[int, Any]:
        """What comes to each part of this process."""
        given, own = self._given, list(range(self.own.start, self.own.stop))
        kinds = {kind for *_, kind in given.values()}
        if len(kinds) > 1:
            raise RuntimeError(f"the parts of this process exchange different things: {', '.join(sorted(kinds))}")
        pieces = {p: _cut(given[p][0], given[p][1]) for p in own}  # [from][to]
        out = [pieces[p][to] for theirs in self.parts_of for p in own for to in range(theirs.start, theirs.stop)]
        send = [sum(given[p][1][to] for p in own for to in range(t.start, t.stop)) for t in self.parts_of]
        receive = [sum(given[p][2][of] for p in own for of in range(t.start, t.stop)) for t in self.parts_of]
        rows = array_namespace(*out).concat(out)
        come = self.between.exchange(rows, send, receive, kinds.pop())
        sizes = [given[to][2][of] for of in range(self.num_parts) for to in own]
        arrived = _cut(come, sizes)
        return {to: array_namespace(come).concat(arrived[i :: len(own)]) for i, to in enumerate(own)}


def _cut(rows: Any, sizes: Sequence[int]) -> list[Any]:
    ends = np.cumsum(sizes).tolist()
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]
