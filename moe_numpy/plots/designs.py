"""What sparse models chose over the years: experts, experts per token, granularity, the active share."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..accounting.designs import Design
from .style import BLUE, GREEN, GREY, ORANGE, PINK, grid


def designs_over_years(designs: Sequence[Design]) -> Figure:
    """A row for each model, the oldest at the top; panels of E, k, G and the active share, with logarithmic axes."""
    height = 1.2 + 0.3 * len(designs)
    figure, panels = grid(4, 4, height=height, title="Designs of sparse models, by release")
    rows = range(len(designs))
    shares = [d.active / d.total for d in designs]
    columns: tuple[tuple[str, str, Sequence[float], list[str]], ...] = (
        ("E, experts per layer", BLUE, [d.num_experts for d in designs], [f"{d.num_experts}" for d in designs]),
        ("k, experts per token", ORANGE, [d.top_k for d in designs], [_chosen(d) for d in designs]),
        ("G, granularity", GREEN, [d.granularity for d in designs], [f"{d.granularity:.1f}" for d in designs]),
        ("active share", PINK, shares, [f"{100 * share:.2g} %" for share in shares]),
    )
    for axes, (title, colour, values, told) in zip(panels, columns, strict=True):
        axes.set_xscale("log")
        axes.hlines(rows, min(values) / 1.5, values, color=colour, alpha=0.35, linewidth=2)
        axes.plot(values, rows, "o", color=colour, markersize=7)
        for row, value, text in zip(rows, values, told, strict=True):
            axes.annotate(text, (value, row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_xlim(min(values) / 1.5, max(values) * (max(values) / min(values)) ** 0.45)
        axes.set_ylim(len(designs) - 0.4, -0.6)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.minorticks_off()
        axes.set_yticks(rows, [""] * len(designs))
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.spines["left"].set_color(GREY)
    figure.supxlabel("logarithmic scales; + counts shared experts", fontsize=9)
    panels[0].set_yticks(rows, [f"{d.released}  {d.name}" for d in designs], fontsize=9)
    return figure


def _chosen(design: Design) -> str:
    return f"{design.top_k}" + (f" + {design.shared_experts}" if design.shared_experts else "")
