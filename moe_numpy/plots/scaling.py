"""Scaling laws: the loss over active parameters and granularity, and predicted against measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .style import GREY, STYLES, grid

_LOOKS = [
    {"color": style["color"], "marker": marker, "linestyle": line}
    for (style, line), marker in zip([(s, line) for line in ("-", "--") for s in STYLES], "osD^v*XP", strict=True)
]
_NAMES = {"krajewski": "Krajewski", "clark": "Clark"}


def loss_laws(
    results: Sequence[Mapping[str, Any]], laws: Mapping[str, Mapping[str, Any]], fixed_experts: int
) -> Figure:
    """Left: the loss over N, a line for each E. Middle: over G, a line for each N. Right: predicted over measured.

    Args:
        results: trained models with ``parameters``, ``experts``, ``granularity``, ``tokens``, ``seed``, ``rate`` and
            ``loss``. Left and middle show those with the number of tokens that most have.
        laws: by name, with ``predicted``: models with ``loss`` and ``predicted``; without it, nothing was fitted.
        fixed_experts: E of the models that differ in granularity.
    """
    figure, (over_n, over_g, apart) = grid(3, 3, height=4.6, title="Held-out loss, nats per byte")
    usual = [r for r in results if r["rate"] == 1 and r["seed"] == 0]
    counts = [r["tokens"] for r in usual]
    at = [r for r in usual if r["tokens"] == max(sorted(set(counts)), key=counts.count)]
    whole = [r for r in at if r["granularity"] == 1]
    _draw_lines(over_n, whole, "parameters", "experts", "{} experts", {1: "dense"})
    over_n.set_xscale("log")
    over_n.xaxis.set_minor_formatter(NullFormatter())
    over_n.set_xlabel("N, active parameters")
    over_n.set_title("over N and E, whole experts", fontsize=10)
    fine = [r for r in at if r["experts"] == fixed_experts]
    _draw_lines(over_g, fine, "granularity", "parameters", "N = {:,}", {})
    over_g.set_xscale("log", base=2)
    ticks = sorted({r["granularity"] for r in fine})
    over_g.set_xticks(ticks, [str(tick) for tick in ticks])
    over_g.set_xlabel("G, granularity")
    low, high = over_g.get_ylim()
    over_g.set_ylim(low, high + 0.4 * (high - low))  # for the legend
    over_g.set_title(f"over G, {fixed_experts} times the parameters", fontsize=10)
    _draw_predicted(apart, laws)
    for axes in (over_n, over_g, apart):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_lines(
    axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, line: str, label: str, labels: Mapping[int, str]
) -> None:
    for value, look in zip(sorted({row[line] for row in rows}), _LOOKS, strict=False):
        mine = sorted((row[x], row["loss"]) for row in rows if row[line] == value)
        name = labels.get(value, label.format(value))
        axes.plot(*zip(*mine, strict=True), markersize=5, label=name, **look)


def _draw_predicted(axes: Axes, laws: Mapping[str, Mapping[str, Any]]) -> None:
    ends: list[float] = []
    for (name, law), look in zip(laws.items(), _LOOKS, strict=False):
        pairs = [(each["loss"], each["predicted"]) for each in law.get("predicted", ())]
        if pairs:
            point = {"color": look["color"], "marker": look["marker"], "linestyle": "none"}
            told = f"{_NAMES[name]}, error {law['error']:.3f}"
            axes.plot(*zip(*pairs, strict=True), markersize=4, alpha=0.7, label=told, **point)
            ends += [loss for pair in pairs for loss in pair]
    if ends:
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=GREY, linewidth=1)
    axes.set_xlabel("measured")
    axes.set_ylabel("predicted")
    axes.set_title("the fitted laws", fontsize=10)
