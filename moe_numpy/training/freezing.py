"""Freezing: parameters and single experts that training leaves as they are.

A gradient of zero does not freeze: weight decay shrinks a weight without it, and the first moment moves it for many
steps more. So the optimizer passes over what is frozen: for an expert of a stack [E, out, in] or a row of a router, it
gets views of the entries between them, see :func:`trained_runs`. Nothing writes to the rest, nothing of it is counted
in the gradient's norm, and no kernel knows about it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..autodiff import Tensor
from ..models import Transformer
from ..moe import MoE
from ..moe.experts import WithZeroExperts
from ..nn import Buffer, Parameter

_EXPERTS = re.compile(r"(?P<layer>\d+|\*):(?P<experts>\*|\d+(-\d+)?(,\d+(-\d+)?)*)")


def freeze(model: Transformer, patterns: Sequence[str]) -> None:
    """Mark what training leaves as it is, in a model that is whole on this rank.

    A pattern of names, such as ``layers.*.attention.*``, sets ``requires_grad=False`` on all parameters that match; a
    star stands for any characters, dots included. LAYER:EXPERTS, such as ``2:5``, ``0:0-3,7`` or ``*:0-15``, is a part
    of stacked arrays: the experts' weights, and their rows of the router. State that balances a router without a loss
    counts as its parameter.

    Raises:
        ValueError: a pattern matches no name or expert, or nothing is left to train.
    """
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    names = [*parameters, *buffers]
    for pattern in patterns:
        if ":" in pattern:
            for layer, chosen in experts_of(model, pattern).items():
                for tensor in expert_tensors(model.layers[layer].feed_forward):
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
        raise ValueError(f"--freeze {' '.join(map(repr, patterns))} leaves no parameter to train")


def experts_of(model: Transformer, pattern: str) -> dict[int, frozenset[int]]:
    """The experts that LAYER:EXPERTS names, by layer.

    Raises:
        ValueError: it is not of this form, or names a layer or an expert that is not there, or one that does not stand
            in a stack of its own: experts in groups, and those of Soft MoE, which all tokens use.
    """
    found = _EXPERTS.fullmatch(pattern)
    if found is None:
        raise ValueError(f"experts are LAYER:EXPERTS, as in 2:5, 0:0-3,7 or *:0-15, got {pattern!r}")
    layers = {i: layer.feed_forward for i, layer in enumerate(model.layers) if isinstance(layer.feed_forward, MoE)}
    asked = list(layers) if found["layer"] == "*" else [int(found["layer"])]
    chosen = {}
    for i in asked:
        if i not in layers:
            raise ValueError(f"{pattern}: layer {i} has no experts to choose from; layers with some: {list(layers)}")
        count = layers[i].num_experts
        chosen[i] = frozenset(range(count)) if found["experts"] == "*" else frozenset(_numbers(found["experts"]))
        if chosen[i] and max(chosen[i]) >= count:
            raise ValueError(f"{pattern}: experts of layer {i} are 0 to {count - 1}, got {max(chosen[i])}")
    if not chosen:
        raise ValueError(f"{pattern}: no layer of this model has experts to choose from")
    return chosen


def expert_tensors(layer: Any) -> Iterator[Parameter | Buffer]:
    """The parameters and state of an MoE layer that have an entry for each expert along the first axis."""
    experts, router = layer.experts, layer.router
    yield from (experts.real if isinstance(experts, WithZeroExperts) else experts).parameters()
    yield from (each for each in (router.weight, router.bias, router.noise_weight) if each is not None)
    if router.balancer_state is not None and len(router.balancer_state.data) == router.num_experts:
        yield router.balancer_state


def trained_runs(tensor: Tensor) -> list[Any]:
    """Indices that together are the trained entries of a tensor, or of an array of its shape; views, not copies."""
    frozen = getattr(tensor, "frozen", None)
    return _runs(frozenset(range(len(tensor.data))) - frozen) if frozen else [...]


def frozen_runs(tensor: Tensor) -> list[Any]:
    """The same of the other entries."""
    return _runs(getattr(tensor, "frozen", frozenset()))


def trained_parameters(model: Transformer) -> int:
    """How many numbers training changes."""
    return sum(p.data[run].size for p in model.parameters() if p.requires_grad for run in trained_runs(p))


def matching(names: Iterable[str], patterns: Sequence[str]) -> frozenset[str]:
    """The names that match a pattern."""
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _runs(entries: frozenset[int]) -> list[slice]:
    """Neighbours as one slice."""
    starts = sorted(e for e in entries if e - 1 not in entries)
    stops = sorted(e + 1 for e in entries if e + 1 not in entries)
    return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _numbers(text: str) -> Iterator[int]:
    """Those of ``0-3,7``."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _kinds(names: Iterable[str]) -> list[str]:
    """The names, those that differ only in numbers as one with stars."""
    kinds = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names)
    return [kind if count == 1 else f"{kind} ({count})" for kind, count in kinds.items()]
