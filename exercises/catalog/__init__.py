"""The exercises, one module each, in the order of their numbers."""

import importlib
import pkgutil
from functools import cache

from ..exercise import Exercise


@cache
def find(number: int) -> Exercise:
    """The exercise of this number. ValueError if there is none."""
    names = [n for n in _module_names() if n.startswith(f"ex{number:02}_")]
    if not names:
        have = ", ".join(n[2:4] for n in _module_names())
        raise ValueError(f"no exercise {number:02}; there are {have}")
    exercise: Exercise = importlib.import_module(f"{__name__}.{names[0]}").EXERCISE
    return exercise


def all_exercises() -> list[Exercise]:
    """Every exercise, by number."""
    return [find(int(name[2:4])) for name in _module_names()]


def numbers() -> list[int]:
    """The numbers there are, without importing anything."""
    return [int(name[2:4]) for name in _module_names()]


def _module_names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name.startswith("ex"))
