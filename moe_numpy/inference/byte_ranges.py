"""Where the bytes of an expert are in files, and where they go in a slot of memory.

What lies side by side in one file is read as one run. Runs begin and end at multiples of a page, in the file and in the
slot: reading past the page cache (O_DIRECT) needs that, and up to two pages more are read than asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``nbytes`` bytes of a file from ``offset`` on."""

    file: Path
    offset: int
    nbytes: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.nbytes < 0:
            raise ValueError(f"offset and nbytes must not be negative, got {self.offset} and {self.nbytes}")

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + self.nbytes


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes that are read at once.

    Attributes:
        file: that has them.
        start: in the file, a multiple of a page.
        end: in the file, after the last byte that is needed.
        at: where they go in the slot, a multiple of a page.
    """

    file: Path
    start: int
    end: int
    at: int

    @property
    def room(self) -> int:
        """Bytes in the slot: whole pages."""
        return -(-(self.end - self.start) // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class Layout:
    """One expert in a slot.

    Attributes:
        runs: what to read.
        places: begin and end in the slot of each range, in the order in which they were given.
        nbytes: of the ranges, without what is read besides.
        size: of the slot.
    """

    runs: tuple[Run, ...]
    places: tuple[tuple[int, int], ...]
    nbytes: int
    size: int


def layout_of(ranges: Sequence[ByteRange]) -> Layout:
    """How an expert is read into a slot."""
    runs: list[Run] = []
    starts: dict[ByteRange, int] = {}
    size = 0
    for each in sorted(ranges, key=lambda r: (str(r.file), r.offset, r.end)):
        last = runs[-1] if runs else None
        if last is not None and last.file == each.file and each.offset <= last.end:
            runs[-1] = Run(last.file, last.start, max(last.end, each.end), last.at)
        else:
            runs.append(Run(each.file, each.offset // PAGE * PAGE, each.end, size))
        run = runs[-1]
        starts[each] = run.at + each.offset - run.start
        size = run.at + run.room
    places = tuple((starts[r], starts[r] + r.nbytes) for r in ranges)
    return Layout(tuple(runs), places, sum(r.nbytes for r in ranges), size)
