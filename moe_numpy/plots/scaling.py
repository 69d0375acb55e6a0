"""Scaling laws: the loss over parameters and granularity, fits and their error bars, predicted against measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..typing import Array, Float
from .style import BLUE, GREY, ORANGE, STYLES, grid

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


def laws_over_parameters(
    parameters: Float[Array, " M"], losses: Float[Array, " M"], n: Float[Array, " n"], laws: Mapping[str, Array]
) -> Figure:
    """Measured losses over N, and the lines of several laws; where no model was trained the ground is grey.

    Args:
        parameters, losses: of the trained models.
        n: where the laws are drawn.
        laws: the losses of each at n, by name.
    """
    figure, (axes,) = grid(1, 1, height=4.6, title="Laws that fit the same models")
    axes.axvspan(parameters.max(), n.max(), color=GREY, alpha=0.12, label="no model was trained here")
    for (name, loss), style in zip(laws.items(), STYLES, strict=False):
        axes.plot(n, loss, color=style["color"], linestyle=style["linestyle"], linewidth=2, label=name)
    axes.plot(parameters, losses, "o", color="black", markeredgecolor="white", markersize=6, label="trained", zorder=5)
    axes.set_xlim(n.min(), n.max())
    _over_parameters(axes, "N, active parameters")
    axes.set_ylabel("held-out loss, nats per byte")
    axes.legend(frameon=False, fontsize=10)
    return figure


def resampled_fits(
    parameters: Float[Array, " M"],
    losses: Float[Array, " M"],
    n: Float[Array, " n"],
    lines: Float[Array, "R n"],
    exponents: Float[Array, " R"],
    floors: Float[Array, " R"],
) -> Figure:
    """Left: the laws of R resamples over N, and the middle 90 % of them. Right: exponent and floor of each.

    Args:
        parameters, losses: of the trained models.
        n: where the laws are drawn.
        lines: their losses there.
        exponents, floors: b and c of each law.
    """
    figure, (left, right) = grid(2, 2, height=4.4, title="Fits to resampled models")
    low, middle, high = np.percentile(lines, [5, 50, 95], axis=0)
    left.fill_between(n, low, high, color=BLUE, alpha=0.25, linewidth=0, label="90 % of the fits")
    left.plot(n, middle, color=BLUE, linewidth=2, label="median")
    left.plot(parameters, losses, "o", color="black", markeredgecolor="white", markersize=6, label="trained", zorder=5)
    left.set_xlim(n.min(), n.max())
    left.set_ylim(low.min(), losses.max() + 0.3 * (losses.max() - losses.min()))  # a steep law is off the page
    _over_parameters(left, "N, active parameters")
    left.set_ylabel("held-out loss, nats per byte")
    left.legend(frameon=False, fontsize=10)
    right.plot(exponents, floors, "o", color=ORANGE, markersize=6, alpha=0.5, markeredgecolor="none")
    right.set_xscale("log")
    ticks = [tick for tick in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if exponents.min() <= tick <= exponents.max()]
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xlabel("b, exponent")
    right.set_ylabel("c, loss of an endless model")
    right.grid(alpha=0.25)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def active_and_total(
    active: Mapping[str, Float[Array, " n"]],
    total: Mapping[str, Float[Array, " n"]],
    losses: Mapping[str, Float[Array, " n"]],
) -> Figure:
    """The same models over active parameters, left, and over stored parameters, right; a line for each kind."""
    figure, panels = grid(2, 2, height=4.2, title="The same models, against two ways to count")
    panels[1].sharex(panels[0])
    kinds = ((active, "active parameters"), (total, "stored parameters"))
    for axes, (counts, name) in zip(panels, kinds, strict=True):
        for (kind, loss), style in zip(losses.items(), STYLES, strict=False):
            axes.plot(counts[kind], loss, **style, linewidth=2, markersize=7, markeredgecolor="white", label=kind)
        _over_parameters(axes, name)
        axes.legend(frameon=False, fontsize=10)
    panels[0].set_ylabel("held-out loss, nats per byte")
    panels[1].sharey(panels[0])
    return figure


def stored_and_predicted(
    stored: Mapping[str, Float[Array, " n"]],
    predicted: Mapping[str, Float[Array, " n"]],
    chosen: tuple[float, float],
    limit: float,
) -> Figure:
    """Predicted loss over stored parameters, a line for each number of active ones, the first point of each dense.

    Args:
        stored: parameters along each line.
        predicted: the loss there.
        chosen: the stored parameters and the loss of one model, marked.
        limit: the most parameters that memory holds; beyond it the ground is grey.
    """
    figure, (axes,) = grid(1, 1, height=4.6, title="More stored parameters at equal active ones, as a law predicts")
    right = 1.4 * max(counts[-1] for counts in stored.values())
    axes.axvspan(limit, right, color=GREY, alpha=0.15, label="does not fit in memory")
    for (name, counts), style in zip(stored.items(), STYLES, strict=False):
        axes.plot(counts, predicted[name], **style, linewidth=2, markersize=5, label=name)
    axes.plot(*chosen, "*", color="black", markersize=16, markeredgecolor="white", zorder=6, label="chosen")
    axes.set_xlim(min(counts[0] for counts in stored.values()) / 1.4, right)
    _over_parameters(axes, "stored parameters; the left end of a line is the dense model")
    axes.set_ylabel("predicted loss, nats per token")
    axes.legend(frameon=False, fontsize=10)
    return figure


def _over_parameters(axes: Axes, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
