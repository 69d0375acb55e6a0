"""The figures of the benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import BLUE, GREEN, GREY, ORANGE, grid

_BARS = (  # key of a row, label, colour, hatch
    ("eager_ms", "transformers, eager", GREY, "//"),
    ("grouped_mm_ms", "transformers, grouped_mm", ORANGE, ".."),
    ("ours_ms", "moe_numpy", BLUE, ""),
    ("gemm_ms", "matrix products alone", GREEN, "xx"),
)
_CUT = 1.9  # longer bars end here, with an arrow


def layer_times(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Forward and backward of one layer: each time over that of the faster peer, one panel a machine.

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
                axes.text(x + 0.02, y, f"{number} ms{' →' if x == _CUT else ''}", va="center", fontsize=8)
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
