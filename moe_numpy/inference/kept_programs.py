"""The programs of a decoder, kept for later calls: one for each number of rows."""

from collections.abc import Callable
from typing import Any

from .program import Program, Rooms

MOST_INSTRUCTIONS = 1 << 16  # some 1.5 KB each, and 20 µs to add again
LARGEST = 1 << 28  # bytes that programs work on


class KeptPrograms:
    """Programs by what writes them, and their number of rows.

    One of a kind runs at a time. So all of a kind work in the same memory, and keeping one more costs its instructions
    only: a server, whose calls have many different numbers of rows, adds each program once.
    """

    def __init__(self) -> None:
        self._programs: dict[tuple[Any, int], Program] = {}  # the least recently used first
        self._rooms: dict[Any, Rooms] = {}

    def of(self, write: Callable[[Program], None], num_rows: int) -> Program:
        """The program that ``write`` adds the instructions of; those of another program may change its arrays."""
        key = write.__name__, num_rows
        program = self._programs.pop(key, None)
        if program is None:
            program = Program(num_rows, self._rooms.setdefault(key[0], Rooms()))
            write(program)
        self._programs[key] = program
        return program

    def forget(self) -> None:
        """Let go of what was not used for longest, or of all if its memory has become large."""
        if sum(rooms.nbytes for rooms in self._rooms.values()) > LARGEST:
            self._programs, self._rooms = {}, {}
        total = sum(program.num_instructions for program in self._programs.values())
        while total > MOST_INSTRUCTIONS:
            total -= self._programs.pop(next(iter(self._programs))).num_instructions
