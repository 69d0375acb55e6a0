"""Figures of several modalities in one model: patches as tokens, pools of experts, probabilities of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..typing import Array, Bool, Float, Int
from .style import GREY, ORANGE, grid, some

_FORBIDDEN = "#BBBBBB"


def patches_as_tokens(image: Float[Array, "H H"], tokens: Int[Array, " S"], targets: Int[Array, " S"]) -> Figure:
    """A picture cut into patches, and the window that they stand in with the caption.

    Args:
        image: pixels from 0 to 1.
        tokens: ids of the window; negative ones stand for the patches, row by row.
        targets: what each place has to predict; negative where nothing is predicted.
    """
    num_patches = int((tokens < 0).sum())
    side = round(num_patches**0.5)
    p = len(image) // side
    figure, (axes,) = grid(1, 1, height=2.5, title="A picture in the window of tokens: patches, then the caption")
    axes.imshow(image, cmap="gray_r", extent=(0, 5.2, 5.2, 0), vmin=0, vmax=1)
    unit = 5.2 / side
    for i in range(num_patches):
        row, column = divmod(i, side)
        axes.add_patch(Rectangle((column * unit, row * unit), unit, unit, fill=False, edgecolor=ORANGE, linewidth=1))
        axes.text((column + 0.08) * unit, (row + 0.1) * unit, str(i), ha="left", va="top", fontsize=8, color=ORANGE)
    left = 8.4
    for i, (token, target) in enumerate(zip(tokens, targets, strict=True)):
        x = left + i
        if token < 0:
            row, column = divmod(i, side)
            patch = image[row * p : (row + 1) * p, column * p : (column + 1) * p]
            axes.imshow(patch, cmap="gray_r", extent=(x, x + 0.92, 1.6, 0.68), vmin=0, vmax=1)
        else:
            axes.text(x + 0.46, 1.14, _character(int(token)), ha="center", va="center", family="monospace", fontsize=12)
        axes.add_patch(Rectangle((x, 0.68), 0.92, 0.92, fill=False, edgecolor=ORANGE if token < 0 else GREY))
        axes.text(x + 0.46, 2.5, str(token), ha="center", va="center", fontsize=8)
        shown = "·" if target < 0 else _character(int(target))
        axes.text(x + 0.46, 3.7, shown, ha="center", va="center", family="monospace", fontsize=12)
    for y, name in ((1.14, "window"), (2.5, "token id"), (3.7, "target")):
        axes.text(left - 0.3, y, name, ha="right", va="center", fontsize=10)
    axes.set_xlim(-0.1, left + len(tokens))
    axes.set_ylim(5.3, -0.1)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


def routing_in_pools(
    gate: Mapping[str, Float[Array, "T E"]], allowed: Mapping[str, Bool[Array, "T E"]], tokens: Sequence[str]
) -> Figure:
    """Which experts each token may choose (white) and which it chose (its gate weight), one panel per kind of pool."""
    figure, panels = grid(
        len(gate), len(gate), height=1.5 + 0.33 * len(tokens), title="Who may choose whom, and who did"
    )
    for axes, (name, weights) in zip(panels, gate.items(), strict=True):
        num_tokens, num_experts = weights.shape
        axes.imshow(np.where(allowed[name], 1.0, np.nan), cmap="gray", vmin=0, vmax=1, aspect="auto")
        axes.set_facecolor(_FORBIDDEN)
        for t, e in np.argwhere(weights > 0):
            axes.add_patch(Rectangle((e - 0.5, t - 0.5), 1, 1, color=ORANGE, alpha=0.25 + 0.75 * float(weights[t, e])))
            axes.text(e, t, f"{weights[t, e]:.1f}", ha="center", va="center", fontsize=8)
        axes.set_xticks(np.arange(num_experts + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(num_tokens + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
        axes.tick_params(which="both", length=0)
        axes.set_xticks(some(num_experts, 16))
        axes.set_yticks(range(num_tokens), tokens if axes is panels[0] else [""] * num_tokens)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("expert")
    figure.supxlabel("grey: not in the pool of this modality", fontsize=9)
    return figure


def probabilities_of_tokens(panels: Mapping[str, Float[Array, "T E"]], *, num_text: int, title: str) -> Figure:
    """p of every token over the experts, one panel per way to train the router; text above the line, patches below."""
    figure, axes_of = grid(len(panels), len(panels), height=4.4, title=title)
    image: Any = None
    for axes, (name, p) in zip(axes_of, panels.items(), strict=True):
        image = axes.imshow(p, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="none")
        axes.axhline(num_text - 0.5, color="white", linewidth=2)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(p.shape[1]))
        axes.set_xlabel("expert")
        middle = [(num_text - 1) / 2, (num_text + len(p) - 1) / 2]
        axes.set_yticks(middle, ["text", "patches"] if axes is axes_of[0] else ["", ""])
        axes.tick_params(length=0)
    figure.colorbar(image, ax=axes_of, label="probability", pad=0.015)
    return figure


def _character(token: int) -> str:
    return {ord(" "): "␣", ord("\n"): "↵"}.get(token, chr(token))
