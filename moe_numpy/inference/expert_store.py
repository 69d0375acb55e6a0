"""The experts of a model in their files: what a layer asks for, however it comes into memory.

with SlotStore(ranges, memory=300 * 2**20, at_once=4) as store:
    store.prefetch(1, guessed)                   # read while layer 0 computes
    for views in store.get(1, chosen): ...       # waits for what has not arrived
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from ..typing import Array, UInt8
from .byte_ranges import PAGE, ByteRange, Layout, layout_of
from .counts import LayerCounts
from .open_file import OpenFile
from .prefill import prefill_order

Views = list[UInt8[Array, " n"]]
_AHEAD = 3  # experts that are read while one is used


class ExpertStore:
    """The bytes of experts by (layer, expert). One thread may use it.

    Args:
        ranges: where each expert is. A layer has experts 0 to E - 1.

    Attributes:
        counts: what was asked for and read, by layer.

    Raises:
        StoreError: a file cannot be opened, or is too short.
        ValueError: there are no experts.
    """

    def __init__(self, ranges: Mapping[tuple[int, int], Sequence[ByteRange]], *, direct: bool):
        if not ranges:
            raise ValueError("there are no experts to store")
        self._experts = {key: tuple(of) for key, of in ranges.items()}
        self.counts = {layer: LayerCounts() for layer in sorted({layer for layer, _ in ranges})}
        self._files: dict[Path, OpenFile] = {}
        ends: dict[Path, int] = {}
        for of in self._experts.values():
            for each in of:
                ends[each.file] = max(each.end, ends.get(each.file, 0))
        try:
            for path, end in ends.items():
                self._files[path] = OpenFile(path, end, direct=direct)
        except BaseException:
            self.close()
            raise

    def get(self, layer: int, experts: Sequence[int]) -> list[Views]:
        """The bytes of experts: for each, one read-only array per range, in the order of the ranges.

        They stay valid until the next request to another layer, or :meth:`release`.

        Raises:
            ValueError: there is no such expert, or no room for all of them and those still in use.
            StoreError: reading failed, or a file has changed; it names the file.
        """
        raise NotImplementedError

    def prefetch(self, layer: int, experts: Sequence[int]) -> None:
        """Begin to read experts that are likely to be asked for at the next turn of a layer.

        Nothing in use and nothing expected leaves memory for them: what has no room is not read.
        """
        raise NotImplementedError

    def expect(self, layer: int, experts: Sequence[int]) -> None:
        """Tell the policy which experts are likely to be asked for at the next turn of a layer; nothing is read."""
        self._require(layer, experts)

    def release(self) -> None:
        """No array that :meth:`get` gave is in use any more."""

    def present(self, layer: int) -> list[int]:
        """The experts of a layer that are in memory."""
        raise NotImplementedError

    def each(self, layer: int, rows: Mapping[int, int]) -> Iterator[tuple[int, Views]]:
        """Experts and their bytes, one after the other in the order of :func:`prefill_order`, each read once.

        While one is used the next are read. An array is valid until the next expert is taken; all other arrays are
        released.

        Args:
            layer: of the experts.
            rows: how many tokens chose each expert.
        """
        order = prefill_order(rows, self.present(layer))
        self._require(layer, order)
        self.release()
        for i, e in enumerate(order):
            self._read_ahead(layer, order[i:], order[i : i + 1 + _AHEAD])
            (views,) = self.get(layer, [e])
            yield e, views
            self.release()

    def nbytes(self, layer: int, expert: int) -> int:
        """The bytes of an expert."""
        self._require(layer, [expert])
        return sum(each.nbytes for each in self._experts[layer, expert])

    @cached_property
    def layouts(self) -> dict[tuple[int, int], Layout]:
        """How each expert is read into a slot."""
        return {key: layout_of(of) for key, of in self._experts.items()}

    @cached_property
    def slot_bytes(self) -> int:
        """The memory that one expert takes: that of the largest, in whole pages."""
        return max(layout.size for layout in self.layouts.values()) or PAGE

    @cached_property
    def experts(self) -> dict[int, int]:
        """E of each layer."""
        of = dict.fromkeys(self.counts, 0)
        for layer, e in self._experts:
            of[layer] = max(of[layer], e + 1)
        return of

    def close(self) -> None:
        """Close the files; the arrays are not valid any more."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> "ExpertStore":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read_ahead(self, layer: int, expected: Sequence[int], experts: Sequence[int]) -> None:
        """Begin to read experts that :meth:`each` is about to use."""

    def _require(self, layer: int, experts: Sequence[int]) -> None:
        for e in experts:
            if (layer, e) not in self._experts:
                raise ValueError(f"there is no expert {e} in layer {layer}")


def read_only(array: Array) -> Array:
    """A view that cannot be written to."""
    view: np.ndarray = array.view()
    view.flags.writeable = False
    return view
