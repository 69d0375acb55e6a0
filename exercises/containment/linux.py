"""System calls that Python has no name for."""

import ctypes
import os
import sys
from typing import Any

LINUX = sys.platform == "linux"


def libc() -> Any:
    """The C library."""
    return ctypes.CDLL(None, use_errno=True)


def call(number: int, *args: Any) -> int:
    """A system call by its number. OSError if it fails."""
    result: int = libc().syscall(ctypes.c_long(number), *args)
    return _checked(result)


def prctl(option: int, *args: int) -> int:
    """prctl(2). OSError if it fails."""
    result: int = libc().prctl(option, *(ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]))
    return _checked(result)


def give_up_privileges() -> None:
    """No new rights by executing files; of root's capabilities only reading stays."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
        low = _CAP_DAC_READ_SEARCH
        sets = (ctypes.c_uint32 * 6)(low, low, 0, 0, 0, 0)  # effective, permitted, inheritable; then the high halves
        _checked(libc().capset(header, sets))


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_3 = 0x20080522
_CAP_DAC_READ_SEARCH = 1 << 2
