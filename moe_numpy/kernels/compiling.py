"""Whether numba has compiled the loops on this machine, and where it keeps them."""

import importlib
import sys
from pathlib import Path
from typing import Any

from .kernel import anything_substituted, chosen_for_cpu, in_use


def must_compile(loop: str = "loops.adamw") -> bool:
    """Whether this machine has never compiled a loop: by default of training, ``"program_loops.lead"`` of decoding."""
    if chosen_for_cpu() == "numpy":
        return False
    file, _, function = loop.partition(".")
    loops = importlib.import_module(f".{file}", __package__)
    if not hasattr(getattr(loops, function), "py_func"):  # a plain function with NUMBA_DISABLE_JIT=1
        return False
    folder = compiled_loops_in()
    written = Path(str(loops.__file__)).stat().st_mtime  # anything compiled earlier is out of date
    name = f"{loop}-*.py{sys.version_info.major}{sys.version_info.minor}*.nbi"
    return folder is None or not any(file.stat().st_mtime >= written for file in folder.glob(name))


def compiled_loops_in() -> Path | None:
    """The folder where numba keeps compiled loops; None where nothing is compiled or can be kept."""
    loop = importlib.import_module(".loops", __package__).adamw if chosen_for_cpu() == "numba" else None
    path = getattr(getattr(loop, "stats", None), "cache_path", None)
    return Path(path) if path else None


def programs(shared_from: int) -> Any:
    """The threads that walk programs together, :class:`.crew.Crew`, to be entered.

    Programs of less work than ``shared_from`` multiplications are walked by the caller alone.

    None where nothing is compiled, or a kernel has a substitute.
    """
    if in_use() != "numba" or anything_substituted():
        return None
    crew = importlib.import_module(".crew", __package__)
    return crew.Crew(shared_from) if crew.is_compiled() else None
