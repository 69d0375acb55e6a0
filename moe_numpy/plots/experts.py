"""Figures of what experts learned: what their choice depends on, and what each costs to remove."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ..typing import Array, Float
from .style import BLUE, GREY, ORANGE, STYLES, expert_ticks, grid, layer_numbers, literal


def explained_choice(
    trained: Float[Array, "layers labels"],
    untrained: Float[Array, "layers labels"],
    shuffled: Float[Array, "layers labels"],
    labels: Sequence[str],
    layers: Sequence[int] | None = None,
) -> Figure:
    """How much of the choice of an expert each label explains: one panel per layer, one bar per label.

    Args:
        trained: shares from 0 to 1, after training.
        untrained: the same before the first step.
        shuffled: the same after training, with shuffled labels: what chance gives.
        labels: their names.
        layers: their numbers in the model.
    """
    num_layers = len(trained)
    height = 1.3 + 0.45 * len(labels)
    title = "How much of the choice of expert a label explains"
    figure, panels = grid(num_layers, num_layers, height=height, title=title)
    y = np.arange(len(labels))
    for i, (layer, axes) in enumerate(zip(layer_numbers(layers, num_layers), panels, strict=True)):
        axes.barh(y, 100 * trained[i], height=0.55, color=BLUE, label="trained")
        for row, (value, other) in enumerate(zip(trained[i], untrained[i], strict=True)):
            axes.text(100 * max(value, other) + 5, row, f"{100 * value:.0f} %", va="center", fontsize=10)
        axes.plot(
            100 * untrained[i], y, linestyle="none", marker="D", markersize=7, color="white", markeredgecolor=ORANGE,
            markeredgewidth=2, label="before training",
        )  # fmt: skip
        axes.plot(
            100 * shuffled[i], y, linestyle="none", marker="|", markersize=20, markeredgewidth=2.5, color="black",
            label="trained, label shuffled",
        )  # fmt: skip
        axes.set_title(f"layer {layer}", fontsize=11)
        axes.set_yticks(y, labels if i == 0 else [""] * len(labels), fontsize=11)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(-2, 100)
        axes.set_xlabel("% of the entropy of the choice")
        axes.spines[["top", "right"]].set_visible(False)
    lines, names = panels[0].get_legend_handles_labels()
    order = [names.index(name) for name in ("trained", "before training", "trained, label shuffled")]
    figure.legend(
        [lines[k] for k in order],
        [names[k] for k in order],
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=10,
    )
    return figure


def ablation_damage(
    increase: Float[Array, "layers E domains"], domains: Sequence[str], layers: Sequence[int] | None = None
) -> Figure:
    """How much each domain's loss grows without one expert, one panel per layer.

    Args:
        increase: of the loss in bits per byte without expert e of a layer; negative where the loss fell.
        domains: their names.
        layers: their numbers in the model.
    """
    num_layers, num_experts, num_domains = increase.shape
    height = 0.9 + num_layers * (0.6 + 0.36 * num_domains)
    title = "Loss without one expert: increase in hundredths of a bit per byte"
    figure, panels = grid(num_layers, 1, height=height, title=title)
    top = max(float(abs(increase).max()), 1e-6)
    # Square root, so that small increases show beside the largest one; zero keeps the middle colour.
    shade = np.sign(increase) * np.sqrt(abs(increase) / top)
    image = None
    for i, (layer, axes) in enumerate(zip(layer_numbers(layers, num_layers), panels, strict=True)):
        image = axes.imshow(shade[i].T, aspect="auto", cmap="PuOr_r", norm=TwoSlopeNorm(0, -1, 1))
        for e, d in np.ndindex(num_experts, num_domains):
            colour = "white" if abs(shade[i, e, d]) > 0.7 else "black"
            axes.text(e, d, _hundredths(increase[i, e, d]), ha="center", va="center", color=colour, fontsize=10)
        axes.set_title(f"layer {layer}", fontsize=10, loc="left")
        axes.set_yticks(range(num_domains), [literal(domain) for domain in domains], fontsize=10)
        axes.tick_params(length=0)
        expert_ticks(axes, num_experts)
        if i == num_layers - 1:
            axes.set_xlabel("ablated expert")
    assert image is not None
    ticks = (0.0, top / 100, top / 10, top / 2, top)
    bar = figure.colorbar(image, ax=panels, pad=0.015, ticks=[math.sqrt(v / top) for v in ticks])
    bar.set_label("hundredths of a bit per byte")
    bar.ax.set_yticklabels([_hundredths(v) for v in ticks])
    bar.ax.set_ylim(min(0.0, float(shade.min())), 1)  # no purple below the smallest value
    return figure


def share_against_damage(
    share: Float[Array, "layers E domains"], increase: Float[Array, "layers E domains"], domains: Sequence[str]
) -> Figure:
    """Each expert's share of a domain against the domain's loss without it: one point per layer, expert and domain.

    Args:
        share: of the domain's assignments that the expert takes.
        increase: of the domain's loss without the expert, in bits per byte.
        domains: their names.
    """
    figure, panels = grid(
        len(domains), len(domains), height=3.9, title="Share of an expert, and loss increase without it"
    )
    low, high = float(min(increase.min(), 0)), float(increase.max())
    margin = 0.06 * (high - low) + 1e-6
    for i, (domain, axes, style) in enumerate(zip(domains, panels, _cycled(STYLES, len(domains)), strict=True)):
        x, y = 100 * share[:, :, i].reshape(-1), increase[:, :, i].reshape(-1)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.plot(
            x, y, linestyle="none", marker=style["marker"], color=style["color"], markersize=8, alpha=0.8,
            markeredgecolor="white",
        )  # fmt: skip
        axes.set_title(literal(domain), fontsize=11)
        axes.set_xlim(-1.5, 1.1 * 100 * float(share.max()))
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlabel("% of the domain's assignments")
        axes.grid(alpha=0.25)
        if i == 0:
            axes.set_ylabel("increase of the loss, bits per byte")
        else:
            axes.tick_params(labelleft=False)
    return figure


def _cycled(styles: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [styles[i % len(styles)] for i in range(count)]


def _hundredths(bits: float) -> str:
    """12.3 for 0.123 bits; 0 for what rounds to zero."""
    text = f"{100 * bits:.1f}"
    return "0" if float(text) == 0 else text
