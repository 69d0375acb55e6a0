"""Freezing: parameters that training leaves as they are, chosen by patterns of their names."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from ..models import Transformer


def freeze(model: Transformer, patterns: Sequence[str]) -> frozenset[str]:
    """Set ``requires_grad=False`` on all parameters whose name matches a pattern, such as ``layers.*.attention.*``.

    A star stands for any characters, dots included. State that balances a router without a loss counts as its
    parameter here, and is left to the caller.

    Returns:
        The names that match.

    Raises:
        ValueError: a pattern matches no name, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    names = [*parameters, *(name for name, _ in model.named_buffers())]
    for pattern in patterns:
        if not matching(names, [pattern]):
            raise ValueError(f"--freeze {pattern!r} matches no parameter; there are {', '.join(_kinds(names))}")
    frozen = matching(names, patterns)
    if patterns and frozen.issuperset(parameters):
        raise ValueError(f"--freeze {' '.join(map(repr, patterns))} leaves no parameter to train")
    for name in frozen & parameters.keys():
        parameters[name].requires_grad = False
    return frozen


def matching(names: Iterable[str], patterns: Sequence[str]) -> frozenset[str]:
    """The names that match a pattern."""
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _kinds(names: Iterable[str]) -> list[str]:
    """The names, those that differ only in numbers as one with stars."""
    kinds = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    return [kind if count == 1 else f"{kind} ({count})" for kind, count in kinds.items()]
