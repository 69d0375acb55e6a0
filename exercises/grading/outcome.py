"""What runs of a solution on the cases of a check gave. The same code runs in the child and, for trusted code, here.

Every case runs twice, the second time in reverse order and, where shapes agree, in arrays that held an earlier case;
and all forwards of a gradient check come before the first backward: what is kept on the class, in a global, in a buffer
or by an array's identity shows as a difference. backward runs four times, at last with a larger upstream gradient and
with zeros, to which it must be proportional. Each argument is once the only one that needs a gradient: the others must
not change it.
"""

import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import drivers
from ..exercise import Case
from .wire import LARGEST, Foreign

_FACTOR = 1024  # a power of two: exact
_SHOWN = 3  # different warnings of one case
_UPSTREAM = "backward wrote into the gradient it was given; write to a copy"
_SAVED = "backward gives something else when it runs again: it changes what forward saved"
_NOT_LINEAR = "backward is not proportional to the gradient it was given: 1024 times as much gives something else"
_NOT_ZERO = "backward of a gradient of zeros must give zeros: do not divide by the gradient it is given"
_ALONE = "argument {} gets another gradient where no other one needs any: only needs_grad({}) says whether it does"
_KEPT = "the same call gives something else the second time: something is kept between calls"
_REUSED = "a later call writes into what was returned: return a new array in each call"


@dataclass(eq=False)
class Outcome:
    """A value, or an exception, and what was noticed on the way.

    Attributes:
        value: what came back; of a gradient check the gradients.
        forward: the outputs of forward in a gradient check.
        error: ``{"type", "message", "line", "code"}`` of an exception; line and code are those of the learner's file.
        mutated: positions, or names, of arguments that were written to.
        noticed: what is wrong although the value may be right, in words.
        warnings: texts; shown, never scored.
    """

    value: Any = None
    forward: Any = None
    error: dict[str, Any] | None = None
    mutated: list[Any] = field(default_factory=list)
    noticed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_cases(
    run: Any,
    solution: Any,
    cases: Sequence[Case],
    learner_file: str = "",
    watched: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Outcome]:
    """Run a solution on fresh copies of the cases; ``run`` None means gradients. Exceptions are part of an outcome.

    The second run of each case is ``watched``.
    """
    first = [_Run(run, solution, case, learner_file, {}) for case in cases]
    for one in first:
        one.begin()
    for one in reversed(first):
        one.finish()
    memory: dict[Any, Any] = {}
    for one, case in zip(reversed(first), reversed(cases), strict=True):
        again = _Run(run, solution, case, learner_file, memory)
        with watched():
            again.begin()
            again.finish()
        one.compare(again)
    for one in first:
        one.look_again()
        one.ask_for_each()
    return [one.outcome for one in first]


def run_case(run: Any, solution: Any, case: Case) -> Outcome:
    """Run trusted code on one case."""
    return run_cases(run, solution, [case])[0]


class _Run:
    """One run of a case: :meth:`begin` calls the solution, :meth:`finish` its backward, if gradients are wanted."""

    def __init__(self, run: Any, solution: Any, case: Case, learner_file: str, memory: dict[Any, Any]):
        self.run, self.solution, self.learner_file = run, solution, learner_file
        self.mine, self.untouched = _within(memory, drivers.prepared(case)), drivers.prepared(case)
        self.outcome = Outcome()
        self.returned: list[tuple[Any, Any]] = []  # what came back, and a copy of how it was then

    def begin(self) -> None:
        with self._watched():
            if self.run is None:
                self.graph = drivers.Graph(self.solution, self.mine)
                self.outcome.forward = self._keep(self.graph.values)
            else:
                self.outcome.value = self._keep(self.run(self.solution, *self.mine.args, **self.mine.settings))

    def finish(self) -> None:
        if self.run is None and self.outcome.error is None:
            with self._watched():
                self.outcome.value = self._keep(self.graph.gradients())
                if not _alike(self.mine.cotangents, self.untouched.cotangents):
                    self._notice(_UPSTREAM)
                elif not _alike(plain(self.graph.gradients()), self.outcome.value):
                    self._notice(_SAVED)
                elif not _alike(plain(self.graph.gradients(_FACTOR)), _scaled(self.outcome.value)):
                    self._notice(_NOT_LINEAR)
                elif not _zero(self.graph.gradients(0), self.outcome.value):
                    self._notice(_NOT_ZERO)
        before = _arguments(self.untouched)
        self.outcome.mutated = [key for key, value in _arguments(self.mine).items() if not _alike(value, before[key])]

    def compare(self, again: "_Run") -> None:
        mine, other = self.outcome, again.outcome
        if mine.error or other.error:
            same = bool(mine.error and other.error) and mine.error["type"] == other.error["type"]  # type: ignore[index]
        else:
            same = _alike((mine.value, mine.forward), (other.value, other.forward))
        if not same:
            self._notice(_KEPT)
        pairs = zip(*(_writable([value for value, _ in run.returned]) for run in (self, again)), strict=False)
        if any(np.may_share_memory(a, b) for a, b in pairs):
            self._notice(_REUSED)

    def ask_for_each(self) -> None:
        """Whether an argument's gradient is the same where it is the only one that needs one."""
        places = drivers.differentiable(self.mine)
        if self.run is not None or self.outcome.error is not None or len(places) < 2:
            return
        with self._watched():
            for i, together in zip(places, self.outcome.value, strict=True):
                constants = [j for j in range(len(self.mine.args)) if j != i]
                alone = drivers.Graph(self.solution, self.mine.constant(*constants)).gradients()
                if not _alike(plain(alone), (together,)):
                    self._notice(_ALONE.format(i, i))

    def look_again(self) -> None:
        if not all(_alike(plain(value), then) for value, then in self.returned):
            self._notice(_REUSED)

    def _notice(self, what: str) -> None:
        if what not in self.outcome.noticed:
            self.outcome.noticed.append(what)

    def _keep(self, value: Any) -> Any:
        self.returned.append((value, plain(value)))
        return self.returned[-1][1]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn", under="ignore"):
            warnings.simplefilter("always")
            try:
                yield
            except BaseException as error:  # sys.exit too
                self.outcome.error = describe_error(error, self.learner_file)
        texts = self.outcome.warnings + [f"{w.category.__name__}: {w.message}" for w in caught]
        self.outcome.warnings = list(dict.fromkeys(texts))[:_SHOWN]


def plain(value: Any) -> Any:
    """A copy of what can be judged: plain arrays, numbers, texts and containers; anything else by its type's name.

    A scalar of NumPy becomes an array without axes, which it replaces everywhere. Subclasses of arrays do not travel.
    """
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if type(value) is np.ndarray:
        if value.nbytes > LARGEST:
            return Foreign(f"array of {value.nbytes:,} bytes")
        return value.copy() if value.dtype.kind in "biuf" else Foreign(f"array of dtype {value.dtype}")
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    if type(value) is list:
        return [plain(v) for v in value]
    if type(value) is dict and all(type(k) is str for k in value):
        return {k: plain(v) for k, v in value.items()}
    if value is None or type(value) in (bool, int, float, str) or isinstance(value, Foreign):
        return value
    return Foreign(type(value).__name__)


def describe_error(error: BaseException, learner_file: str) -> dict[str, Any]:
    """Its type, its message, and the last line of the learner's file that it passed through."""
    line, code = None, ""
    if isinstance(error, SyntaxError) and error.filename == learner_file:
        line, code = error.lineno, (error.text or "").strip()
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == learner_file:
            line, code = frame.lineno, frame.line or ""
    message = str(error.msg) if isinstance(error, SyntaxError) else _words_of(error)
    return {"type": type(error).__name__[:100], "message": message[:1000], "line": line, "code": code[:200]}


def _words_of(error: BaseException) -> str:
    """What an exception says; one of a learner's own may fail to say it."""
    try:
        return str(error)
    except BaseException as another:
        return f"(its text cannot be had: {type(another).__name__[:100]})"


def _within(memory: dict[Any, Any], case: Case) -> Case:
    """The case in the arrays of earlier ones, overwritten, where place, shape, dtype and layout agree."""
    moved: dict[int, Any] = {}  # an array that is given twice stays one

    def move(place: Any, a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        if id(a) not in moved:
            key = place, a.shape, a.dtype, case.layout
            old = memory.get(key, a)
            memory[key] = moved[id(a)] = old if old.flags.writeable else a
            memory[key][...] = a
        return moved[id(a)]

    args = tuple(move(place, a) for place, a in enumerate(case.args))
    settings = {name: move(name, a) for name, a in case.settings.items()}
    return replace(case, args=args, settings=settings)


def _arguments(case: Case) -> dict[int | str, Any]:
    """By position or name."""
    return dict(enumerate(case.args)) | dict(case.settings)


def _scaled(gradients: Any) -> Any:
    return tuple(None if g is None else np.asarray(g * _FACTOR) for g in gradients)


def _zero(gradients: Any, usual: Any) -> bool:
    """Whether all is 0 that is usually finite."""
    pairs = zip(gradients, usual, strict=True)
    return all(g is None or u is None or not np.any(np.asarray(g)[np.isfinite(u)]) for g, u in pairs)


def _writable(value: Any) -> Iterator[Any]:
    """The arrays in what came back, without read-only ones."""
    if isinstance(value, np.ndarray) and value.flags.writeable:
        yield value
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _writable(v)


def _alike(a: Any, b: Any) -> bool:
    """The same but for a few roundings: BLAS may add up in another order where an array lies differently in memory."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(v, b[k]) for k, v in a.items())
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return type(a) is type(b) and (not isinstance(a, int | float | str | Foreign) or a == b or a != a)
    if a.shape != b.shape or a.dtype != b.dtype or np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return a.shape == b.shape and a.dtype == b.dtype
    if a.dtype.kind != "f":
        return False
    few = 64 * float(np.finfo(a.dtype).eps)
    with np.errstate(all="ignore"):
        size = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        return bool(np.allclose(a, b, rtol=few, atol=few * size, equal_nan=True))
