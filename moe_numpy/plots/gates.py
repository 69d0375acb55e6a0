"""The figures of sparse gates: the output as a function of the logits, and the gradient that reaches the logits."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..typing import Array, Float
from .style import GREY, STYLES, grid


def one_logit(
    h: Float[Array, " n"],
    outputs: Mapping[str, Float[Array, " n"]],
    slopes: Mapping[str, Float[Array, " n"]],
    swaps: Mapping[str, Float[Array, " s"]],
) -> Figure:
    """The output of a layer and its derivative as functions of one logit; gaps where the chosen set changes.

    Args:
        h: the values of the logit, rising.
        outputs: y(h) by name of the gate.
        slopes: dy/dh by the same names.
        swaps: by the same names, the values of h at which the set of chosen experts changes.
    """
    figure, (value, slope) = grid(2, 2, height=4.2, title="The output as a function of one logit")
    for (name, y), style in zip(outputs.items(), STYLES, strict=False):
        for axes, curve in ((value, y), (slope, slopes[name])):
            for i, part in enumerate(np.split(np.arange(len(h)), np.searchsorted(h, swaps[name]))):
                line = {key: style[key] for key in ("color", "linestyle")}
                axes.plot(h[part], curve[part], **line, linewidth=2.2, label=name if i == 0 else None)
        for at in swaps[name]:
            after = np.searchsorted(h, at)
            ends = [after - 1, after]
            value.plot(h[ends], y[ends], linestyle="none", marker=style["marker"], color=style["color"], markersize=6)
    for axes, title in ((value, "value y"), (slope, "derivative dy/dh")):
        for at in np.unique(np.concatenate(list(swaps.values()))):
            axes.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("logit h of the expert")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    value.legend(frameon=False, fontsize=10, loc="lower left")
    return figure


def output_surfaces(h: Float[Array, " n"], surfaces: Mapping[str, Float[Array, "n n"]]) -> Figure:
    """The output over two logits, one panel per gate; contour lines crowd at cliffs and are absent on plateaus.

    Args:
        h: the values of either logit, evenly spaced.
        surfaces: by name of the gate, y[i, j] at the first logit h[j] and the second h[i].
    """
    figure, panels = grid(len(surfaces), 2, height=7.6, title="The output over two logits")
    low = min(float(y.min()) for y in surfaces.values())
    high = max(float(y.max()) for y in surfaces.values())
    edges = (float(h[0]), float(h[-1]), float(h[0]), float(h[-1]))
    image = None
    for axes, (name, y) in zip(panels, surfaces.items(), strict=True):
        image = axes.imshow(y, origin="lower", extent=edges, cmap="cividis", vmin=low, vmax=high)
        if np.ptp(y) > 0:
            levels = np.linspace(low, high, 15)[1:-1]
            axes.contour(h, h, y, levels=levels, colors="white", linewidths=0.8, linestyles="solid")
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("logit of expert 0")
        axes.set_ylabel("logit of expert 1")
    assert image is not None
    figure.colorbar(image, ax=panels, label="output y", pad=0.015, fraction=0.05)
    return figure


def jacobians(by_gate: Mapping[str, Float[Array, "k E"]], chosen: Float[Array, " k"] | list[int]) -> Figure:
    """∂g/∂h of one token for several gates: a row per gate weight, a column per logit.

    Args:
        by_gate: the Jacobians by name.
        chosen: the experts of the rows.
    """
    title = "What moves a gate weight: ∂g/∂h of one token"
    figure, panels = grid(len(by_gate), len(by_gate), height=2.5, title=title)
    top = max(float(np.abs(jacobian).max()) for jacobian in by_gate.values())
    image = None
    for i, (axes, (name, jacobian)) in enumerate(zip(panels, by_gate.items(), strict=True)):
        image = axes.imshow(jacobian, cmap="PuOr_r", vmin=-top, vmax=top, aspect="auto")
        for r, c in np.ndindex(*jacobian.shape):
            colour = "white" if abs(jacobian[r, c]) > 0.6 * top else "black"
            entry = "0" if jacobian[r, c] == 0 else f"{jacobian[r, c]:+.3f}"
            axes.text(c, r, entry, ha="center", va="center", fontsize=9, color=colour)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(jacobian.shape[1]))
        axes.set_yticks(range(len(chosen)), [f"g of {e}" for e in chosen] if i == 0 else [""] * len(chosen))
        axes.tick_params(length=0)
        axes.set_xlabel("logit of expert")
    assert image is not None
    figure.colorbar(image, ax=panels, pad=0.015)
    return figure


def router_learning(losses: Mapping[str, Float[Array, " n"]]) -> Figure:
    """The task loss while only a router learns, one line per gate."""
    figure, (axes,) = grid(1, 1, height=3.6, title="The task loss while only the router learns")
    for (name, loss), style in zip(losses.items(), STYLES, strict=False):
        axes.plot(loss, label=name, linewidth=2, markevery=max(len(loss) // 8, 1), markersize=6, **style)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("mean squared error")
    _plain(axes)
    axes.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def chance_of_choice(
    h: Float[Array, " n"],
    probability: Mapping[str, Float[Array, " n"]],
    counted_at: Float[Array, " m"],
    counted: Mapping[str, Float[Array, " m"]],
    threshold: float,
) -> Figure:
    """Noise turns the step of top-k into a slope: the probability that an expert is chosen, against its logit.

    Args:
        h: the values of the logit.
        probability: by name of the noise, by formula.
        counted_at: the logits at which draws were counted.
        counted: by the same names, the share of draws in which the expert was chosen.
        threshold: what the noisy logit must exceed.
    """
    figure, (axes,) = grid(1, 1, height=3.8, title="The probability that top-k chooses the expert")
    for (name, p), style in zip(probability.items(), STYLES, strict=False):
        line = {key: style[key] for key in ("color", "linestyle")}
        axes.plot(h, p, linewidth=2, **line)
        axes.plot(counted_at, counted[name], linestyle="none", color=style["color"], marker=style["marker"])
        axes.plot([], [], label=name, **style)
    axes.axvline(threshold, color=GREY, linewidth=0.8, linestyle=":")
    axes.annotate("threshold θ", (threshold, 1), xytext=(-4, -4), textcoords="offset points", color=GREY, ha="right")
    axes.set_xlabel("logit h of the expert, without noise")
    axes.set_ylabel("probability")
    _plain(axes)
    axes.legend(frameon=False, fontsize=10, title="line: formula; points: counted", loc="lower right")
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
