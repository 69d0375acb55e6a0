"""What a model says when its routers are told otherwise: experts switched off, tokens pinned to one, another top-k."""

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..moe.routing import Candidates
from ..moe.selection import GroupLimited, RandomSecond, Threshold, TopK
from ..typing import Float
from .decoder import Decoder
from .feed_forward import MoEStep, RouterStep
from .kept_programs import KeptPrograms
from .rows import Rows

_BY_SCORE = TopK, GroupLimited, RandomSecond, Threshold
_FAR = np.float32(1e30)  # beyond any score; sums of it are finite


@dataclass(frozen=True)
class Interventions:
    """Changes of what routers choose, by layer. Gate weights follow from the choice as always.

    Attributes:
        off: experts that no token may choose.
        pinned: by position, the expert that the token there chooses first, whatever its score.
        top_k: how many experts each token chooses.
    """

    off: Mapping[int, frozenset[int]] = field(default_factory=dict)
    pinned: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    top_k: Mapping[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.off, self.pinned, self.top_k))

    @property
    def layers(self) -> set[int]:
        """Those that are changed."""
        return {*self.off, *self.pinned, *self.top_k}


def intervened(decoder: Decoder, interventions: Interventions) -> Decoder:
    """Another decoder with the same matrices, whose routers choose as told. The given one stays as it is.

    Raises:
        ValueError: a layer has no router, or one that cannot be changed so; an expert does not exist, or is pinned and
            switched off; or fewer are left than a token chooses. The last may show only when a token is read.
    """
    other = copy.copy(decoder)
    other._lock, other._programs, other.layers = threading.Lock(), KeptPrograms(), list(decoder.layers)
    for i in sorted(interventions.layers):
        if i not in decoder.routed_layers:
            raise ValueError(f"layer {i} has no router; layers with one: {decoder.routed_layers}")
        layer = other.layers[i] = copy.copy(decoder.layers[i])
        step: MoEStep = copy.copy(layer.feed_forward)
        step.router = _ChangedRouter(step.router, i, interventions)
        layer.feed_forward = step
    return other


class _ChangedRouter(RouterStep):
    """A router that sees a very low score for an expert that is off, a very high one for a token's pinned expert."""

    def __init__(self, router: RouterStep, layer: int, told: Interventions):
        vars(self).update(vars(router))
        self.layer, self.off, self.pinned = layer, sorted(told.off.get(layer, ())), told.pinned.get(layer, {})
        selection: Any = router.config.selection
        if not isinstance(selection, _BY_SCORE):
            raise ValueError(f"layer {layer}: its router does not choose by scores, but {selection.words}")
        if layer in told.top_k:
            if not isinstance(selection, TopK | GroupLimited):
                raise ValueError(f"layer {layer}: top_k cannot be changed, its router chooses {selection.words}")
            selection = replace(selection, k=told.top_k[layer])
        self._require(selection)
        self.config = replace(router.config, selection=selection)

    def _require(self, selection: Any) -> None:
        wrong = [e for e in (*self.off, *self.pinned.values()) if not 0 <= e < self.num_experts]
        if wrong:
            raise ValueError(f"layer {self.layer}: experts are 0 to {self.num_experts - 1}, got {wrong[0]}")
        both = sorted(set(self.off) & set(self.pinned.values()))
        if both:
            raise ValueError(f"layer {self.layer}: expert {both[0]} is switched off, no token can be pinned to it")
        left, k = self.num_experts - len(self.off), getattr(selection, "k", 1)
        if not 1 <= k <= left:
            raise ValueError(f"layer {self.layer}: top_k must be from 1 to the {left} experts that are left, got {k}")
        try:
            selection.validate(self.num_experts)
        except ValueError as error:
            raise ValueError(f"layer {self.layer}: {error}") from error

    def _softmax(self) -> None:
        """The compiled choice knows of no changes."""

    def candidates(self, scores: Float[np.ndarray, "N E"], rows: Rows) -> Candidates:
        scores = scores.copy()
        scores[:, self.off] = -_FAR
        for n, position in enumerate(rows.positions.tolist()):
            if position in self.pinned:
                scores[n, self.pinned[position]] = _FAR
        found = super().candidates(scores, rows)
        if np.isin(found.expert, self.off).any():
            raise ValueError(f"layer {self.layer}: too few experts are left in the groups that a token chose")
        return found
