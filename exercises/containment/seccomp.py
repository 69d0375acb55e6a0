"""A filter of system calls: the kernel ends a process that starts another, opens a socket or sends signals.

Source: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from typing import NamedTuple

from . import linux

_SECCOMP_MODE_FILTER, _ALL_THREADS, _PR_GET_SECCOMP = 1, 1, 21
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_CLONE_THREAD = 0x10000
_X32 = 0x40000000  # the other numbering of x86-64
_CLONE3 = 435  # its flags lie in memory, out of the filter's sight; without it the C library takes clone


class _Machine(NamedTuple):
    """Numbers of system calls.

    Attributes:
        audit: the architecture, as the kernel calls it.
        seccomp: the call that sets a filter.
        clone: ends the process unless it makes a thread.
        kill: end the process: starting others, sockets, looking into others, System V memory, io_uring.
        own: end the process unless the first argument is its own id: signals.
        own_or_none: fail unless the first argument is 0 or its own id: limits and processors.
        fail: rights, owners and times of files, which Landlock does not know; mounts; priorities.
    """

    audit: int
    seccomp: int
    clone: int
    kill: tuple[int, ...]
    own: tuple[int, ...]
    own_or_none: tuple[int, ...]
    fail: tuple[int, ...]


_MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        seccomp=317,
        clone=56,
        kill=(57, 58, 59, 322, 41, 53, 101, 310, 311, 425, 29, 64, 68, 240, 200, 129, 297, 424, 434, 438),
        own=(62, 234),
        own_or_none=(302, 203),
        fail=(
            *(90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199),
            *(133, 259, 272, 308, 161, 165, 166, 144, 141),
        ),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        seccomp=277,
        clone=220,
        kill=(221, 281, 198, 199, 117, 270, 271, 425, 194, 190, 186, 180, 130, 138, 240, 424, 434, 438),
        own=(129, 131),
        own_or_none=(261, 122),
        fail=(52, 53, 452, 55, 54, 88, 5, 6, 7, 14, 15, 16, 33, 97, 268, 51, 40, 39, 119, 140),
    ),
}


def works() -> bool:
    """Whether this kernel has filters, and the numbers of its machine are known."""
    try:
        return linux.LINUX and platform.machine() in _MACHINES and linux.prctl(_PR_GET_SECCOMP) in (0, 2)
    except (OSError, AttributeError):
        return False


def enter() -> None:
    """From now on the filter holds for all threads of this process."""
    machine = _MACHINES[platform.machine()]
    program = b"".join(_program(machine, os.getpid()))
    code = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    linux.call(machine.seccomp, _SECCOMP_MODE_FILTER, _ALL_THREADS, pointer)


def _program(machine: _Machine, pid: int) -> Iterator[bytes]:
    """In the machine language of the Berkeley packet filter."""
    fail = _ERROR | errno.EPERM
    yield _step(_LOAD, _ARCHITECTURE)
    yield from _unless(_EQUAL, machine.audit, _KILL)
    yield _step(_LOAD, _NUMBER)
    yield from _when(_AT_LEAST, _X32, _KILL)
    yield from _when(_EQUAL, _CLONE3, _ERROR | errno.ENOSYS)
    for numbers, answer in ((machine.kill, _KILL), (machine.fail, fail)):
        for number in numbers:
            yield from _when(_EQUAL, number, answer)
    yield from _by_argument(machine.clone, [(_ANY_BIT, _CLONE_THREAD)], _KILL)
    for number in machine.own:
        yield from _by_argument(number, [(_EQUAL, pid)], _KILL)
    for number in machine.own_or_none:
        yield from _by_argument(number, [(_EQUAL, pid), (_EQUAL, 0)], fail)
    yield _step(_RETURN, _ALLOW)


def _by_argument(number: int, allowed: list[tuple[int, int]], otherwise: int) -> Iterator[bytes]:
    """For this call: allowed if one of the tests of its first argument holds."""
    yield _step(_EQUAL, number, 0, 2 * len(allowed) + 2)
    yield _step(_LOAD, _FIRST_ARGUMENT)
    for test, value in allowed:
        yield from _when(test, value, _ALLOW)
    yield _step(_RETURN, otherwise)


def _when(test: int, value: int, answer: int) -> Iterator[bytes]:
    yield _step(test, value, 0, 1)
    yield _step(_RETURN, answer)


def _unless(test: int, value: int, answer: int) -> Iterator[bytes]:
    yield _step(test, value, 1, 0)
    yield _step(_RETURN, answer)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the last two say how many to skip."""
    return struct.pack("<HBBI", code, if_true, if_false, value)
