"""A recipe of your own, named FILE.py:FUNCTION, from a Python file anywhere."""

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from .layer import Recipe
from .router import RouterConfig


def load(name: str) -> tuple[Path, Callable[..., Recipe]]:
    """The file, and its function as one that returns a :class:`Recipe`. The file is run anew each time.

    Args:
        name: ``path/to/file.py:function``. The function takes keyword settings with defaults and returns a
            :class:`Recipe`, or a :class:`RouterConfig` if the rest is as usual.

    Raises:
        ValueError: there is no such file or function, the file cannot be imported, or a setting has no default.
            What is returned raises it if the function fails or returns anything else.
    """
    file, _, function = name.rpartition(":")  # the last colon: Windows has one after the drive
    if not file.endswith(".py") or not function.isidentifier():
        raise ValueError(f"a recipe of your own is named FILE.py:FUNCTION, got {name!r}")
    path = Path(os.path.realpath(file))  # unlike Path.resolve, also of a link to itself
    wanted = f"a function {function} that returns a Recipe or a RouterConfig"
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected a Python file with {wanted}")
    build = getattr(_imported(path), function, None)
    if not inspect.isfunction(build):
        found = "there is none" if build is None else f"{function} is of type {type(build).__name__}"
        raise ValueError(f"{path}: expected {wanted}, but {found}")
    for parameter in inspect.signature(build).parameters.values():
        if parameter.default is parameter.empty or parameter.kind is parameter.POSITIONAL_ONLY:
            raise ValueError(f"{path}: {function} takes keyword settings with defaults only, got {parameter}")

    @functools.wraps(build)
    def checked(**settings: Any) -> Recipe:
        try:
            made = build(**settings)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{path}: {function} failed: {_told(error, path)}") from error
        if isinstance(made, RouterConfig):
            return Recipe(made)
        if not isinstance(made, Recipe):
            raise ValueError(f"{path}: {function} must return a Recipe or a RouterConfig, got {type(made).__name__}")
        return made

    return path, checked


def _imported(path: Path) -> ModuleType:
    """The file as a module. Dataclasses and pickle look it up in sys.modules, so it must be there."""
    spec = spec_from_file_location(f"recipe of {path}", path)
    assert spec is not None
    assert spec.loader is not None  # a .py file has one
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ValueError(f"{path} cannot be imported: {_told(error, path)}") from error
    return module


def _told(error: BaseException, path: Path) -> str:
    """The error in one line, with the last line of the file that took part in it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")
