"""What an exercise is: plain data. Each module in ``catalog`` defines one."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from moe_numpy.autodiff import Function

from .mistakes import Mistake

LAYOUTS = ("C", "F", "strided")


@dataclass(frozen=True)
class Case:
    """One call: positional arguments and settings. Made with :func:`case`.

    Attributes:
        args: arrays, numbers, strings, None, lists and dicts of these; :class:`Seeded` becomes a generator.
        settings: keyword arguments.
        layout: how every array lies in memory. ``C``; ``F``, columns first; ``strided``, every second entry of a
            larger array along each axis.
        constants: positions of floating-point arguments without a gradient (integers never have one).
        cotangents: the upstream gradients, one for each floating-point output; the grader draws them if they are None.
    """

    args: tuple[Any, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "C"
    constants: tuple[int, ...] = ()
    cotangents: tuple[Any, ...] | None = None

    @property
    def entries(self) -> int:
        """How many numbers the arrays among the arguments have together."""
        return sum(_entries(value) for value in [*self.args, *self.settings.values()])

    def float32(self) -> "Case":
        """The same case with every float64 array rounded to float32."""
        return replace(self, args=tuple(_float32(a) for a in self.args))

    def strided(self) -> "Case":
        """The same case on arrays that are not contiguous."""
        return replace(self, layout="strided")

    def fortran(self) -> "Case":
        """The same case on arrays stored column by column."""
        return replace(self, layout="F")

    def constant(self, *positions: int) -> "Case":
        """The same case; these floating-point arguments have no gradient."""
        return replace(self, constants=positions)

    def upstream(self, *cotangents: Any) -> "Case":
        """The same case with these upstream gradients."""
        return replace(self, cotangents=cotangents)


@dataclass(frozen=True)
class Seeded:
    """Stands for ``np.random.default_rng(seed)`` among the arguments of a case: a fresh one for each run."""

    seed: int


def case(*args: Any, **settings: Any) -> Case:
    """``case(x, 2, axis=-1)`` stands for the call ``solution(x, 2, axis=-1)``."""
    return Case(args, settings)


@dataclass(frozen=True)
class Same:
    """Stands among the arguments of a case for the very array at another position, as in x · x."""

    position: int


Cases = Callable[[np.random.Generator], Iterable[Case]]


def float32(cases: Cases) -> Cases:
    """The same cases in float32."""
    return lambda rng: [c.float32() for c in cases(rng)]


def strided(cases: Cases) -> Cases:
    """Each of the same cases twice: on arrays with gaps, and on arrays stored column by column."""
    return lambda rng: [v for c in cases(rng) for v in (c.strided(), c.fortran())]


def one_by_one(*cases: Case) -> Cases:
    """Fixed cases, without chance: known values, ties, errors."""
    return lambda rng: cases


@dataclass(frozen=True)
class Check:
    """One named, weighted part of the grade.

    Attributes:
        name: what holds if it passes: "ties go to the lowest index".
        points: its weight.
        cases: from a random generator, the calls to make. All must come out right.
        next_step: what to look at if it fails; one sentence.
        run: how a case is run: ``run(solution, *args, **settings)``, a top-level function of ``drivers`` or of the
            exercise's own module. None: ``drivers.call`` for functions, ``drivers.forward`` for Functions.
        gradient: whether to compare gradients instead of values; only for Functions, and without ``run``.
        finite_differences: whether gradients are compared with finite differences of the specification too;
            False for cases at a kink.
        second_oracle: whether the specification must give the same as the library; False where it has no say.
        time_limit: seconds, where the check is of the speed; 0 for the exercise's own limit.
    """

    name: str
    points: int
    cases: Cases
    next_step: str
    run: Callable[..., Any] | None = None
    gradient: bool = False
    finite_differences: bool = True
    second_oracle: bool = True
    time_limit: float = 0.0


def standard_checks(
    cases: Cases, *, floats: bool = True, gradient: str = "", run: Callable[..., Any] | None = None
) -> list[Check]:
    """The checks that nearly every exercise has, one point each: in float32, and on arrays with gaps.

    Args:
        cases: the calls to make.
        floats: False where no argument is of floating point.
        gradient: the next step of who fails the gradient in float32 and of arrays with gaps; empty for no such check.
        run: as in :class:`Check`.
    """
    forms = [("float32", float32(cases), "a float32 input must give a float32 output")] if floats else []
    forms += [("arrays with gaps", strided(cases), "do not rely on the order in memory")]
    checks = [Check(name, 1, same, next_step, run=run) for name, same, next_step in forms]
    if gradient:
        checks += [
            Check("gradient in float32", 1, float32(cases), gradient, gradient=True),
            Check("gradient of arrays with gaps", 1, strided(cases), gradient, gradient=True),
        ]
    return checks


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise. Its module states the facts; ``catalog.find`` adds what stands below them there.

    Attributes:
        number: its place in the order; 1 and up.
        name: file name and slug, ``top_k``.
        title: a line of the list.
        teaches: one sentence.
        difficulty: 1 to 3.
        minutes: how long it takes, 10 to 30.
        target: the solution, ``module:qualname`` of a function, a kernel, a method or a Function of the library.
        hints: three, each saying more.
        needs: numbers of exercises that should come before. A failed one never blocks this one.
        imports: further lines of the stub's head, for what a body will need.
        preload: modules that the child imports before it is limited, such as ``numba``.
        time_limit: seconds for one check.
        specification: the forward pass in slow loops, with the target's arguments.
        checks: what is graded.
        mistakes: at least five plausible wrong solutions.
    """

    number: int
    name: str
    title: str
    teaches: str
    difficulty: int
    minutes: int
    target: str
    hints: tuple[str, str, str]
    needs: tuple[int, ...] = ()
    imports: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    time_limit: float = 5.0
    specification: Any = None
    checks: tuple[Check, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def label(self) -> str:
        """The number as it is typed: ``07``."""
        return f"{self.number:02}"

    @property
    def file_name(self) -> str:
        """Of the file that a learner edits."""
        return f"ex{self.label}_{self.name}.py"

    @property
    def points(self) -> int:
        """The sum over the checks."""
        return sum(check.points for check in self.checks)

    @property
    def solution(self) -> Any:
        """The library's own function or class."""
        return resolve(self.target)

    @property
    def attribute(self) -> str:
        """What the learner's file must define."""
        return self.target.rpartition(":")[2].rpartition(".")[2]


def resolve(reference: str) -> Any:
    """The object that ``module:qualname`` names; of a kernel its definition."""
    module, _, qualname = reference.partition(":")
    found = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return getattr(found, "definition", found)


def reference_to(thing: Any) -> str:
    """``module:qualname`` of a top-level function or class. TypeError for anything nested."""
    if "<" in thing.__qualname__:
        raise TypeError(f"{thing.__qualname__} must be defined at the top level of a module")
    return f"{thing.__module__}:{thing.__qualname__}"


def is_function_class(solution: Any) -> bool:
    """Whether it is a differentiable Function rather than a plain function."""
    return isinstance(solution, type) and issubclass(solution, Function)


def _entries(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.size)
    return sum(map(_entries, value)) if isinstance(value, list | tuple) else 0


def _float32(a: Any) -> Any:
    return a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a
