"""Experts in mapped files: the system reads pages when they are touched, and forgets them when memory is short."""

import mmap
from collections.abc import Mapping, Sequence

import numpy as np

from .byte_ranges import PAGE, ByteRange
from .expert_store import ExpertStore, Views, read_only


class MappedStore(ExpertStore):
    """For models that fit into memory. Nothing is copied.

    Which pages are in memory is up to the system, so every request counts as a hit, and no bytes as read. A file must
    not be made shorter while its arrays are in use: the system would end the process (SIGBUS). One that is shorter when
    an expert is asked for gives an error.
    """

    def __init__(self, ranges: Mapping[tuple[int, int], Sequence[ByteRange]]):
        super().__init__(ranges, direct=False)
        self._maps = {path: file.map() for path, file in self._files.items()}
        self._bytes = {path: read_only(np.frombuffer(mapped, np.uint8)) for path, mapped in self._maps.items()}

    def get(self, layer: int, experts: Sequence[int]) -> list[Views]:
        self._require(layer, experts)
        for path in {each.file for e in experts for each in self._experts[layer, e]}:
            self._files[path].require_unchanged()
        self.counts[layer].requests += len(experts)
        self.counts[layer].hits += len(experts)
        return [[self._bytes[r.file][r.offset : r.end] for r in self._experts[layer, e]] for e in experts]

    def require_unchanged(self) -> None:
        """StoreError if a file is not what it was when it was mapped."""
        for file in self._files.values():
            file.require_unchanged()

    def prefetch(self, layer: int, experts: Sequence[int]) -> None:
        self._require(layer, experts)
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for e in experts:
            for each in self._experts[layer, e]:
                start = each.offset // PAGE * PAGE
                if each.nbytes:
                    self._maps[each.file].madvise(mmap.MADV_WILLNEED, start, each.end - start)

    def present(self, layer: int) -> list[int]:
        return list(range(self.experts[layer]))
