"""The process in which a learner's code runs. It knows inputs, never what is expected of them.

It reads requests from standard input and answers on standard output. Before the learner's code begins, both are
taken out of its reach as far as ordinary code goes, and limits are set. This guards against accidents and simple
tricks; it is no security sandbox.
"""

import importlib
import linecache
import os
import sys
import types
from typing import Any, BinaryIO

import numpy as np

from ..exercise import resolve
from . import outcome as outcomes
from . import wire

# What a solution has no need of; each is named in the message. An audit hook cannot be removed again.
_FORBIDDEN = {
    "os.fork": "start a process",
    "os.forkpty": "start a process",
    "os.posix_spawn": "start a process",
    "os.spawn": "start a process",
    "os.system": "start a process",
    "os.exec": "start a process",
    "subprocess.Popen": "start a process",
    "os.kill": "send signals",
    "os.killpg": "send signals",
    "os.remove": "delete files",
    "os.rmdir": "delete files",
    "os.rename": "move files",
    "os.truncate": "truncate files",
    "shutil.rmtree": "delete files",
    "socket.connect": "use the network",
    "socket.bind": "use the network",
}


class NotAllowedError(Exception):
    """A solution did what no solution needs."""


def main() -> None:
    """Serve requests until standard input ends."""
    requests, answers = _take_over_streams()
    setup = wire.read(requests)
    for name in setup["preload"]:
        importlib.import_module(name)
    task = resolve(TASKS[setup["task"]])(setup)
    _limit(setup["time_limit"], setup["memory"])
    wire.write(answers, {"ready": True})
    hook = _Hook()
    while True:
        try:
            request = wire.read(requests)
        except EOFError:
            os._exit(0)
        snapshot = _Snapshot()
        hook.active = True
        answer = task(request)
        hook.active = False
        if hook.noticed:
            answer["not_allowed"] = hook.noticed
        answer["tampered"] = snapshot.changes()
        _flush()
        wire.write(answers, answer)


class Checking:
    """Answers a request for one check: runs its cases on a freshly loaded solution."""

    def __init__(self, setup: dict[str, Any]):
        self.setup = setup

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """The outcome of each case."""
        run = None if request["run"] is None else resolve(request["run"])
        try:
            solution = load(self.setup)
        except BaseException as error:
            return {"load_error": outcomes.describe_error(error, self.setup["file"])}
        done = outcomes.run_cases(run, solution, request["cases"], self.setup["file"])
        return {"outcomes": [vars(outcome) for outcome in done]}


TASKS = {"check": f"{__name__}:Checking", "train": "exercises.training.child:Training"}


def load(setup: dict[str, Any]) -> Any:
    """The solution: from the learner's source, or a trusted one by its name."""
    if setup["reference"] is not None:
        from ..catalog import trusted

        return trusted(setup["reference"])
    module = types.ModuleType("learner")
    module.__file__ = setup["file"]
    sys.modules["learner"] = module
    source = setup["source"].removeprefix("\ufeff")  # a byte-order mark, which Python skips in a file
    linecache.cache[setup["file"]] = (len(source), None, source.splitlines(keepends=True), setup["file"])
    exec(compile(source, setup["file"], "exec", dont_inherit=True), module.__dict__)
    try:
        return module.__dict__[setup["attribute"]]
    except KeyError:
        raise NameError(f"the file does not define {setup['attribute']}") from None


class _Hook:
    """Refuses forbidden events while it is active, and remembers the first."""

    def __init__(self) -> None:
        self.active = False
        self.noticed = ""
        self.folder = os.path.realpath(os.getcwd()) + os.sep
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        what = self._open(*args) if event == "open" else _FORBIDDEN.get(event)
        if what:
            self.noticed = self.noticed or f"the code tried to {what} ({event})"
            raise NotAllowedError(f"a solution may not {what} ({event})")

    def _open(self, path: Any, mode: Any, flags: int) -> str | None:
        """Reading is free, but for other processes; writing belongs in the process's own folder."""
        if not isinstance(path, str | bytes):
            return None
        path = os.path.realpath(os.fsdecode(path))
        if path.startswith("/proc/") and path.split("/")[2].isdigit():
            return "look into other processes"
        if flags & (os.O_WRONLY | os.O_RDWR) and not path.startswith((self.folder, os.devnull)):
            return "write outside its folder"
        return None


class _Snapshot:
    """Which names of NumPy and of the grader meant what, before the learner's code ran."""

    def __init__(self) -> None:
        watched = [np, np.linalg, np.random, outcomes, wire, outcomes.drivers]
        self.before = [(module, dict(vars(module))) for module in watched]

    def changes(self) -> list[str]:
        """The names that mean something else now."""
        return [
            f"{module.__name__}.{name}"
            for module, names in self.before
            for name, value in names.items()
            if vars(module).get(name) is not value
        ]


def _take_over_streams() -> tuple[BinaryIO, BinaryIO]:
    """Requests and answers on descriptors of their own; print goes to standard error, input() finds nothing."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # the learner's code closed or replaced it


def _limit(seconds: float, memory: int) -> None:
    """Limits of the operating system, where it has them: a backstop behind the parent's clock."""
    try:
        import resource
    except ImportError:
        return
    for name, value in (
        ("RLIMIT_AS", memory),
        ("RLIMIT_CPU", int(seconds * 10) + 10),
        ("RLIMIT_FSIZE", 16 * 2**20),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),
    ):
        try:
            which = getattr(resource, name)
            _, hard = resource.getrlimit(which)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        except (AttributeError, OSError, ValueError):
            continue  # this system has no such limit
