"""Two switches of the engine: whether ops record a graph, and whether they look for non-finite values.

Each thread has its own: ``no_grad()`` in a data-loading thread does not affect the training thread.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Modes(threading.local):
    record_graph = True
    check_finite = False


modes = _Modes()


@contextmanager
def no_grad() -> Iterator[None]:
    """Run ops without recording a graph: nothing is saved, nothing can be differentiated.

    Also a decorator: ``@no_grad()``.
    """
    before, modes.record_graph = modes.record_graph, False
    try:
        yield
    finally:
        modes.record_graph = before


@contextmanager
def check_finite() -> Iterator[None]:
    """Raise :class:`NonFiniteError` at the first op whose output or gradient is NaN or infinite.

    This reads every array once more, so training turns it on only to find the op behind a failed step.
    """
    before, modes.check_finite = modes.check_finite, True
    try:
        yield
    finally:
        modes.check_finite = before


class NonFiniteError(FloatingPointError):
    """An op produced NaN or infinity; ``op`` is its name and ``where`` is 'forward' or 'backward'."""

    def __init__(self, op: str, where: str, detail: str):
        super().__init__(f"{op}.{where} produced {detail}")
        self.op, self.where = op, where
