"""How experts are named on the command line and in ``config.json``: LAYER:EXPERTS, as in 2:5, 0:0-3,7 and *:0-15."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set

from ..models import Transformer
from ..moe import MoE

Chosen = dict[int, frozenset[int]]
"""Experts by layer."""

_EXPERTS = re.compile(r"(?P<layer>\d+|\*):(?P<experts>\*|\d+(-\d+)?(,\d+(-\d+)?)*)")


def moe_layers(model: Transformer) -> dict[int, MoE]:
    """The layers whose experts stand in one stack, by number: not those of groups, nor of Soft MoE."""
    return {i: each.feed_forward for i, each in enumerate(model.layers) if isinstance(each.feed_forward, MoE)}


def experts_of(model: Transformer, pattern: str) -> Chosen:
    """The experts that LAYER:EXPERTS names; a star is all layers, or all experts.

    Raises:
        ValueError: it is not of this form, or names a layer or an expert that is not there.
    """
    found = _EXPERTS.fullmatch(pattern)
    if found is None:
        raise ValueError(f"experts are LAYER:EXPERTS, such as 2:5, 0:0-3,7 or *:0-15, got {pattern!r}")
    layers = moe_layers(model)
    asked = list(layers) if found["layer"] == "*" else [int(found["layer"])]
    if not asked:
        raise ValueError(f"{pattern}: no layer of this model has experts to choose from")
    chosen = {}
    for i in asked:
        if i not in layers:
            raise ValueError(f"{pattern}: layer {i} has no experts to choose from; layers with some: {list(layers)}")
        count = layers[i].num_experts
        chosen[i] = frozenset(range(count) if found["experts"] == "*" else _numbers(found["experts"]))
        if max(chosen[i]) >= count:
            raise ValueError(f"{pattern}: experts of layer {i} are 0 to {count - 1}, got {max(chosen[i])}")
    return chosen


def chosen_experts(model: Transformer, groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> Chosen:
    """The experts that LAYER:EXPERTS and the names of groups stand for. ValueError for any other name."""
    found: Chosen = {}
    for name in names:
        if name not in groups and ":" not in name:
            known = ", ".join(groups) or "none"
            raise ValueError(f"{name!r} is neither LAYER:EXPERTS, such as 0:3, nor a group of experts; groups: {known}")
        for pattern in groups.get(name, (name,)):
            for i, experts in experts_of(model, pattern).items():
                found[i] = found.get(i, frozenset()) | experts
    return found


def patterns_of(chosen: Mapping[int, Set[int]], layers: Set[int]) -> list[str]:
    """LAYER:EXPERTS for these; one pattern for all of ``layers`` if they have the same."""
    named = {i: experts for i, experts in chosen.items() if experts}
    if set(named) == set(layers) and len(set(map(frozenset, named.values()))) == 1:
        return [f"*:{_ranges(next(iter(named.values())))}"]
    return [f"{i}:{_ranges(experts)}" for i, experts in sorted(named.items())]


def runs_of(entries: Set[int]) -> list[slice]:
    """Neighbours as one slice, ascending."""
    starts = sorted(e for e in entries if e - 1 not in entries)
    stops = sorted(e + 1 for e in entries if e + 1 not in entries)
    return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _ranges(experts: Set[int]) -> str:
    """``0-3,7``."""
    runs = runs_of(experts)
    return ",".join(f"{run.start}-{run.stop - 1}" if run.stop - run.start > 1 else f"{run.start}" for run in runs)


def _numbers(text: str) -> Iterator[int]:
    """Those of ``0-3,7``."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f"a range of experts ascends, got {part}")
        yield from range(int(first), int(last or first) + 1)
