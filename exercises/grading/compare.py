"""Is an outcome right, and if not, what is the first thing to say about it?

Order of suspicion: exception, returned None, type, shape, dtype, input mutated, NaN, values, and last what shows only
in further calls.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..exercise import Case, Same, Seeded
from .outcome import Outcome
from .wire import Foreign

# By the bytes of the dtype. Sums in another order differ by some 1e-15; a detour through float32 by 1e-8.
_RELATIVE = {4: 2e-5, 8: 1e-10}
_ROUNDING = {4: 1e-6, 8: 1e-13}  # what may be left of terms of size 1 that cancel
_NUMERIC = 1e-5  # finite differences of float64
_LINE = 60  # columns of a shown array, which stands behind its name in reports of 80
_SMALL_ARRAY = 16  # entries; shown whole
_SMALL = 1e-2  # entries below this part of the largest in their row are measured against it


@dataclass
class Problem:
    """Why a check failed.

    Attributes:
        kind: exception, none, type, shape, dtype, mutated, nan, values, state, process, load, tampered, not allowed.
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
        pair: the two arrays themselves, where both are arrays.
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
    pair: tuple[Any, Any] | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pair"}


def judge(yours: Outcome, expected: Outcome, numeric: Any = None, *, gradient: bool = False) -> Problem | None:
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
    found = _judge_results(yours.value, expected.value, numeric, gradient)
    if gradient and not found:
        found = _judge_results(yours.forward, expected.forward)
        for problem in found:
            problem.where = f"forward {problem.where}".rstrip()
    if yours.mutated:
        arguments = ", ".join(map(str, yours.mutated))
        found.append(Problem("mutated", f"argument {arguments} was changed in place; write to a copy"))
    if yours.noticed:
        found.append(Problem("state", str(yours.noticed[0])))
    order = ["none", "type", "shape", "dtype", "mutated", "nan", "values", "state"]
    return min(found, key=lambda p: order.index(p.kind), default=None)


def _judge_results(yours: Any, expected: Any, numeric: Any = None, gradient: bool = False) -> list[Problem]:
    """What is wrong with each of the results."""
    results, wanted = _parts(yours), _parts(expected)
    if yours is None and expected is not None:
        return [Problem("none", "returned None: is a return statement missing?")]
    if isinstance(yours, list) and isinstance(expected, tuple):
        return [Problem("type", f"a list of {len(yours)}, expected a tuple of {len(wanted)}")]
    if len(results) != len(wanted) or isinstance(yours, tuple) != isinstance(expected, tuple):
        return [Problem("type", f"{_counted(yours)}, expected {_counted(expected)}")]
    found = []
    for i, (a, b) in enumerate(zip(results, wanted, strict=True)):
        problem = _judge_part(a, b, None if numeric is None else numeric[i], gradient)
        if problem is not None:
            many = len(results) > 1
            problem.where = (f"gradient {i}" if gradient else f"result {i}") if many else ""
            found.append(problem)
    return found


def same_outcome(a: Outcome, b: Outcome) -> bool:
    """Whether two solutions did the same: equal values of equal dtypes and the same changes, or the same exception."""
    if a.error is not None or b.error is not None:
        return a.error is not None and b.error is not None and _text(a.error) == _text(b.error)
    noticed = a.mutated == b.mutated and a.noticed == b.noticed
    return noticed and _same(a.value, b.value) and _same(a.forward, b.forward)


def evidence(yours: Outcome, expected: Outcome) -> int:
    """How much a wrong outcome tells about where it comes from: 4 per wrong fraction, 1 per other wrong value.

    Four NaN or zeros tell no more than one. Exceptions tell nothing, since unrelated ones look alike.
    """
    if yours.error is not None or expected.error is not None:
        return 0
    total = 0
    for value, wanted in ((yours.value, expected.value), (yours.forward, expected.forward)):
        mine, theirs = _parts(value), _parts(wanted)
        for i, a in enumerate(mine):
            b = theirs[i] if i < len(theirs) else None
            if isinstance(a, int | float) and not isinstance(a, bool):
                total += 4 * (a != b)
            if not isinstance(a, np.ndarray):
                continue
            comparable = isinstance(b, np.ndarray) and b.shape == a.shape and b.dtype == a.dtype
            wrong = ~_right(a, b) if comparable else np.ones(a.shape, bool)
            with np.errstate(invalid="ignore"):
                fractions = wrong & np.isfinite(a) & (a % 1 != 0) if a.dtype.kind == "f" else np.zeros(a.shape, bool)
            total += 4 * int(fractions.sum()) + len(np.unique(a[wrong & ~fractions]))
    return total


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
        text = np.array2string(value, precision=4, max_line_width=_LINE)
        return text if value.size <= _SMALL_ARRAY else f"{value.dtype} array of shape {value.shape}"
    if isinstance(value, Foreign):
        return f"an object of type {value.type}"
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " …"


def _judge_part(yours: Any, expected: Any, numeric: Any, gradient: bool) -> Problem | None:
    if yours is None and expected is not None:
        return Problem("none", "is None: no gradient arrives here" if gradient else "is None")
    if not isinstance(expected, np.ndarray):
        return _judge_plain(yours, expected)
    if not isinstance(yours, np.ndarray):
        wanted = f"{expected.dtype} array of shape {expected.shape}"
        return Problem("type", f"{_kind(yours)}, not an array of numbers", yours=_kind(yours), expected=wanted)
    if yours.shape != expected.shape:
        shapes = str(yours.shape), str(expected.shape)
        return Problem("shape", "wrong shape", yours=shapes[0], expected=shapes[1], pair=(yours, expected))
    if not _fits(yours.dtype, expected.dtype):
        return Problem("dtype", "wrong dtype", yours=str(yours.dtype), expected=str(expected.dtype))
    right = _right(yours, expected)
    return None if right.all() else _worst_entry(yours, expected, ~right, numeric)


def _judge_plain(yours: Any, expected: Any) -> Problem | None:
    """None, texts, and numbers of Python, which a scalar of NumPy of the same kind may stand for."""
    if isinstance(yours, np.ndarray) and yours.shape == () and isinstance(expected, bool | int | float):
        yours = yours.item()
    if type(yours) is type(expected) and yours == expected:
        return None
    kind = "values" if type(yours) is type(expected) else "type"
    message = "wrong answer" if kind == "values" else f"{_kind(yours)}, expected {_kind(expected)}"
    return Problem(kind, message, yours=show(yours), expected=show(expected))


def _fits(yours: Any, expected: Any) -> bool:
    """The same dtype. Signed integers need 32 bits: narrower ones overflow, unsigned ones make floats of int64."""
    if expected.kind == "i":
        return bool(yours.kind == "i" and yours.itemsize >= 4)
    return bool(yours == expected)


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
    problem.rows, problem.pair = len(b) if b.ndim else 0, (a, compared_with)
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


def _right(a: Any, b: Any) -> Any:
    """Entry by entry. Of fractions a row is the last axis, so that a small row beside a large one counts as much."""
    if b.dtype.kind != "f":
        return np.asarray(a == b)
    sizes = np.abs(np.where(np.isfinite(b), b, 0)).astype(np.float64)
    rounding, largest = _ROUNDING.get(b.dtype.itemsize, 1e-13), float(sizes.max(initial=0))
    if largest > 2 * rounding:  # else it may all be rounding
        rounding *= min(1.0, largest)
    rows = sizes.max(axis=-1, keepdims=True, initial=0) if b.ndim else sizes
    return _close(a, b, _RELATIVE.get(b.dtype.itemsize, 1e-10), rows, rounding)


def _near(a: Any, b: Any, tolerance: float) -> Any:
    """Entry by entry, relative to the largest of all entries: for what is itself an approximation."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return _close(a, b, tolerance, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)) or 1.0, 0.0)


def _close(a: Any, b: Any, tolerance: float, largest: Any, rounding: float) -> Any:
    """|a - b| ≤ tolerance · max(|b|, 0.01 largest) + rounding; infinities and NaN must be the same."""
    a, b, largest = (np.asarray(x, np.float64) for x in (a, b, largest))
    with np.errstate(invalid="ignore"):
        close = np.abs(a - b) <= tolerance * np.maximum(np.abs(b), _SMALL * largest) + rounding
    return np.where(np.isfinite(b), close, (a == b) | (np.isnan(a) & np.isnan(b)))


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and (np.array_equal(a, b) or bool(_right(a, b).all()))
    return bool(a == b or (a != a and b != b))


def _text(error: dict[str, Any]) -> tuple[str, str]:
    return error["type"], error["message"]


def _kind(value: Any) -> str:
    """In words: "a list of 2", "a Python float", "an array"."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Foreign):
        return f"{'an' if value.type[:1] in 'aeiouAEIOU' else 'a'} {value.type}"
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    return "None" if value is None else f"a Python {type(value).__name__}"


def _counted(value: Any) -> str:
    return f"{len(value)} results in a tuple" if isinstance(value, tuple) else "one result without a tuple"


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Seeded):
        return f"rng(seed {value.seed})"
    if isinstance(value, Same):
        return f"the same as argument {value.position}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple) and any(isinstance(v, np.ndarray) for v in value):
        return "[" + ", ".join(map(_short, value)) + "]"
    return repr(value)
