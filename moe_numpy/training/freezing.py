"""Freezing: parameters and single experts that training leaves as they are.

A gradient of zero does not freeze: weight decay shrinks a weight without it, and the first moment moves it for many
steps more. So the optimizer passes over what is frozen: of a stack [E, out, in], or of the rows of a router, it gets
views of the trained runs, see :func:`trained_runs`. Nothing writes to the rest, nothing of it counts in the gradient's
norm, and no kernel has to know.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..autodiff import Tensor
from ..models import Transformer
from ..moe.expert_stacks import expert_tensors
from .expert_patterns import experts_of, moe_layers, runs_of


class NothingToTrainError(ValueError):
    """All parameters would be frozen."""


def freeze(model: Transformer, patterns: Sequence[str]) -> None:
    """Mark what training leaves as it is, in a model that is whole on this rank.

    A pattern of names, such as ``layers.*.attention.*``, sets ``requires_grad=False`` on all parameters that match; a
    star stands for any characters, dots included. LAYER:EXPERTS, such as ``2:5``, ``0:0-3,7`` or ``*:0-15``, marks
    parts of stacked arrays: the experts' weights, and their rows of the router. State that balances a router without a
    loss counts as its parameter.

    Raises:
        ValueError: a pattern matches no name or expert, or nothing is left to train (NothingToTrainError).
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    names, layers = [*parameters, *buffers], moe_layers(model)
    for pattern in patterns:
        if ":" in pattern:
            for layer, chosen in experts_of(model, pattern).items():
                for tensor in expert_tensors(layers[layer]):
                    tensor.frozen |= chosen
        elif not matching(names, [pattern]):
            raise ValueError(f"--freeze {pattern!r} matches no parameter; there are {', '.join(_kinds(names))}")
    by_name = matching(names, [pattern for pattern in patterns if ":" not in pattern])
    for name, parameter in parameters.items():
        if name in by_name or (parameter.frozen and len(parameter.frozen) == len(parameter.data)):
            parameter.requires_grad = False
    for name in by_name & buffers.keys():
        buffers[name].frozen = frozenset(range(len(buffers[name].data)))
    if patterns and not any(p.requires_grad for p in parameters.values()):
        raise NothingToTrainError(f"--freeze {' '.join(map(repr, patterns))} leaves no parameter to train")


def trained_runs(tensor: Tensor) -> list[Any]:
    """Indices that together are the trained entries of a tensor, or of an array of its shape; they give views."""
    frozen = getattr(tensor, "frozen", None)
    return list(runs_of(frozenset(range(len(tensor.data))) - frozen)) if frozen else [...]


def frozen_runs(tensor: Tensor) -> list[slice]:
    """The same of the other entries."""
    return runs_of(getattr(tensor, "frozen", frozenset()))


def trained_parameters(model: Transformer) -> int:
    """How many numbers training changes."""
    return sum(p.data[run].size for p in model.parameters() if p.requires_grad for run in trained_runs(p))


def all_but_experts(model: Transformer) -> tuple[str, ...]:
    """Patterns of everything that has no entry for each expert: attention, norms, embeddings, shared experts."""
    of_experts = {id(tensor) for layer in moe_layers(model).values() for tensor in expert_tensors(layer)}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return tuple(dict.fromkeys(_kind(name) for name, tensor in tensors if id(tensor) not in of_experts))


def matching(names: Iterable[str], patterns: Sequence[str]) -> frozenset[str]:
    """The names that match a pattern."""
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _kinds(names: Iterable[str]) -> list[str]:
    """The names, those that differ only in numbers as one with stars."""
    kinds = Counter(map(_kind, names))
    return [kind if count == 1 else f"{kind} ({count})" for kind, count in kinds.items()]


def _kind(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
