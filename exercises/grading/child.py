"""The process in which a learner's code runs. It knows inputs, never what is expected of them.

It reads requests from standard input and answers on standard output. Before the learner's code begins, both are
taken out of its reach as far as ordinary code goes, and the process enters the layers of ``containment``.
"""

import builtins
import importlib
import io
import linecache
import os
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import moe_numpy

from .. import exercise
from ..containment import audit, landlock, limits, linux, seccomp
from ..exercise import resolve
from . import outcome as outcomes
from . import wire
from .borrowing import Watch

NOT_ALLOWED = "not allowed"  # in the place of a request's number
_PROTECTED = tuple(str(Path(module.__file__ or "").parent) for module in (np, moe_numpy, exercise))


def main() -> None:
    """Serve requests until standard input ends."""
    requests, answers = _take_over_streams()
    setup = wire.read(requests)
    prepare(setup["preload"])
    task = resolve(TASKS[setup["task"]])(setup)
    layers = _enter(setup, answers.fileno())
    wire.write(answers, {"id": "ready", "answer": {"layers": layers}})
    while True:
        try:
            request = wire.read(requests)
        except EOFError:
            os._exit(0)
        snapshot = Snapshot()
        answer = task(request["request"])
        answer["tampered"] = snapshot.changes()
        _flush()
        wire.write(answers, {"id": request["id"], "answer": answer})


class Checking:
    """Answers a request for one check: runs its cases on a freshly loaded solution."""

    def __init__(self, setup: dict[str, Any]):
        self.setup = setup
        self.watch = Watch(setup["answer"], setup["file"])
        prepare_for(setup)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """The outcome of each case, and whether the library's own answer was seen; not where ``timed``, as that takes
        time."""
        run = None if request["run"] is None else resolve(request["run"])
        watched = nullcontext if request["timed"] else self.watch.calls
        with self.watch.reading():
            try:
                solution = load(self.setup)
                self.watch.loaded(solution)
            except BaseException as error:
                return {"load_error": outcomes.describe_error(error, self.setup["file"])}
            done = outcomes.run_cases(run, solution, request["cases"], self.setup["file"], watched)
        return {"outcomes": [vars(outcome) for outcome in done], "borrowed": self.watch.seen}


TASKS = {"check": f"{__name__}:Checking", "train": "exercises.training.child:Training"}


def prepare_for(setup: dict[str, Any]) -> None:
    """Import numba, before the process is limited, where a learner's source speaks of it."""
    if "numba" in (setup["source"] or ""):
        importlib.import_module("exercises.reference.uncached_numba")


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


def prepare(preload: list[str]) -> None:
    """Import what a solution may need, while that may still read and start what it likes."""
    importlib.import_module("numpy.testing")  # array_namespace imports it, and an old NumPy then starts lscpu
    for name in preload:
        importlib.import_module(name)


def _enter(setup: dict[str, Any], descriptor: int) -> list[str]:
    """Go behind the layers that the parent chose. Those that hold."""
    folder = os.getcwd()
    if "limits" in setup["layers"]:
        limits.enter(setup["time_limit"], setup["memory"])
    entered = [layer for layer in setup["layers"] if layer in ("bubblewrap", "limits")]
    for layer, enter in (("Landlock", lambda: landlock.enter(folder)), ("seccomp", seccomp.enter)):
        if layer in setup["layers"]:
            try:
                linux.give_up_privileges()
                enter()
            except OSError:
                continue  # the parent learns from what is missing
            entered.append(layer)
    if "audit" in setup["layers"]:
        audit.enter(_not_allowed, descriptor, _PROTECTED)
        entered.append("audit")
    return entered


def _not_allowed(sentence: str) -> bytes:
    message = io.BytesIO()
    wire.write(message, {"id": NOT_ALLOWED, "answer": {"not_allowed": sentence}})
    return message.getvalue()


class Snapshot:
    """Which names of NumPy, of the grader and of Python meant what, before the learner's code ran."""

    def __init__(self) -> None:
        watched = [np, np.linalg, np.random, outcomes, wire, outcomes.drivers, os, os.path, builtins]
        self.before = [(module, dict(vars(module))) for module in watched]

    def changes(self) -> list[str]:
        """The names that mean something else now."""
        return [
            f"{module.__name__}.{name}"
            for module, names in self.before
            for name, value in names.items()
            if vars(module).get(name) is not value
        ]

    def restore(self) -> None:
        """Let every name mean again what it meant."""
        for module, names in self.before:
            vars(module).update(names)


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
