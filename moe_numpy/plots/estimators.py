"""The figures of gradients through choices: what a choice does to the loss, and how far estimators are off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..typing import Array, Float
from .style import BLUE, GREEN, GREY, ORANGE, PINK, STYLES, grid

_PLANE = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])  # what is orthogonal to (1, 1, 1)
_FLOOR = 1e-4  # where the bars begin
_EXPERTS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"))


@dataclass(frozen=True, eq=False)
class Outcomes:
    """An estimator of the gradient for three logits: its value for each expert that may be drawn, and their mean."""

    values: Float[Array, "3 3"]
    mean: Float[Array, "3"]


@dataclass(frozen=True, eq=False)
class Runs:
    """One way to train: the held-out loss of each seed, and the kind of gate weight it belongs to."""

    name: str
    kind: str
    bits: Float[Array, " seeds"]


def cliff(
    h: Float[Array, " n"], losses: Mapping[str, Float[Array, " n"]], swap: float, jumps: Mapping[str, bool]
) -> Figure:
    """The loss as a function of one logit; lines that jump where another expert is chosen are broken there.

    Args:
        h: the values of the logit, rising.
        losses: by name of the layer.
        swap: the logit at which the chosen expert changes.
        jumps: by the same names, whether the expert is chosen by its logit alone.
    """
    figure, (axes,) = grid(1, 1, height=3.9, title="The loss as a function of one logit")
    after = int(np.searchsorted(h, swap))
    for (name, loss), style in zip(losses.items(), STYLES, strict=False):
        line = {key: style[key] for key in ("color", "linestyle")}
        parts = [slice(0, after), slice(after, None)] if jumps[name] else [slice(None)]
        for i, part in enumerate(parts):
            axes.plot(h[part], loss[part], **line, linewidth=2.2, label=name if i == 0 else None)
        if jumps[name]:
            ends = [after - 1, after]
            axes.plot(h[ends], loss[ends], linestyle="none", marker=style["marker"], color=style["color"])
    axes.axvline(swap, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("logit of expert 2")
    axes.set_ylabel("loss")
    _plain(axes)
    axes.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def gradient_plane(panels: Mapping[str, Outcomes], p: Float[Array, "3"], exact: Float[Array, "3"]) -> Figure:
    """Gradients for three logits, which sum to 0 and so lie in a plane: the exact one and each estimator's.

    Args:
        panels: by name of the estimator.
        p: the probability of each expert; the area of its mark.
        exact: the exact gradient.
    """
    figure, axes_of = grid(len(panels), 3, height=6.6, title="What an estimator says for each expert that may be drawn")
    reach = 1.15 * max(np.abs(_PLANE @ exact).max(), *(np.abs(o.values @ _PLANE.T).max() for o in panels.values()))
    for axes, (name, outcomes) in zip(axes_of, panels.items(), strict=True):
        axes.axhline(0, color="0.85", linewidth=0.8)
        axes.axvline(0, color="0.85", linewidth=0.8)
        for e, (colour, marker) in enumerate(_EXPERTS):
            x, y = _PLANE @ outcomes.values[e]
            label = f"expert {e} drawn (p = {p[e]:.2f})"
            axes.scatter(x, y, s=260 * p[e], color=colour, marker=marker, alpha=0.75, label=label, zorder=3)
        x, y = _PLANE @ exact
        axes.annotate(
            "",
            (x, y),
            (0, 0),
            arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0},
        )
        axes.plot([], [], color="black", linewidth=1.8, label="exact gradient")
        x, y = _PLANE @ outcomes.mean
        axes.scatter(x, y, marker="x", s=90, color=PINK, linewidth=2.4, label="mean of the estimator", zorder=4)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        axes.set_title(name, fontsize=11)
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def bias_and_variance(panels: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """Squared bias and variance of estimators, as parts of the squared length of the exact gradient.

    Args:
        panels: by title, then by name of the estimator, both numbers. Bars begin at 0.0001.
    """
    rows = max(len(measured) for measured in panels.values())
    title = "Squared bias and variance, in squared lengths of the exact gradient"
    figure, axes_of = grid(len(panels), len(panels), height=1.6 + 0.5 * rows, title=title)
    for axes, (name, measured) in zip(axes_of, panels.items(), strict=True):
        for row, (bias, variance) in enumerate(measured.values()):
            for offset, value, colour in ((-0.19, bias, ORANGE), (0.19, variance, BLUE)):
                hatch = "//" if colour == ORANGE else None
                axes.barh(row + offset, max(value, _FLOOR), 0.36, color=colour, hatch=hatch, edgecolor="white")
                text = "0" if value < 1e-20 else f"< {_FLOOR}" if value < _FLOOR else f"{value:.2g}"
                axes.annotate(
                    text,
                    (max(value, _FLOOR), row + offset),
                    (3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
        axes.set_yticks(range(len(measured)), list(measured))
        axes.invert_yaxis()
        axes.set(xscale="log", xlim=(_FLOOR, 200))
        axes.set_title(name, fontsize=11)
        axes.grid(alpha=0.25, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Patch(facecolor=ORANGE, hatch="//", edgecolor="white", label="squared bias"),
        Patch(facecolor=BLUE, label="variance"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def error_over_tokens(tokens: Sequence[int], errors: Mapping[str, Float[Array, " n"]]) -> Figure:
    """The error that remains when an estimate is averaged over many tokens: variance falls, bias stays.

    Args:
        tokens: how many estimates are averaged.
        errors: by name of the estimator, the error relative to the length of the exact gradient.
    """
    figure, (axes,) = grid(1, 1, height=4.2, title="The error of the mean over n tokens")
    styles = (*STYLES, {"color": GREY, "linestyle": "-", "marker": "v"})
    for (name, error), style in zip(errors.items(), styles, strict=False):
        axes.plot(tokens, error, label=name, linewidth=2, markersize=6, markevery=2, **style)
    axes.set(xscale="log", yscale="log", xlabel="tokens n", ylabel="error / length of the exact gradient")
    _plain(axes)
    axes.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def final_losses(runs: Sequence[Runs]) -> Figure:
    """The held-out loss of each way to train: one row per way, one mark per seed."""
    title = "Held-out loss after equal steps, one mark per seed"
    figure, (axes,) = grid(1, 1, height=1.3 + 0.36 * len(runs), title=title)
    kinds = list(dict.fromkeys(run.kind for run in runs))
    for row, run in enumerate(runs):
        style = STYLES[kinds.index(run.kind)]
        axes.plot(run.bits, [row] * len(run.bits), linestyle="none", color=style["color"], marker=style["marker"])
        axes.plot([run.bits.mean()] * 2, [row - 0.3, row + 0.3], color=style["color"], linewidth=2)
    for kind, style in zip(kinds, STYLES, strict=False):
        axes.plot([], [], linestyle="none", color=style["color"], marker=style["marker"], label=kind)
    axes.set_yticks(range(len(runs)), [run.name for run in runs])
    axes.invert_yaxis()
    axes.set_xlabel("bits per letter; the bar is the mean")
    _plain(axes)
    axes.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
