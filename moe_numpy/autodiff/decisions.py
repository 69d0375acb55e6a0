"""Discrete choices made during a forward pass, recorded so that a gradient check can see them change.

A top-k set, a list of dropped tokens or the sign that ReLU looks at is constant almost everywhere. Finite
differences are meaningless where a small step changes it. An op that makes such a choice calls
:func:`record`, which costs next to nothing outside a :func:`recording` block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..blocks import Block, Blocks


@dataclass(frozen=True)
class Decision:
    """One recorded choice.

    ``what`` names it (``"top-k set"``). ``chosen`` is an array whose first axis counts the cases (tokens,
    entries). ``explain(i)`` says in words how close case ``i`` was to another choice.
    """

    what: str
    chosen: Any
    explain: Callable[[int], str]


_recordings = Blocks()


def record(what: str, chosen: Any, explain: Callable[[int], str]) -> None:
    """Add a :class:`Decision` to the innermost :func:`recording` block of this thread, if there is one."""
    recording = _recordings.innermost()
    if recording is not None:
        recording.value.append(Decision(what, chosen, explain))


def recording() -> Block:
    """Collect every choice made inside the block, in order: ``with recording() as made``."""
    return Block(_recordings, [])
