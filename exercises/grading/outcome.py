"""What one run of a solution on one case gave. The same code runs in the child and, for trusted code, in the parent."""

import traceback
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import drivers
from ..exercise import Case

_SHOWN = 3  # different warnings of one case


@dataclass
class Outcome:
    """A value, or an exception, and what was noticed on the way.

    Attributes:
        value: what came back.
        error: ``{"type", "message", "line", "code"}`` of an exception; line and code are those of the learner's file.
        mutated: positions of arguments that were written to.
        warnings: texts; shown, never scored.
    """

    value: Any = None
    error: dict[str, Any] | None = None
    mutated: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def run_case(run: Any, solution: Any, case: Case, learner_file: str = "") -> Outcome:
    """Run a solution on a fresh copy of a case; ``run`` None means its gradient. Exceptions are part of the outcome."""
    mine, untouched = drivers.prepared(case), drivers.prepared(case)
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("always")
        try:
            if run is None:
                outcome.value = drivers.gradient(solution, mine)
            else:
                outcome.value = run(solution, *mine.args, **mine.settings)
        except BaseException as error:  # sys.exit too
            outcome.error = describe_error(error, learner_file)
    outcome.warnings = list(dict.fromkeys(f"{w.category.__name__}: {w.message}" for w in caught))[:_SHOWN]
    outcome.mutated = [
        i
        for i, (now, before) in enumerate(zip(mine.args, untouched.args, strict=True))
        if isinstance(now, np.ndarray) and not np.array_equal(now, before, equal_nan=now.dtype.kind == "f")
    ]
    return outcome


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
