"""Two switches of the engine: whether ops record a graph, and whether they look for non-finite values.

Each thread has its own: ``no_grad()`` in a data-loading thread does not affect the training thread. A block inside a
generator is in force only while that generator runs, not in the code that iterates over it.
"""

import inspect
import sys
import threading
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any, no_type_check

_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class _Modes(threading.local):
    def __init__(self) -> None:
        self.no_grad_blocks: list[_Block] = []
        self.check_finite_blocks: list[_Block] = []

    @property
    def record_graph(self) -> bool:
        return not any(block.in_force() for block in self.no_grad_blocks)

    @property
    def check_finite(self) -> bool:
        return any(block.in_force() for block in self.check_finite_blocks)


class _Block:
    """A with block, or a decorator that runs each call in a block of its own."""

    def __init__(self, blocks: str):
        self.blocks = blocks  # the attribute of _Modes that lists the open ones
        self.open_blocks: list[_Block] = []
        self.frame: FrameType | None = None

    @no_type_check  # checks at run time would stand between it and its caller
    def __enter__(self) -> None:
        self.open_blocks = getattr(modes, self.blocks)
        self.frame = _generator_in(sys._getframe(1))
        self.open_blocks.append(self)

    def __exit__(self, *_: Any) -> None:
        self.open_blocks.remove(self)
        self.frame = None

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is asynchronous: open the block inside it instead of decorating it"
            )
        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def generator(*args: Any, **kwargs: Any) -> Any:
                with _Block(self.blocks):
                    return (yield from function(*args, **kwargs))

            return generator

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _Block(self.blocks):
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
    """The frame that enters a block if it is a generator's; None for an ordinary function.

    A generator that ``contextlib`` runs is a context manager: its block belongs to the code that uses it.
    """
    while frame.f_back is not None and (
        _in_contextlib(frame) or (frame.f_code.co_flags & _SUSPENDABLE and _in_contextlib(frame.f_back))
    ):
        frame = frame.f_back
    return frame if frame.f_code.co_flags & _SUSPENDABLE else None


def _in_contextlib(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "contextlib"


modes = _Modes()


def no_grad() -> _Block:
    """Run ops without recording a graph: nothing is saved, nothing can be differentiated.

    ``with no_grad():``, or a decorator of functions and generators: ``@no_grad()``.
    """
    return _Block("no_grad_blocks")


def check_finite() -> _Block:
    """Raise :class:`NonFiniteError` at the first op whose output or gradient is NaN or infinite.

    This reads every array once more, so training turns it on only to find the op behind a failed step.
    """
    return _Block("check_finite_blocks")


class NonFiniteError(FloatingPointError):
    """An op produced NaN or infinity; ``op`` is its name and ``where`` is 'forward' or 'backward'."""

    def __init__(self, op: str, where: str, detail: str):
        super().__init__(f"{op}.{where} produced {detail}")
        self.op, self.where = op, where
