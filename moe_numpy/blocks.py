"""Blocks that change how the code inside them runs: ``with no_grad():``, ``with kernels.use("numpy"):``.

They are in force in one thread. A block that a generator opens is in force only while that generator runs, not in the
code that iterates over it.
"""

import inspect
import sys
import threading
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, no_type_check

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_BORROWERS = frozenset({"contextlib", "_pytest.fixtures"})  # they run a generator for the code that uses its block


class Blocks(threading.local):
    """The open blocks of one kind in this thread, the innermost last."""

    def __init__(self) -> None:
        self.open: list[Block] = []

    def innermost(self) -> "Block | None":
        """The innermost block that is in force."""
        return next((block for block in reversed(self.open) if block.in_force()), None) if self.open else None


class Block:
    """A with block that gives its value, or a decorator that runs each call in a block of its own."""

    def __init__(self, blocks: Blocks, value: Any = None):
        self.blocks, self.value = blocks, value
        self.among: list[Block] = []  # a generator may be closed in another thread than it was opened in
        self.frame: FrameType | None = None

    @no_type_check  # checks at run time would stand between it and its caller
    def __enter__(self) -> Any:
        self.frame = _generator_in(sys._getframe(1))
        self.among = self.blocks.open
        self.among.append(self)
        return self.value

    def __exit__(self, *_: Any) -> None:
        self.among.remove(self)
        self.frame = None

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is asynchronous: open the block inside it instead of decorating it"
            )
        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def generator(*args: Any, **kwargs: Any) -> Any:
                with Block(self.blocks, self.value):
                    return (yield from function(*args, **kwargs))

            return generator

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with Block(self.blocks, self.value):
                return function(*args, **kwargs)

        return call

    def in_force(self) -> bool:
        """False while the generator that opened the block is suspended."""
        if self.frame is None:
            return True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None


def _generator_in(frame: FrameType) -> FrameType | None:
    """The frame that enters a block if it is a generator's; None for an ordinary function."""
    while frame.f_back is not None and (
        _borrows(frame) or (frame.f_code.co_flags & _SUSPENDABLE and _borrows(frame.f_back))
    ):
        frame = frame.f_back
    return frame if frame.f_code.co_flags & _SUSPENDABLE else None


def _borrows(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in _BORROWERS
