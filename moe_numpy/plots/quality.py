"""What number formats cost in quality: by format and part of the model, and one expert at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import GREY, STYLES, grid

_PARTS = ("experts", "rest", "both")
_MARKERS = "osD^v*XP"


def cost_of_formats(
    formats: Sequence[Mapping[str, Any]],
    experts: Sequence[Mapping[str, Any]],
    allowed: Mapping[str, float],
    one_by_one: str,
) -> Figure:
    """Differences of the loss to float32: of each format, and of each expert alone against its load.

    Bars span two standard errors on each side; the left axis is linear near zero and logarithmic beyond.

    Args:
        formats: rows with ``format``, ``part``, ``difference`` and ``error`` in nats per byte.
        experts: rows with ``layer``, ``expert``, ``difference``, ``error`` and ``share`` of the tokens.
        allowed: the most that experts should cost, by format.
        one_by_one: the format of the experts.
    """
    figure, (cost, heat, scatter) = grid(3, 3, height=4.8, title="What number formats cost, nats per byte")
    _draw_formats(cost, formats, allowed)
    layers = sorted({row["layer"] for row in experts})
    table = np.full((len(layers), 1 + max(row["expert"] for row in experts)), np.nan)
    for row in experts:
        table[layers.index(row["layer"]), row["expert"]] = 1e6 * row["difference"]
    top = max(float(np.nanmax(abs(table))), 1e-9)
    image = heat.imshow(table.T, aspect="auto", cmap="PuOr_r", vmin=-top, vmax=top)
    heat.set_title(f"one expert in {one_by_one}, the others float32", fontsize=10)
    heat.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    heat.set_xlabel("layer")
    heat.set_ylabel("expert")
    if table.shape[1] <= 16:
        heat.set_yticks(range(table.shape[1]))
        for i, e in np.ndindex(table.shape):
            shade = "white" if abs(table[i, e]) > 0.7 * top else "black"
            heat.text(i, e, f"{table[i, e]:.0f}", ha="center", va="center", fontsize=8, color=shade)
    figure.colorbar(image, ax=heat, label="10⁻⁶ nats per byte", fraction=0.06, pad=0.02)
    for i, layer in enumerate(layers):
        mine = [row for row in experts if row["layer"] == layer]
        place = [100 * row["share"] for row in mine]
        value, error = (1e6 * np.array([row[name] for row in mine]) for name in ("difference", "error"))
        style = {"color": STYLES[i % len(STYLES)]["color"], "marker": _MARKERS[i % len(_MARKERS)]}
        scatter.errorbar(
            place, value, 2 * error, linestyle="none", markersize=5, elinewidth=0.7, label=f"{layer}", **style
        )
    scatter.axhline(0, color=GREY, linewidth=0.8)
    scatter.set_title("the same against the load", fontsize=10)
    scatter.set_xlabel("% of the bytes sent to it")
    scatter.set_ylabel("10⁻⁶ nats per byte")
    scatter.legend(title="layer", fontsize=8, title_fontsize=8, frameon=False)
    scatter.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_formats(axes: Axes, rows: Sequence[Mapping[str, Any]], allowed: Mapping[str, float]) -> None:
    names = list(dict.fromkeys(row["format"] for row in rows if row["format"] != "float32"))
    for i, (part, style) in enumerate(zip(_PARTS, STYLES, strict=False)):
        mine = [row for row in rows if row["part"] == part and row["format"] in names]
        at = np.array([names.index(row["format"]) for row in mine]) + 0.22 * (i - 1)
        value, error = (np.array([row[name] for row in mine]) for name in ("difference", "error"))
        point = {"color": style["color"], "marker": style["marker"]}
        axes.errorbar(at, value, 2 * error, linestyle="none", markersize=5, label=part, **point)
    for name, most in allowed.items():
        place = names.index(name)
        axes.plot([place - 0.45, place + 0.45], [most, most], color=GREY, linewidth=1.5)
        axes.text(place, most, f"allowed {most:g}", ha="center", va="bottom", fontsize=7, color=GREY)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=1e-4)
    axes.set_xticks(range(len(names)), names, rotation=30, fontsize=8)
    axes.set_title("in each format", fontsize=10)
    axes.set_ylabel("loss less that of float32")
    axes.legend(title="stored in it", fontsize=8, title_fontsize=8, frameon=False, loc="lower right")
    axes.set_ylim(-1.5e-3, 6e-2)
    axes.spines[["top", "right"]].set_visible(False)
