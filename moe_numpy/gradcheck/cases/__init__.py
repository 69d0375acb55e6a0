"""One gradient check per Function of the package, and a list of the Functions that have none.

A case is a function of ``rng`` that returns the arguments of ``gradcheck``, ``f, inputs``::

    @case(Softmax)
    def softmax_last_axis(rng):
        return lambda x: Softmax.apply(x, axis=-1), [rng.standard_normal((3, 4))]

The modules beside this one hold the cases.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ...autodiff import Function, substitute
from ...autodiff.function import implementation_of
from ..check import gradcheck
from ..report import Report

Built: TypeAlias = tuple[Callable[..., Any], list[np.ndarray]]  # f and its inputs

_PACKAGE = __name__.partition(".")[0]
_SKIPPED = (
    f"{_PACKAGE}.__main__",
    f"{_PACKAGE}.commands",
    f"{_PACKAGE}.kernels",
    f"{_PACKAGE}.plots",
    f"{_PACKAGE}.pretrained.rendering",
    f"{_PACKAGE}.serve",
)  # they hold no Functions, and some need packages that the library alone does not bring


@dataclass(frozen=True)
class Case:
    """A named gradient check: ``build(rng)`` returns f and its inputs; ``functions`` are those it covers."""

    name: str
    functions: tuple[type[Function], ...]
    build: Callable[[np.random.Generator], Built]


_cases: dict[str, Case] = {}


def case(*functions: type[Function], name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the gradient check of ``functions``.

    Raises:
        TypeError: no Function is named, or anything other than a Function.
        ValueError: the name is taken.
    """
    for function in functions:
        if not (isinstance(function, type) and issubclass(function, Function)):
            raise TypeError(f"case: {function!r} is not a Function class")
    if not functions:
        raise TypeError("case: name at least one Function, @case(Softmax)")

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        new = Case(name or build.__name__, functions, build)
        if new.name in _cases:
            raise ValueError(f"two gradient cases are called {new.name!r}")
        _cases[new.name] = new
        return build

    return register


def all_cases() -> list[Case]:
    """Every case, in the order of definition."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return list(_cases.values())


def registered_functions() -> list[type[Function]]:
    """Every Function of the package, sorted by module and name; an underscore marks a helper, which is left out."""
    _import_all(_PACKAGE)
    found = {
        f for f in _subclasses(Function) if f.__module__.startswith(f"{_PACKAGE}.") and not f.__name__.startswith("_")
    }
    return sorted(found, key=lambda f: (f.__module__, f.__qualname__))


def functions_without_case() -> list[type[Function]]:
    """The Functions that no case covers."""
    covered = {function for c in all_cases() for function in c.functions}
    return [function for function in registered_functions() if function not in covered]


def run_case(case: Case, seed: int = 0) -> Report:
    """Check the gradients of one case, and that the case ran every Function it claims to cover.

    An exception inside the case becomes a failing report.
    """
    try:
        with _watching(case.functions) as applied:
            f, inputs = case.build(np.random.default_rng(seed))
            report = gradcheck(f, inputs, rng=np.random.default_rng([seed, 1]))
    except Exception as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        return Report(problems=[f"{type(error).__name__}: {error}{notes}"])
    for function in case.functions:
        if function not in applied:
            report.problems.append(f"the case {case.name} claims to cover {function.__name__} but never applied it")
    return report


@contextmanager
def _watching(functions: tuple[type[Function], ...]) -> Iterator[set[type[Function]]]:
    """Collect which of the functions run forward inside the block."""
    applied: set[type[Function]] = set()
    with ExitStack() as stack:
        for function in functions:
            stack.enter_context(substitute(function, _spy_on(function, applied)))
        yield applied


def _spy_on(function: type[Function], applied: set[type[Function]]) -> type[Function]:
    watched = implementation_of(function)  # a substitute, where one is in force

    def forward(self: Function, *arrays: Any, **settings: Any) -> Any:
        applied.add(function)
        return watched.forward(self, *arrays, **settings)

    return type(f"_Watched{watched.__name__}", (watched,), {"forward": forward, "name": watched.__name__})


def _import_all(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        if module.name not in _SKIPPED:
            importlib.import_module(module.name)
            if module.ispkg:
                _import_all(module.name)


def _subclasses(function: type[Function]) -> Iterator[type[Function]]:
    for sub in function.__subclasses__():
        yield sub
        yield from _subclasses(sub)
