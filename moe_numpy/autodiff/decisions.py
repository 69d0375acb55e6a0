"""Discrete choices made during a forward pass, recorded so that a gradient check can see them change.

A top-k set, a list of dropped tokens or the sign that ReLU looks at is constant almost everywhere. Finite
differences are meaningless where a small step changes it. An op that makes such a choice calls
:func:`record`, which costs one attribute look-up outside a :func:`recording` block.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """One recorded choice.

    ``what`` names it (``"top-k set"``). ``chosen`` is an array whose first axis counts the cases (tokens,
    entries). ``explain(i)`` says in words how close case ``i`` was to another choice.
    """

    what: str
    chosen: Any
    explain: Callable[[int], str]


class _Listener(threading.local):
    decisions: list[Decision] | None = None


_listener = _Listener()


def record(what: str, chosen: Any, explain: Callable[[int], str]) -> None:
    """Add a :class:`Decision` to the innermost :func:`recording` block of this thread, if there is one."""
    if _listener.decisions is not None:
        _listener.decisions.append(Decision(what, chosen, explain))


@contextmanager
def recording() -> Iterator[list[Decision]]:
    """Collect every choice made inside the block, in order."""
    before, _listener.decisions = _listener.decisions, []
    try:
        yield _listener.decisions
    finally:
        _listener.decisions = before
