"""Graded exercises: rebuild the library's functions, one by one, and train a real model with them.

In a notebook: ``exercises.open("07")``, the cell magic ``%%exercise 07``, ``exercises.check``, ``hint``, ``solution``
and ``progress``. Everywhere else: ``python -m exercises``.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .notebook import check, hint, load_ipython_extension, open, progress, solution

__all__ = ["check", "hint", "load_ipython_extension", "open", "progress", "solution"]


def __getattr__(name: str) -> Any:
    """What a notebook uses, loaded when it is used: the process in which a solution runs imports this package, too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import notebook

    return getattr(notebook, name)


if "IPython" in sys.modules and (_shell := sys.modules["IPython"].get_ipython()) is not None:
    __getattr__("load_ipython_extension")(_shell)
