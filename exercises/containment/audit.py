"""An audit hook: Python itself refuses what no solution needs, and says what it was.

The hook cannot be removed. It has no switch and no memory that a solution could find and change: whatever it refuses it
reports to the parent at once, and ends the process. Code that leaves Python, with ctypes, or replaces what the hook
itself calls, gets around it; that is what the other layers are for.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

# Refused wherever it happens.
_NEVER = {
    "os.fork": "start a process",
    "os.forkpty": "start a process",
    "os.posix_spawn": "start a process",
    "os.spawn": "start a process",
    "os.system": "start a process",
    "os.exec": "start a process",
    "os.startfile": "start a process",
    "subprocess.Popen": "start a process",
    "os.kill": "send signals",
    "os.killpg": "send signals",
    "signal.pthread_kill": "send signals",
    "os.remove": "delete files",
    "os.rmdir": "delete files",
    "shutil.rmtree": "delete files",
    "os.truncate": "truncate files",
    "os.link": "make hard links",
    "socket.__new__": "use the network",
    "socket.connect": "use the network",
    "socket.bind": "use the network",
    "socket.sendto": "use the network",
    "socket.sendmsg": "use the network",
    "socket.getaddrinfo": "use the network",
    "socket.gethostbyname": "use the network",
}
# Refused for paths outside the folder; how many of the first arguments are such paths.
_OUTSIDE = {
    "os.rename": ("move files", 2),
    "os.symlink": ("make links", 2),
    "os.mkdir": ("make folders", 1),
    "os.chmod": ("change rights", 1),
    "os.chown": ("change owners", 1),
    "os.utime": ("change times", 1),
    "os.setxattr": ("change attributes", 1),
    "os.removexattr": ("change attributes", 1),
}
_CODE = ("__code__", "__defaults__", "__kwdefaults__")  # setting one of them replaces what runs
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def enter(report: Callable[[str], bytes], descriptor: int, protected: tuple[str, ...]) -> None:
    """From now on the hook holds.

    Args:
        report: makes the message for a sentence.
        descriptor: where that message is sent.
        protected: folders of code whose functions may not be changed.
    """

    def message(what: str, event: str) -> bytes:
        return report(f"the code tried to {what} ({event})")

    never = tuple((event, 0, message(what, event)) for event, what in _NEVER.items())
    outside = tuple((event, count, message(what, event)) for event, (what, count) in _OUTSIDE.items())
    opening = (
        message("write outside its folder", "open"),
        message("look into other processes", "open"),
        message("open a folder outside its own", "open"),
    )
    replaced = message("replace the code of a function", "object.__setattr__")
    folder = os.path.realpath(os.getcwd()) + os.sep
    sys.addaudithook(_hook(never + outside, opening, replaced, folder, protected, descriptor))


def _hook(
    rules: tuple[tuple[str, int, bytes], ...],
    opening: tuple[bytes, bytes, bytes],
    replaced: bytes,
    folder: str,
    protected: tuple[str, ...],
    descriptor: int,
) -> Callable[[str, tuple[Any, ...]], None]:
    """What it needs are tuples and numbers among its defaults, themselves a tuple: none changes without an event."""

    def hook(
        event: str,
        args: tuple[Any, ...],
        events: Any = frozenset(rule[0] for rule in rules) | {"open", "object.__setattr__"},
        rules: Any = rules,
        opening: Any = opening,
        replaced: Any = replaced,
        folder: str = folder,
        protected: Any = protected,
        codes: Any = _CODE,
        descriptor: int = descriptor,
        verdict: Any = _of_open,
        inside: Any = _inside,
        write: Any = os.write,
        end: Any = os._exit,
    ) -> None:
        if event not in events:
            return
        message = None
        if event == "open":
            message = verdict(opening, folder, *args)
        elif event == "object.__setattr__":
            if args[1] in codes and args[0].__code__.co_filename.startswith(protected):
                message = replaced
        else:
            for name, paths, text in rules:
                if name == event and not (paths and inside(folder, args[:paths])):
                    message = text
        if message is not None:
            write(descriptor, message)
            end(0)

    return hook


def _of_open(messages: tuple[bytes, bytes, bytes], folder: str, path: Any, mode: Any, flags: int) -> bytes | None:
    """Reading is free, but for other processes and for descriptors of folders; writing belongs in the own folder."""
    write, process, directory = messages
    if not isinstance(path, str | bytes):
        return None
    path = os.path.realpath(os.fsdecode(path))
    if path.startswith("/proc/") and path.split("/")[2].isdigit():
        return process
    if path == os.devnull or (path + os.sep).startswith(folder):
        return None
    if flags & _CHANGES:
        return write
    return directory if os.path.isdir(path) else None


def _inside(folder: str, paths: tuple[Any, ...]) -> bool:
    """Whether all of them lie in the folder; a descriptor does, since no other can be had."""
    return all(isinstance(p, int) or (os.path.realpath(os.fsdecode(p)) + os.sep).startswith(folder) for p in paths)
