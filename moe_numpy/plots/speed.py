"""Figures of speed: what a machine can do, where the time of a layer goes, and the benchmarks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..typing import Array, Float, Int
from .style import BLUE, GREEN, GREY, ORANGE, PINK, STYLES, grid

_BARS = (  # key of a row, label, colour, hatch
    ("eager_ms", "transformers, eager", GREY, "//"),
    ("grouped_mm_ms", "transformers, grouped_mm", ORANGE, ".."),
    ("ours_ms", "moe_numpy", BLUE, ""),
    ("gemm_ms", "matrix multiplications alone", GREEN, "xx"),
)
_CUT = 1.9  # longer bars end here, with an arrow
_OVER_LINES = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
# Throughout, our layer is blue, its multiplications green, their floor grey, the peer orange.
_PARTS = ((GREEN, "xx"), (ORANGE, "//"), (BLUE, ""), (PINK, ".."), (GREY, ""))  # colour, hatch
_LAYER_AND_PARTS = (STYLES[0], STYLES[2], {"color": GREY, "linestyle": ":", "marker": "_"})
_MARKERS = "osD^vP*Xhp<>"


@dataclass(frozen=True)
class Spot:
    """A computation under the roofline: its operations per byte read or written, and its GFLOP/s."""

    name: str
    intensity: float
    gflops: float
    matmul: bool


def layer_times(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Forward and backward of one layer: each time over that of the faster peer, one panel per machine.

    Args:
        results: by title of the panel, the rows of ``python -m moe_numpy bench layer --against torch --json``.
    """
    height = 1.3 + 0.78 * max(len(rows) for rows in results.values())
    figure, panels = grid(len(results), len(results), height=height, title="One MoE layer, forward and backward")
    for axes, (title, rows) in zip(panels, results.items(), strict=True):
        at = np.arange(len(rows))
        for i, (key, label, color, hatch) in enumerate(_BARS):
            times = np.array([row[key] for row in rows])
            share = times / [row["peer_ms"] for row in rows]
            shown = np.minimum(share, _CUT)
            place = at + 0.2 * (i - 1.5)
            axes.barh(place, shown, 0.18, label=label, color=color, hatch=hatch, edgecolor="white", linewidth=0)
            for y, x, ms in zip(place, shown, times, strict=True):
                number = f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"
                axes.text(
                    x + 0.02, y, f"{number} ms{' →' if x == _CUT else ''}", va="center", fontsize=8, bbox=_OVER_LINES
                )
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlim(0, 2.3)
        axes.set_yticks(at, ["T={} d={}\nf={} E={} k={}".format(*row["shape"]) for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("time over that of the faster peer")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(_BARS), frameon=False, fontsize=9)
    return figure


def roofline(peak: float, bandwidths: Mapping[str, float], spots: Sequence[Spot]) -> Figure:
    """Speed against arithmetic intensity, and the roofs min(peak, intensity · bandwidth); both axes logarithmic.

    Args:
        peak: the fastest matrix multiplication, GFLOP/s.
        bandwidths: GB/s, by name of the memory.
        spots: at most 12, each with its own marker, listed beside the plot in order of intensity; where several
            coincide, each is drawn around the one before.
    """
    figure, (axes,) = grid(1, 1, height=5.0, title="Roofline")
    ordered = sorted(spots, key=lambda spot: spot.intensity)
    reach = np.geomspace(min(0.05, ordered[0].intensity / 2), max(1000.0, ordered[-1].intensity * 2), 200)
    for (name, bandwidth), style in zip(bandwidths.items(), STYLES, strict=False):
        roof = np.minimum(peak, reach * bandwidth)
        axes.plot(reach, roof, color="black", linestyle=style["linestyle"], label=f"{name}, {bandwidth:.0f} GB/s")
    axes.text(
        reach[-1], 1.08 * peak, f"matrix multiplication, {peak:.0f} GFLOP/s", ha="right", va="bottom", fontsize=10
    )
    for i, (spot, marker) in enumerate(zip(ordered, _MARKERS, strict=False)):
        below = sum(_coincide(spot, other) for other in ordered[:i])
        look: dict[str, Any] = {
            "marker": marker,
            "markersize": 9 + 4 * below,
            "fillstyle": "none",
            "markeredgewidth": 2,
        }
        color = GREEN if spot.matmul else ORANGE
        axes.plot(spot.intensity, spot.gflops, color=color, linestyle="none", label=spot.name, zorder=3, **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    lowest = min(spot.gflops for spot in ordered)
    axes.set_ylim(min(1.0, lowest / 2), 2.2 * peak)
    axes.set_xlim(reach[0], reach[-1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GFLOP/s")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _coincide(a: Spot, b: Spot) -> bool:
    """Whether their markers would hide each other."""
    return max(abs(math.log(a.intensity / b.intensity)), abs(math.log(a.gflops / b.gflops))) < 0.2


def time_by_part(bars: Mapping[str, Mapping[str, float]]) -> Figure:
    """Where the time goes, in milliseconds: one stacked bar per name.

    Args:
        bars: the parts of each bar, at most 5, the same ones in the same order.
    """
    figure, (axes,) = grid(1, 1, height=1.6 + 0.62 * len(bars), title="Where the time goes")
    totals = [sum(parts.values()) for parts in bars.values()]
    left = np.zeros(len(bars))
    for i, part in enumerate(next(iter(bars.values()))):
        width = np.array([parts[part] for parts in bars.values()])
        color, hatch = _PARTS[i]
        axes.barh(list(bars), width, 0.66, left=left, color=color, hatch=hatch, edgecolor="white", label=part)
        left += width
    for y, total in enumerate(totals):
        axes.text(total + 0.01 * max(totals), y, f"{total:.3g} ms", va="center", fontsize=10)
    axes.set_xlim(0, 1.12 * max(totals))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def time_per_token(
    tokens: Int[Array, " t"],
    by_tokens: Mapping[str, Float[Array, " t"]],
    num_experts: Int[Array, " e"],
    by_experts: Mapping[str, Float[Array, " e"]],
) -> Figure:
    """Microseconds per token against the number of tokens (logarithmic), and against the number of experts (from 0).

    The lines are the layer, its multiplications and their floor, in this order, with the colours of the other figures.
    """
    figure, panels = grid(2, 2, height=4.2, title="Time per token")
    sides = ((tokens, by_tokens, "tokens T"), (num_experts, by_experts, "experts E, at equal active work"))
    for axes, (x, lines, size) in zip(panels, sides, strict=True):
        for (name, y), style in zip(lines.items(), _LAYER_AND_PARTS, strict=False):
            axes.plot(x, y, label=name, linewidth=2, markersize=7, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{n:,}" for n in x])
        axes.set_xlabel(size)
        axes.set_ylabel("microseconds per token")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=10, loc="upper right" if axes is panels[0] else "upper left")
    left, right = panels
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    right.set_ylim(0, 1.3 * max(max(y) for y in by_experts.values()))  # room for the legend
    return figure
