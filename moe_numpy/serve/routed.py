"""A model, and a text that it has read, as the microscope's page shows them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inference import Choices, Decoder, SlotStore
from ..moe.selection import FixedK, GroupLimited, TopK
from .openai_api import routed_token
from .sampling import log_probability
from .served import Served

_PIECE = 128  # tokens at once


def described(served: Served) -> dict[str, Any]:
    """The model, layer by layer; where its experts are read from files, with how many were in memory."""
    decoder = served.decoder
    return {
        "name": served.name,
        "vocab_size": served.vocab_size,
        "context": served.context,
        "sparse_layers": decoder.routed_layers,
        "layers": [_layer(i, layer, decoder) for i, layer in enumerate(decoder.layers)],
    }


def told(
    served: Served, ids: Sequence[int], choices: Sequence[Choices], losses: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Each token with its experts, gate weights and loss."""
    layers = served.decoder.routed_layers
    return [
        routed_token(served, id, chosen, layers) | {"loss": None if loss is None else round(loss, 6)}
        for id, chosen, loss in zip(ids, choices, losses, strict=True)
    ]


def read_text(served: Served, ids: Sequence[int]) -> dict[str, Any]:
    """A text of at most ``context`` tokens that nothing is written after."""
    sequence = served.decoder.new_sequence()
    choices: list[Choices] = []
    losses: list[float | None] = [None]
    for start in range(0, len(ids), _PIECE):
        piece = np.array(ids[start : start + _PIECE])
        logits = served.decoder.read((sequence, piece), every=True, choices={sequence: choices})
        losses += [-log_probability(x, t, 0).value for x, t in zip(logits, ids[start + 1 :], strict=False)]
    return {"prompt_tokens": len(ids), "tokens": told(served, ids, choices, losses)}


def _layer(i: int, layer: Any, decoder: Decoder) -> dict[str, Any]:
    if i not in decoder.routed_layers:
        return {"layer": i, "kind": "dense"}
    step = layer.feed_forward
    selection = step.router.config.selection
    return {
        "layer": i,
        "kind": "sparse",
        "num_experts": step.router.num_experts,
        "top_k": selection.k if isinstance(selection, FixedK) else None,
        "selection": selection.words,
        "shared_expert": step.shared is not None,
        "top_k_can_change": isinstance(selection, TopK | GroupLimited),
        "cache": _cache(step.experts),
    }


def _cache(experts: Any) -> dict[str, int] | None:
    """Of the experts that were asked for, those in memory; None where all are."""
    reader = getattr(experts, "reader", None)
    if reader is None or not isinstance(reader.store, SlotStore):
        return None
    counts = reader.store.counts[reader.layer]
    return {"requests": counts.requests, "hits": counts.hits}
