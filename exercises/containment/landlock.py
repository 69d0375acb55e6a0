"""Landlock: Linux itself refuses what the process may not do with files, signals and TCP.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import struct
from functools import cache

from . import linux

ENOUGH = 3  # the first version that knows truncation
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << i for i in range(4))
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK, _TRUNCATE = 1 << 6, 1 << 9, 1 << 11, 1 << 14
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many a version knows
_TCP = 0b11  # bind, connect; since 4
_SCOPES = 0b11  # abstract sockets, signals; since 6


@cache
def version() -> int:
    """Of the kernel's Landlock; 0 if there is none."""
    try:
        return linux.call(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION) if linux.LINUX else 0
    except (OSError, AttributeError):
        return 0


def enter(folder: str) -> None:
    """From now on this process changes nothing but files below ``folder``, and reaches no other process."""
    known = version()
    every = (1 << _FILE_RIGHTS.get(known, 16)) - 1
    handled = every & ~(_READ_FILE | _READ_DIR)  # reading stays free
    rules = struct.pack("<QQQ", handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = linux.call(_CREATE_RULESET, rules, ctypes.c_size_t(size), 0)
    own = handled & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK)
    for path, rights in ((folder, own), (os.devnull, handled & (_WRITE_FILE | _TRUNCATE))):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        linux.call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("<Qi", rights, descriptor), 0)
        os.close(descriptor)
    linux.call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
