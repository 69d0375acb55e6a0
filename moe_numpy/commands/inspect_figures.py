"""The PNGs of ``inspect``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..instruments.coactivation import expected_together
from ..instruments.findings import Findings
from ..instruments.routed_text import shares
from ..instruments.routing_report import SentenceRouting, by_byte_class
from .figures import save_figures
from .inspect_cache import ComparedCaches
from .inspected import Inspected
from .picture_tables import shares_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LAYERS = 4  # of a model that was published
_TOKENS = 16


def save_inspect_figures(
    opened: Inspected,
    found: Findings,
    sentence: SentenceRouting,
    layer: int | None,
    out: Path | None,
    caches: ComparedCaches | None = None,
    pictures: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draw and write them: all layers of a model of bytes, some of a published one. Nothing without a folder."""
    folder = opened.folder if out is None and opened.is_run else out
    if folder is None:
        return []
    routed = found.routed
    layers = list(routed.layers)
    at = _drawn(opened, layers, layer)
    numbers = [layers[i] for i in at]

    def draw(plots: Any) -> "dict[str, Figure]":
        figures = {"expert_by_domain": plots.expert_by_domain(found.domain_shares[at], opened.domains, numbers)}
        if opened.is_bytes:
            names, classes = by_byte_class(routed.counts(routed.ids, opened.model.vocab_size)[at])
            figures["expert_by_byte"] = plots.expert_by_byte(classes, names, numbers)
        else:
            ids, counts = found.frequent_tokens(_TOKENS)
            names = [opened.tokenizer.name(int(id)) for id in ids]
            figures["expert_by_token"] = plots.expert_by_token(shares(counts[at]), names, numbers)
        by_position = shares(found.position_expert[at])
        figures["expert_by_position"] = plots.expert_by_position(by_position, found.position_names, numbers)
        dropped = routed.dropped.sum(axis=1) / np.maximum(routed.load.sum(axis=1), 1)
        figures["expert_load"] = plots.expert_load(
            shares(routed.load[at]), dropped[at] if opened.is_bytes else None, numbers
        )
        if found.together.any():
            expected = np.stack([expected_together(found.together[i]) for i in at])
            figures["co_activation"] = plots.co_activation(found.together[at], expected, numbers)
        beyond = np.array([[each.adjusted for each in of] for of in found.explained.values()])
        figures["explained_by_layer"] = plots.explained_by_layer(beyond, list(found.explained), layers)
        if len(opened.history[0]):
            figures["load_over_training"] = plots.load_over_training(*opened.history, layers)
        if pictures is not None:
            figures["expert_by_modality"] = plots.expert_by_modality(shares_of(pictures)[at], numbers)
        tokens = None if opened.is_bytes else [opened.tokenizer.name(id) for id in sentence.ids]
        figures["sentence_routing"] = plots.sentence_routing(sentence.of_layers(numbers), tokens)
        if caches is not None:
            rates = {policy: np.array(rate) for policy, rate in caches.hit_rates.items()}
            figures["expert_cache"] = plots.hits_over_budget(np.array(caches.budgets), rates)
        return figures

    return save_figures(folder, draw)


def _drawn(opened: Inspected, layers: list[int], layer: int | None) -> list[int]:
    if opened.is_bytes:
        return list(range(len(layers)))
    if layer is not None:
        return [layers.index(layer)]
    spread = np.linspace(0, len(layers) - 1, min(len(layers), _LAYERS))
    return [int(i) for i in spread.round()]
