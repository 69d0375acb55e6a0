"""The exercises, one module each, in the order of their numbers."""

import importlib
import pkgutil
from dataclasses import replace
from functools import cache
from typing import Any

from ..exercise import Exercise, resolve
from ..mistakes import collected


@cache
def find(number: int) -> Exercise:
    """The exercise of this number. ValueError if there is none."""
    names = [n for n in _module_names() if n.startswith(f"ex{number:02}_")]
    if not names:
        have = ", ".join(n[2:4] for n in _module_names())
        raise ValueError(f"no exercise {number:02}; there are {have}")
    return _exercise_of(f"{__name__}.{names[0]}")


def all_exercises() -> list[Exercise]:
    """Every exercise, by number."""
    return [find(int(name[2:4])) for name in _module_names()]


def numbers() -> list[int]:
    """The numbers there are, without importing anything."""
    return [int(name[2:4]) for name in _module_names()]


def trusted(reference: str) -> Any:
    """The project's own code of this name: a mistake's reference, or any ``module:qualname``."""
    module = reference.partition(":")[0]
    if module.startswith(f"{__name__}."):
        for mistake in _exercise_of(module).mistakes:
            if mistake.reference == reference:
                return mistake.solution
    return resolve(reference)


@cache
def _exercise_of(name: str) -> Exercise:
    """The facts in EXERCISE, with the specification, the CHECKS and the MISTAKES of the same module."""
    module = importlib.import_module(name)
    facts: Exercise = module.EXERCISE
    mistakes = tuple(collected(given, name, facts.target) for given in module.MISTAKES)
    return replace(facts, specification=module.specification, checks=tuple(module.CHECKS), mistakes=mistakes)


def _module_names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("ex"))
