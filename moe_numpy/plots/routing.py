"""Figures of routing: which experts take which domains and bytes, their load, the routing of one text."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..instruments.routing_report import SentenceRouting, separation
from ..moe.pools import MODALITIES
from ..typing import Array, Float
from .style import BLUE, MAX_NUMBERED, ORANGE, columns_for, expert_ticks, grid, layer_numbers, literal, some

_LEAST_HEIGHT = 3.4  # inches: the colour bar's label fits


def expert_by_domain(
    shares: Float[Array, "layers domains E"], domains: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """Which expert takes which domain, one panel per layer; different rows mean specialised experts."""
    names = [
        f"layer {layer}: closest domains {100 * s:.0f} % apart"
        for layer, s in zip(layer_numbers(layers, len(shares)), separation(shares), strict=True)
    ]
    return _share_maps(shares, domains, names, "Which experts take which domain (each row sums to 100 %)")


def expert_by_byte(
    shares: Float[Array, "layers classes E"], classes: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """Which expert takes which kind of byte, one panel per layer."""
    names = [f"layer {layer}" for layer in layer_numbers(layers, len(shares))]
    return _share_maps(shares, classes, names, "Which experts take which kind of byte (each row sums to 100 %)")


def expert_by_token(
    shares: Float[Array, "layers rows E"], names: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """Which expert takes which token, one panel per layer."""
    titles = [f"layer {layer}" for layer in layer_numbers(layers, len(shares))]
    return _share_maps(shares, names, titles, "Which experts take the most frequent tokens (each row sums to 100 %)")


def expert_by_position(
    shares: Float[Array, "layers positions E"], positions: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """Which expert takes which positions of a window, one panel per layer."""
    titles = [f"layer {layer}" for layer in layer_numbers(layers, len(shares))]
    title = "Which experts take which position in the window (each row sums to 100 %)"
    return _share_maps(shares, positions, titles, title)


def expert_by_modality(shares: Float[Array, "layers modalities E"], layers: Sequence[int] | None = None) -> Figure:
    """Which expert takes text and which takes patches of images, one panel per layer."""
    titles = [f"layer {layer}" for layer in layer_numbers(layers, len(shares))]
    return _share_maps(shares, MODALITIES, titles, "Which experts take which modality (each row sums to 100 %)")


def expert_load(
    load: Float[Array, "layers E"],
    dropped: Float[Array, " layers"] | None = None,
    layers: Sequence[int] | None = None,
) -> Figure:
    """Each expert's share of the assignments, dropped ones included, against the fair share; one panel per layer."""
    num_layers, num_experts = load.shape
    columns = columns_for(num_layers)
    height = 0.7 + 2.0 * math.ceil(num_layers / columns)
    fair = 100 / num_experts
    title = f"Load of the experts (dashed: the fair share, {fair:.1f} %)"
    figure, panels = grid(num_layers, columns, height=height, title=title)
    for i, (layer, axes) in enumerate(zip(layer_numbers(layers, num_layers), panels, strict=True)):
        axes.bar(range(num_experts), 100 * load[i], color=BLUE, width=0.75)
        axes.axhline(fair, color=ORANGE, linestyle="--", linewidth=1.5)
        lost = "" if dropped is None else f", {100 * dropped[i]:.1f} % dropped"
        axes.set_title(f"layer {layer}{lost}", fontsize=10)
        axes.set_ylim(0, 100 * max(load.max(), 1.4 / num_experts) * 1.1)
        expert_ticks(axes, num_experts)
        if i % columns == 0:
            axes.set_ylabel("% of assignments")
        if i >= num_layers - columns:
            axes.set_xlabel("expert")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def sentence_routing(routing: SentenceRouting, names: Sequence[str] | None = None) -> Figure:
    """The gate weights of one text, one panel per layer, one column per token; without names, tokens are bytes."""
    num_layers, length, num_experts = routing.gate.shape
    height = 1.1 + num_layers * (0.45 + max(1.0, min(4.0, 0.14 * num_experts)))
    title = "Routing of one text: brighter means a larger gate weight"
    figure, panels = grid(num_layers, 1, height=height, title=title)
    size = min(10.0, 700 / length)
    labels = [_glyph(b) for b in routing.ids] if names is None else [literal(name) for name in names]
    image = None
    for i, axes in enumerate(panels):
        image = axes.imshow(
            routing.gate[i].T, aspect="auto", cmap="cividis", vmin=0, vmax=max(routing.gate.max(), 1e-6),
            interpolation="nearest",
        )  # fmt: skip
        lost = np.argwhere(routing.asked[i] & (routing.gate[i] == 0))
        axes.plot(lost[:, 0], lost[:, 1], "x", color="white", markersize=size / 2)
        axes.set_xticks(range(length), labels, fontsize=size, family="monospace", rotation=0 if names is None else 90)
        axes.tick_params(axis="x", length=0)
        axes.set_yticks(some(num_experts, 8))
        axes.set_ylabel("expert")
        axes.set_title(f"layer {routing.layers[i]}", fontsize=10, loc="left")
    assert image is not None
    figure.colorbar(image, ax=panels, label="gate weight", pad=0.01, fraction=0.03)
    if (routing.asked & (routing.gate == 0)).any():
        figure.supxlabel("× dropped: the expert was full", fontsize=9)
    return figure


def _share_maps(shares: Any, rows: Sequence[str], names: Sequence[str], title: str) -> Figure:
    """One heat map of percentages per layer, all on one scale."""
    num_layers, num_rows, num_experts = shares.shape
    columns = columns_for(num_layers) if num_experts <= MAX_NUMBERED else 1
    height = max(0.8 + math.ceil(num_layers / columns) * (0.75 + 0.33 * num_rows), _LEAST_HEIGHT)
    figure, panels = grid(num_layers, columns, height=height, title=title)
    labels = [literal(row) for row in rows]
    top = max(shares.max(), 2 / num_experts)
    image = None
    for i, axes in enumerate(panels):
        image = axes.imshow(
            100 * shares[i], aspect="auto", cmap="cividis", vmin=0, vmax=100 * top, interpolation="nearest"
        )
        axes.set_title(names[i], fontsize=10)
        axes.set_yticks(range(num_rows), labels if i % columns == 0 else [""] * num_rows)
        axes.tick_params(length=0)
        expert_ticks(axes, num_experts)
        if i >= num_layers - columns:
            axes.set_xlabel("expert")
        if num_experts <= MAX_NUMBERED:
            for r, e in np.ndindex(num_rows, num_experts):
                share = shares[i, r, e]
                colour = "black" if share > 0.55 * top else "white"
                axes.text(e, r, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=9)
    assert image is not None
    bar = figure.colorbar(image, ax=panels, label="% of the row; white line: fair share", pad=0.015)
    bar.ax.axhline(100 / num_experts, color="white", linewidth=2)
    return figure


def _glyph(byte: int) -> str:
    """One character for a byte on an axis."""
    return {0x20: "␣", 0x0A: "↵", 0x09: "→"}.get(byte) or (literal(chr(byte)) if 0x20 < byte < 0x7F else "·")
