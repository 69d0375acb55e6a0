"""What keeps a learner's code from the rest of the system, layer by layer; each where the system has it.

A layer restricts the process that enters it, for good. ``available`` says which ones this system has; the child
enters them after its imports, before the learner's code.
"""

import sys
from functools import cache

from . import bubblewrap, landlock, seccomp

LAYERS = {
    "Landlock": "the kernel refuses writing outside the process's folder, signals, TCP, and looking into processes",
    "bubblewrap": "namespaces of its own: a read-only file system, no network, no other processes",
    "seccomp": "the kernel ends a process that starts another, opens a socket or sends signals",
    "limits": "memory, processor time, size of files, number of processes",
    "audit": "Python refuses to write outside the folder, delete, start processes, send signals, use sockets",
}


@cache
def available() -> tuple[str, ...]:
    """The layers of this system, strongest first. Bubblewrap only stands in for Landlock."""
    files = "Landlock" if landlock.version() >= landlock.ENOUGH else "bubblewrap" if bubblewrap.works() else ""
    system = (files, "seccomp" if seccomp.works() else "", "limits" if sys.platform != "win32" else "")
    return (*(layer for layer in system if layer), "audit")


def read_only(layers: tuple[str, ...]) -> bool:
    """Whether these layers keep all files but the child's own from being changed."""
    return "Landlock" in layers or "bubblewrap" in layers
