"""Whether a solution runs or reads the library's own answer: seen while it runs, whatever way leads there.

``library_use`` reads a solution's source and sees what is written in it. This sees what happens: that the required name
is the library's, that ``getattr`` finds the answer, that a copy of its source is run.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

from .. import drivers
from ..exercise import Exercise, reference_to
from ..library_use import is_namesake
from ..source import parts_of
from ..stubs import make_stub
from . import outcome

_LOOPS = "moe_numpy.kernels.on_numba"
_READERS = ("importlib._bootstrap_external", "traceback")  # read sources to import them, or to show a line of them


@cache
def answer_of(exercise: Exercise) -> list[dict[str, Any]]:
    """The functions of the library's own answer, in a form that travels to a child.

    They are the target with its methods, kernels of its name, the specification, and those private helpers that the
    stub does not name. A helper is ``direct``: it counts only where the solution itself calls it, since other functions
    of the library call it, too.
    """
    stub = make_stub(exercise)
    found = [(*exercise.target.split(":"), False), (*reference_to(exercise.specification).split(":"), False)]
    if "." not in exercise.target.partition(":")[2]:
        found.append((_LOOPS, exercise.attribute, False))
    for source, node in parts_of(exercise.target)[1:]:
        if is_namesake(exercise, node.name):
            found += [(source.module.__name__, node.name, False), (_LOOPS, node.name, False)]
        elif node.name.startswith("_") and node.name not in stub:
            found.append((source.module.__name__, node.name, True))
    return [
        {
            "name": f"{module}.{code.co_qualname}",
            "file": code.co_filename,
            "qualname": code.co_qualname,
            "digest": _digest(code),
            "direct": direct,
        }
        for module, name, direct in found
        for code in _codes_of(module)
        if code.co_qualname == name or code.co_qualname.rpartition(".")[0] == name
    ]


@cache
def _codes_of(module: str) -> list[CodeType]:
    """The code of all functions and classes in a module's file."""
    found = find_spec(module)  # not imported: that of numba's loops takes a second
    file = os.path.realpath((found and found.origin) or "")
    return list(_codes_in(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)))


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes_in(constant)


def _digest(code: CodeType) -> str:
    """The same for copies of a function, whatever their files, lines and docstrings."""
    constants = [_digest(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts if type(c) is not str]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()


class Watch:
    """Looks out for the library's own answer while a solution is loaded and run.

    Attributes:
        seen: what the solution did, in words; empty if nothing.

    Args:
        answer: as of :func:`answer_of`.
        learner_file: the name of the solution's file.
    """

    def __init__(self, answer: list[dict[str, Any]], learner_file: str):
        self.seen = ""
        self._file = learner_file
        self._places = {(function["file"], function["qualname"]): function for function in answer}
        self._digests = {function["digest"]: function for function in answer}
        self._files = {function["file"] for function in answer}
        self._known: dict[int, Any] = {}  # the function of the answer, or None, by the id of code
        self._alive: list[CodeType] = []  # so that no other code gets the same id

    def loaded(self, solution: Any) -> None:
        """Look at what the required name stands for, where running it is not seen: code that numba compiled."""
        code = getattr(getattr(solution, "py_func", None), "__code__", None)
        if code is not None and (function := self._function_of(code, copied=False)):
            self._see(f"calls the library's own answer: {function['name']}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside the block, see the solution open a file that holds the answer."""
        _listen()
        _watches.append(self)
        try:
            yield
        finally:
            _watches.remove(self)

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Inside the block, see functions of the answer run in the place of the solution, or because of it."""
        before, known = sys.getprofile(), self._known

        def look(frame: Any, event: str, _: Any) -> None:
            if event == "call" and known.get(id(frame.f_code), True):
                self._called(frame)

        threading.setprofile(look)
        sys.setprofile(look)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(before)

    def _called(self, frame: Any) -> None:
        code = frame.f_code
        if id(code) not in self._known:
            self._known[id(code)] = self._function_of(code, copied=self._is_solutions(frame))
            self._alive.append(code)
        function = self._known[id(code)]
        if function and self._leads_to(frame, function["direct"]):
            self._see(f"calls the library's own answer: {function['name']}")

    def _function_of(self, code: CodeType, *, copied: bool) -> dict[str, Any] | None:
        """The function of the answer that this is, or that it is a copy of; what stands in the learner's file is no
        copy."""
        if code.co_filename == self._file:
            return None
        place = os.path.realpath(code.co_filename), code.co_qualname
        return self._places.get(place) or (self._digests.get(_digest(code)) if copied else None)

    def _leads_to(self, frame: Any, direct: bool) -> bool:
        """Whether the solution is what called it, itself or by way of others; or a driver did so, in its place."""
        while (frame := frame.f_back) is not None:
            name = frame.f_globals.get("__name__", "")
            if name == outcome.__name__:
                return False
            if self._is_solutions(frame) or name == drivers.__name__ or name.startswith("exercises.catalog."):
                return True
            if direct and name.startswith("moe_numpy."):
                return False
        return False

    def _is_solutions(self, frame: Any) -> bool:
        """Whether it runs code of the solution, in its file or made by it: code that is no loaded module's."""
        name = frame.f_globals.get("__name__")
        return frame.f_code.co_filename == self._file or name == "learner" or name not in sys.modules

    def opened(self, path: Any) -> None:
        """A file is opened: by the solution, and not to import it?"""
        if self.seen or not isinstance(path, str | bytes) or os.path.realpath(os.fsdecode(path)) not in self._files:
            return
        frame: Any = sys._getframe(2)
        while frame is not None and frame.f_globals.get("__name__") not in _READERS:
            if self._is_solutions(frame):
                self._see(f"reads the file of the library's own answer: {os.path.basename(os.fsdecode(path))}")
                return
            frame = frame.f_back

    def _see(self, what: str) -> None:
        self.seen = self.seen or what


_watches: list[Watch] = []


@cache
def _listen() -> None:
    """An audit hook stays for good; it does nothing where nobody watches."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            for watch in _watches:
                watch.opened(args[0])

    sys.addaudithook(hook)
