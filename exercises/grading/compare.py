"""Is an outcome right, and if not, what is the first thing to say about it?

Order of suspicion: exception, returned None, shape, dtype, input mutated, NaN, values.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..exercise import Case, Seeded
from .outcome import Outcome
from .wire import Foreign

_RELATIVE = {4: 2e-4, 8: 1e-7}  # by the bytes of the dtype
_NUMERIC = 1e-5  # finite differences of float64
_SMALL_ARRAY = 16  # entries; shown whole
_SMALL = 1e-2  # entries below this part of the largest are measured against it


@dataclass
class Problem:
    """Why a check failed.

    Attributes:
        kind: exception, none, type, shape, dtype, mutated, nan, values, process, load, tampered, not allowed.
        message: one line.
        where: which part of the result: "gradient of argument 0"; empty if there is only one.
        case: the call, in one line.
        index: of the worst entry.
        yours, expected: the two values there; or the two types, shapes or short values.
        numeric: whether ``expected`` is a finite difference.
        arrays: both whole results where they are small.
        wrong, size, rows: how many entries are wrong, of how many, in how many rows.
        line, code: of the learner's file.
        recognised, explanation: the known mistake that gives the same results.
        mistake: its wrong piece of code, where there is a short one.
        next_step: what to do now.
    """

    kind: str
    message: str
    where: str = ""
    case: str = ""
    seed: int = 0
    index: tuple[int, ...] | None = None
    yours: str = ""
    expected: str = ""
    numeric: bool = False
    arrays: dict[str, str] = field(default_factory=dict)
    wrong: int = 0
    size: int = 0
    rows: int = 0
    line: int | None = None
    code: str = ""
    recognised: str = ""
    explanation: str = ""
    mistake: str = ""
    next_step: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Rules:
    """How strict a comparison is."""

    same_dtype: bool = True
    may_write: bool = False
    gradient: bool = False


def judge(yours: Outcome, expected: Outcome, rules: Rules, numeric: Any = None) -> Problem | None:
    """The first thing that is wrong, or None. ``numeric``: the gradients by finite differences."""
    if expected.error is not None:
        wanted = expected.error["type"]
        if yours.error is None:
            return Problem("values", f"no {wanted} was raised", yours=show(yours.value), expected=f"raise {wanted}")
        if yours.error["type"] == wanted:
            return None
    if yours.error is not None:
        e = yours.error
        return Problem("exception", f"{e['type']}: {e['message']}".rstrip(": "), line=e["line"], code=e["code"])
    results, wanted_results = _parts(yours.value), _parts(expected.value)
    if yours.value is None and expected.value is not None:
        return Problem("none", "returned None: is a return statement missing?")
    if len(results) != len(wanted_results):
        return Problem("type", f"{len(results)} results, expected {len(wanted_results)}")
    found = []
    for i, (a, b) in enumerate(zip(results, wanted_results, strict=True)):
        problem = _judge_part(a, b, rules, None if numeric is None else numeric[i])
        if problem is not None:
            many = len(results) > 1
            problem.where = (f"gradient {i}" if rules.gradient else f"result {i}") if many else ""
            found.append(problem)
    if yours.mutated and not rules.may_write:
        arguments = ", ".join(map(str, yours.mutated))
        found.append(Problem("mutated", f"argument {arguments} was changed in place; write to a copy"))
    order = ["none", "type", "shape", "dtype", "mutated", "nan", "values"]
    return min(found, key=lambda p: order.index(p.kind), default=None)


def same_outcome(a: Outcome, b: Outcome) -> bool:
    """Whether two solutions did the same: equal values, dtypes and changes, or the same kind of exception."""
    if a.error is not None or b.error is not None:
        return a.error is not None and b.error is not None and a.error["type"] == b.error["type"]
    return a.mutated == b.mutated and _same(a.value, b.value)


def disagreement(library: Any, other: Any, tolerance: float = 1e-6) -> str:
    """Where two oracles differ by more than rounding, in words; empty if they agree."""
    mine, theirs = _parts(library), _parts(other)
    if len(mine) != len(theirs):
        return f"{len(mine)} results against {len(theirs)}"
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        if a is None or b is None or isinstance(a, str) or isinstance(b, str):
            if not (a is b or a == b):
                return f"result {i}: {show(a)} against {show(b)}"
            continue
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return f"result {i}: shape {a.shape} against {b.shape}"
        if not _near(a, b, tolerance).all():
            return f"result {i}: {show(a)} against {show(b)}"
    return ""


def describe_case(case: Case, attribute: str) -> str:
    """The call in one line: names of arrays by dtype and shape."""
    words = [_short(a) for a in case.args] + [f"{name}={_short(v)}" for name, v in case.settings.items()]
    layout = {"C": "", "F": "  (arrays stored column by column)", "strided": "  (arrays with gaps)"}[case.layout]
    return f"{attribute}({', '.join(words)}){layout}"


def show(value: Any) -> str:
    """A value, short enough for a line or two."""
    if isinstance(value, np.ndarray):
        text = np.array2string(value, precision=4, max_line_width=80)
        return text if value.size <= _SMALL_ARRAY else f"{value.dtype} array of shape {value.shape}"
    if isinstance(value, Foreign):
        return f"an object of type {value.type}"
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " …"


def _judge_part(yours: Any, expected: Any, rules: Rules, numeric: Any) -> Problem | None:
    if expected is None or isinstance(expected, str | bool):
        if type(yours) is type(expected) and yours == expected:
            return None
        if isinstance(expected, bool) and isinstance(yours, np.ndarray) and yours.shape == () and yours == expected:
            return None
        return Problem(
            "values" if yours is not None else "none", "wrong answer", yours=show(yours), expected=show(expected)
        )
    if yours is None:
        return Problem("none", "is None: no gradient arrives here" if rules.gradient else "is None")
    b = np.asarray(expected)
    if isinstance(yours, list | tuple):
        try:
            yours = np.asarray(yours)
        except ValueError:
            yours = Foreign("a nested list of uneven lengths")
    if isinstance(yours, Foreign | dict | str) or np.asarray(yours).dtype.kind not in "biuf":
        kind = yours.type if isinstance(yours, Foreign) else type(yours).__name__
        return Problem("type", "not an array of numbers", yours=kind, expected=f"{b.dtype} array of shape {b.shape}")
    a = np.asarray(yours)
    if a.shape != b.shape:
        return Problem("shape", "wrong shape", yours=str(a.shape), expected=str(b.shape))
    wrong_kind = (a.dtype.kind == "f") != (b.dtype.kind == "f") or (a.dtype.kind == "b") != (b.dtype.kind == "b")
    typed = isinstance(yours, np.ndarray)  # a Python number has no dtype that one could get wrong
    if (wrong_kind and typed) or (rules.same_dtype and typed and b.dtype.kind == "f" and a.dtype != b.dtype):
        return Problem("dtype", "wrong dtype", yours=str(a.dtype), expected=str(b.dtype))
    right = _near(a, b, _RELATIVE.get(b.dtype.itemsize, 1e-7)) if b.dtype.kind == "f" else a == b
    if np.all(right):
        return None
    return _worst_entry(a, b, ~np.asarray(right), numeric)


def _worst_entry(a: Any, b: Any, wrong: Any, numeric: Any) -> Problem:
    missing = wrong & ~np.isfinite(a) & np.isfinite(b) if b.dtype.kind == "f" else np.zeros(wrong.shape, bool)
    if missing.any():
        kind, where = "nan", missing
        what = "NaN" if np.isnan(a[missing]).any() else "infinite"
        message = f"{what} in {missing.sum()} of {b.size} entries"
    else:
        kind, where = "values", wrong
        message = f"{wrong.sum()} of {b.size} {'entries are' if b.size > 1 else 'entry is'} wrong"
    with np.errstate(all="ignore"):
        off = np.where(where, np.nan_to_num(np.abs(a.astype(float) - b.astype(float)), nan=np.inf), -1)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))
    compared_with = b if numeric is None else numeric
    problem = Problem(kind, message, index=index, numeric=numeric is not None, wrong=int(wrong.sum()), size=int(b.size))
    problem.rows = len(b) if b.ndim else 0
    problem.yours, problem.expected = f"{a[index]:.8g}", f"{compared_with[index]:.8g}"
    if numeric is None and 1 < b.size <= _SMALL_ARRAY:
        problem.arrays = {"yours": show(a), "expected": show(b)}
    return problem


def agrees_with_numeric(analytic: Any, numeric: Any) -> bool:
    """Whether the library's gradients equal finite differences."""
    return all(
        _near(np.asarray(a, np.float64), n, _NUMERIC if a.dtype == np.float64 else 1e-3).all()
        for a, n in zip(analytic, numeric, strict=True)
        if a is not None
    )


def _near(a: Any, b: Any, tolerance: float) -> Any:
    """Entry by entry |a - b| ≤ tolerance · max(|b|, 0.01 max |b|); infinities and NaN must be the same."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    finite = np.isfinite(b)
    largest = float(np.abs(b[finite]).max(initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        close = np.abs(a - b) <= tolerance * np.maximum(np.abs(b), _SMALL * largest)
    return np.where(finite, close, (a == b) | (np.isnan(a) & np.isnan(b)))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray | np.generic) or isinstance(b, np.ndarray | np.generic):
        if not isinstance(a, np.ndarray | np.generic | int | float) or not isinstance(
            b, np.ndarray | np.generic | int | float
        ):
            return False
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and a.dtype.kind == b.dtype.kind and bool(_near(a, b, 1e-6).all())
    return type(a) is type(b) and a == b


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Seeded):
        return f"rng(seed {value.seed})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and any(isinstance(v, np.ndarray) for v in value):
        return "[" + ", ".join(map(_short, value)) + "]"
    return repr(value)
