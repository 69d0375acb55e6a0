"""Figures of choices: which experts are chosen together, and what explains a choice in each layer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..typing import Array, Float, Int
from .style import STYLES, columns_for, grid, layer_numbers, literal, some

_TOO_FEW = 5  # expected; what is counted instead says little
_RANGE = 3.0  # log2 of the lift: an eighth to eight times


def co_activation(
    together: Int[Array, "layers E E"], expected: Float[Array, "layers E E"], layers: Sequence[int] | None = None
) -> Figure:
    """How much more often two experts are chosen together than their loads explain, one panel per layer.

    Args:
        together: counts of each pair.
        expected: what the loads explain; pairs with less than 5 stay grey.
        layers: their numbers in the model.
    """
    num_layers, num_experts, _ = together.shape
    columns = columns_for(num_layers)
    side = 4.3 if columns > 1 else 7.0
    title = "Experts chosen together, against what their loads explain"
    figure, panels = grid(num_layers, columns, height=0.8 + side * math.ceil(num_layers / columns), title=title)
    image: Any = None
    for i, (layer, axes) in enumerate(zip(layer_numbers(layers, num_layers), panels, strict=True)):
        known = expected[i] >= _TOO_FEW
        lift = np.log2(np.maximum(together[i], 2.0**-9) / np.where(known, expected[i], 1))
        axes.set_facecolor("0.85")
        shown = np.ma.masked_array(lift.clip(-_RANGE, _RANGE), ~known)
        image = axes.imshow(shown, cmap="PuOr_r", vmin=-_RANGE, vmax=_RANGE)
        axes.set_title(f"layer {layer}", fontsize=10)
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(some(num_experts, 9))
        if i >= num_layers - columns:
            axes.set_xlabel("expert")
        if i % columns == 0:
            axes.set_ylabel("expert")
    bar = figure.colorbar(image, ax=panels, pad=0.015, shrink=0.8, extend="both")
    exponents = range(-int(_RANGE), int(_RANGE) + 1)
    bar.set_ticks(list(exponents), labels=[f"{2**e}×" if e >= 0 else f"1/{2**-e}×" for e in exponents])
    bar.set_label("counted over expected; grey: fewer than 5 expected")
    return figure


def explained_by_layer(
    share: Float[Array, "labels layers"], labels: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """How much of the first choice each label explains beyond chance, one line per label over the layers.

    Args:
        share: adjusted for chance; NaN where nothing can be said.
        labels: their names.
        layers: their numbers in the model.
    """
    figure, (axes,) = grid(1, 1, height=4.2, title="How much of the choice of expert a label explains, beyond chance")
    x = list(layer_numbers(layers, share.shape[1]))
    for k, (label, values) in enumerate(zip(labels, share, strict=True)):
        axes.plot(x, 100 * values, label=literal(label), linewidth=2, markersize=7, **STYLES[k % len(STYLES)])
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_ylim(min(-3.0, float(np.nanmin([0, *(100 * share).ravel()])) - 3), 103)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel("% of the entropy of the choice")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(labels), frameon=False)
    return figure
