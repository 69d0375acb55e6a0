"""Experts that are read when they are asked for, into a fixed number of slots of memory."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .byte_ranges import PAGE, ByteRange
from .expert_store import ExpertStore, Views, read_only
from .policies import policy_named
from .residency import Residency

_THREADS = 4
_DEFAULT = "next-layer"


class SlotStore(ExpertStore):
    """For models larger than memory.

    All slots have the size of the largest expert, in whole pages. Files are read with O_DIRECT where the system and the
    file system have it, and otherwise through the page cache, from which the pages are dropped again. What leaves
    memory, and when, depends on the calls only, never on how fast something was read.

    Args:
        ranges: where each expert is.
        memory: bytes for slots.
        at_once: experts of one layer that are in use at the same time at most: top-k.
        policy: which expert leaves, a name from :data:`moe_numpy.inference.POLICIES`.
        direct: whether to try O_DIRECT.

    Attributes:
        num_slots: of the memory.

    Raises:
        ValueError: memory is below what ``at_once`` experts need; the message says how much that is.
        StoreError: a file cannot be opened, or is too short.
    """

    def __init__(
        self,
        ranges: Mapping[tuple[int, int], Sequence[ByteRange]],
        memory: int,
        *,
        at_once: int = 1,
        policy: str = _DEFAULT,
        direct: bool = True,
    ):
        chosen = policy_named(policy)
        self._demanded, self._background = (ThreadPoolExecutor(_THREADS, f"experts {kind}") for kind in ("now", "soon"))
        super().__init__(ranges, direct=direct)
        if memory < at_once * self.slot_bytes:
            self.close()
            raise ValueError(
                f"memory of {memory:,} bytes is too little: the {at_once} experts that one layer uses at once need "
                f"{at_once * self.slot_bytes:,}"
            )
        self.num_slots = min(memory // self.slot_bytes, len(ranges))
        num_layers, num_experts = (1 + max(key[axis] for key in ranges) for axis in (0, 1))
        self._residency = Residency(num_layers, num_experts, self.num_slots, chosen)
        self._slots = aligned(self.num_slots * self.slot_bytes).reshape(self.num_slots, self.slot_bytes)
        self._shown = read_only(self._slots)
        self._pending: dict[int, _Reading] = {}  # by slot: the last read into it
        self._missed_ahead: set[tuple[int, int]] = set()  # by each(), and already counted

    @classmethod
    def resident(cls, ranges: Mapping[tuple[int, int], Sequence[ByteRange]]) -> "SlotStore":
        """A store with room for all experts, which are read now."""
        store = cls(ranges, memory=2**63)
        for layer, num_experts in store.experts.items():
            store.prefetch(layer, [e for e in range(num_experts) if (layer, e) in ranges])
            store.expect(layer, [])
        try:
            for reading in store._pending.values():
                reading.future.result()
        except BaseException:
            store.close()
            raise
        return store

    def get(self, layer: int, experts: Sequence[int]) -> list[Views]:
        self._require(layer, experts)
        wanted = list(dict.fromkeys(experts))
        missing = self._residency.request(layer, wanted)
        counts = self.counts[layer]
        missed = set(missing)
        if self._missed_ahead:
            missed.update(e for e in wanted if (layer, e) in self._missed_ahead)
            self._missed_ahead.difference_update((layer, e) for e in wanted)
        counts.requests += len(wanted)
        counts.hits += len(wanted) - len(missed)
        began = time.perf_counter()
        self._begin(layer, missing, self._demanded)
        self._wait(layer, wanted[::-1])  # the last one has most likely not begun, and is read here
        counts.seconds_waited += time.perf_counter() - began
        return [self._views(layer, e) for e in experts]

    def prefetch(self, layer: int, experts: Sequence[int]) -> None:
        self.expect(layer, experts)
        coming = self._residency.load_ahead(layer, list(dict.fromkeys(experts)))
        self.counts[layer].prefetched += len(coming)
        self._begin(layer, coming, self._background)

    def expect(self, layer: int, experts: Sequence[int]) -> None:
        super().expect(layer, experts)
        self._residency.history.expect(layer, experts)

    def release(self) -> None:
        self._residency.release()

    def present(self, layer: int) -> list[int]:
        return self._residency.present(layer)

    def close(self) -> None:
        for pool in (self._demanded, self._background):
            pool.shutdown(wait=True, cancel_futures=True)
        super().close()

    def _read_ahead(self, layer: int, expected: Sequence[int], experts: Sequence[int]) -> None:
        self.expect(layer, expected)
        coming = self._residency.load_ahead(layer, experts)
        self._missed_ahead.update((layer, e) for e in coming)
        self._begin(layer, coming, self._demanded)

    def _begin(self, layer: int, experts: Sequence[int], pool: ThreadPoolExecutor) -> None:
        """Let threads read experts into their slots."""
        for e in experts:
            self.counts[layer].bytes_read += self.layouts[layer, e].nbytes
            slot = self._residency.slot[layer][e]
            last = self._pending.get(slot)
            running = None if last is None else last.running()
            self._pending[slot] = _Reading(pool.submit(self._read, (layer, e), slot, running), running)

    def _read(self, key: tuple[int, int], slot: int, running: Future | None) -> None:
        """Fill a slot, when an earlier read into it has ended."""
        if running is not None:
            running.exception()
        buffer = memoryview(self._slots[slot])
        for run in self.layouts[key].runs:
            self._files[run.file].read(run.start, run.end - run.start, buffer[run.at : run.at + run.room])

    def _wait(self, layer: int, experts: Sequence[int]) -> None:
        """Until these have arrived. What could not be read is not in memory afterwards."""
        first: Exception | None = None
        for e in experts:
            slot = self._residency.slot[layer][e]
            reading = self._pending.pop(slot, None)
            if reading is None:
                continue
            try:
                if reading.future.cancel():  # it waits behind others, which are less urgent
                    self._read((layer, e), slot, reading.after)
                else:
                    reading.future.result()
            except Exception as error:
                self._residency.drop(layer, e)
                first = first or error
            except BaseException:  # Ctrl-C: the read may go on, and what comes into this slot next must wait for it
                self._pending[slot] = reading
                self.release()
                raise
        if first is not None:
            self.release()
            raise first

    def _views(self, layer: int, expert: int) -> Views:
        slot = self._shown[self._residency.slot[layer][expert]]
        return [slot[begin:end] for begin, end in self.layouts[layer, expert].places]


@dataclass(frozen=True)
class _Reading:
    """A read into a slot, and the one before it that had begun and must end first."""

    future: Future
    after: Future | None

    def running(self) -> Future | None:
        """Give this read up if it has not begun; what writes into the slot then."""
        return self.after if self.future.cancel() else self.future


def aligned(nbytes: int) -> Any:
    """Memory that begins at a multiple of a page; the system provides each page when it is first written."""
    memory = np.empty(nbytes + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + nbytes]
