"""Which experts suffer most from a format: one expert at a time is stored in it, all else stays float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from moe_numpy.formats import quantise
from moe_numpy.inference import Decoder
from moe_numpy.inference.maps import format_for
from moe_numpy.models import Transformer
from moe_numpy.moe import MoE
from moe_numpy.training.corpus import Windows
from moe_numpy.training.evaluation import evaluate
from moe_numpy.typing import Float

from .held_out import Difference, window_losses


def expert_weights(layer: MoE) -> list[Any]:
    """The matrices of the experts of a layer, each [E, out, in]."""
    return [p.data for _, p in layer.experts.named_parameters() if p.data.ndim == 3]


def sparse_layers(model: Transformer) -> dict[int, MoE]:
    """The layers with experts that a router chooses, by number."""
    found = {i: layer.feed_forward for i, layer in enumerate(model.layers)}
    return {i: layer for i, layer in found.items() if isinstance(layer, MoE)}


@contextmanager
def rounded(weights: list[Any], expert: int, format: str) -> Iterator[float]:
    """Meanwhile, this expert has the values that the format gives it; yield ‖W - Ŵ‖ / ‖W‖ of all its matrices."""
    before = [w[expert].copy() for w in weights]
    try:
        for w in weights:
            w[expert] = quantise(w[expert], format_for(w.shape[-1], format)).dequantise()
        moved = sum(np.sum((w[expert] - old) ** 2, dtype=np.float64) for w, old in zip(weights, before, strict=True))
        yield float(np.sqrt(moved / sum(np.sum(old**2, dtype=np.float64) for old in before)))
    finally:
        for w, old in zip(weights, before, strict=True):
            w[expert] = old


def damage(
    model: Transformer,
    windows: Windows,
    reference: Float[np.ndarray, " B"],
    format: str,
    on_window: Callable[[], None],
) -> list[dict[str, Any]]:
    """One row per expert: what storing it in the format costs, the share of tokens sent to it, its weights' error.

    ``per_use`` is the cost over that share: per byte that the expert sees.
    """
    sent = evaluate(model, windows, int(windows.domain.max()) + 1).by_domain.sum(axis=1) / windows.tokens.size
    rows = []
    for shares, (number, layer) in zip(sent, sparse_layers(model).items(), strict=True):
        weights = expert_weights(layer)
        for expert in range(len(weights[0])):
            with rounded(weights, expert, format) as error:
                cost = Difference.between(window_losses(Decoder(model), windows, on_window), reference)
            share = float(shares[expert])
            rows.append(
                {
                    "layer": number,
                    "expert": expert,
                    "difference": cost.mean,
                    "error": cost.error,
                    "share": share,
                    "per_use": cost.mean / share if share else 0.0,
                    "weight_error": error,
                }
            )
    return rows
