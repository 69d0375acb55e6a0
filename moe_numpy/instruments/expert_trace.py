"""The requests for experts that decoding a text would make, one token at a time."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ..inference import ExpertStore, Request, Trace
from ..inference.byte_ranges import PAGE
from ..models import Transformer
from ..moe import MoE
from ..pretrained.stored_experts import StoredExperts
from .routed_text import RoutedText

MAX_REQUESTS = 6000  # as many as a second replays


def trace_of(model: Transformer, routed: RoutedText, max_requests: int = MAX_REQUESTS) -> Trace:
    """The trace of the first tokens of a text: a step is a token, and each layer asks for those that it chose.

    Args:
        model: that routed it.
        routed: what was chosen.
        max_requests: at most; whole tokens.

    Raises:
        ValueError: the routers choose groups of experts.
    """
    sizes = {layer: _expert_bytes(model, layer) for layer in routed.layers}
    stored = _store(model, routed.layers[0])
    slot_bytes = stored.slot_bytes if stored else -(-max(map(max, sizes.values())) // PAGE) * PAGE
    tokens = max(min(len(routed), max_requests // len(routed.layers)), 1)
    by_layer = [list(_by_token(routed, i, tokens, len(sizes[layer]))) for i, layer in enumerate(routed.layers)]
    requests = tuple(
        Request(token, layer, by_layer[i][token]) for token in range(tokens) for i, layer in enumerate(routed.layers)
    )
    return Trace(sizes, slot_bytes, requests)


def _by_token(routed: RoutedText, at: int, tokens: int, num_experts: int) -> Iterator[tuple[int, ...]]:
    """The experts of each of the first tokens in one layer, without those that have no weights."""
    choices = routed.choices[at]
    for begin, end in pairwise(np.searchsorted(choices.token, np.arange(tokens + 1)).tolist()):
        yield tuple(e for e in choices.expert[begin:end].tolist() if e < num_experts)


def _expert_bytes(model: Transformer, layer: int) -> tuple[int, ...]:
    moe, store = model.layers[layer].feed_forward, _store(model, layer)
    if not isinstance(moe, MoE):
        raise ValueError(f"layer {layer} has no experts of its own to load: its router chooses groups")
    if store is not None:
        return tuple(store.nbytes(layer, e) for e in range(store.experts[layer]))
    nbytes = sum(parameter.data.nbytes for parameter in moe.experts.parameters())
    return (nbytes // moe.num_experts,) * moe.num_experts


def _store(model: Transformer, layer: int) -> ExpertStore | None:
    """Where the experts of a layer are, unless they are parameters."""
    experts = getattr(model.layers[layer].feed_forward, "experts", None)
    return experts.reader.store if isinstance(experts, StoredExperts) else None
