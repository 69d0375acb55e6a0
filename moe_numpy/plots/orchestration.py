"""Figures of queries sent to models: two kinds of router, calibration, abstention, specialists."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..typing import Array, Bool, Float, Int
from .style import BLUE, GREY, ORANGE, STYLES, grid, literal


def two_routers(
    expert: Int[Array, "L S"], characters: Sequence[str], probability: Mapping[str, float], *, num_experts: int
) -> Figure:
    """The same text in two systems: above, one expert per token and layer; below, one model for all of it.

    Args:
        expert: the first choice of each token in each layer of a Mixture of Experts.
        characters: of the text, one per token.
        probability: of each destination of the whole query.
        num_experts: of each layer.
    """
    num_layers, length = expert.shape
    title = "Routing inside a model: every token, in every layer. Routing between models: once."
    figure, (above, below) = grid(2, 1, height=5.0, title=title)
    above.imshow(expert, aspect="auto", cmap="cividis", vmin=0, vmax=num_experts - 1)
    for layer, place in np.ndindex(num_layers, length):
        colour = "black" if expert[layer, place] > 0.55 * num_experts else "white"
        above.text(
            float(place), float(layer), str(expert[layer, place]), ha="center", va="center", fontsize=9, color=colour
        )
    above.set_xticks(range(length), [literal(c) for c in characters], family="monospace", fontsize=11)
    above.set_yticks(range(num_layers), [f"layer {i}" for i in range(num_layers)])
    above.tick_params(length=0)
    above.set_title("Mixture of Experts: the expert with the largest gate weight", fontsize=10)
    places = np.arange(len(probability))
    shares = np.array(list(probability.values()))
    below.barh(places, shares, color=[ORANGE if share == shares.max() else BLUE for share in shares], height=0.7)
    for place, share in enumerate(shares.tolist()):
        below.text(share + 0.01, place, f"{share:.3f}", va="center", fontsize=10)
    below.set_yticks(places, list(probability))
    below.invert_yaxis()
    below.set_xlim(0, 1.12)
    below.set_xlabel("probability of the whole query's destination")
    below.set_title("Query router: one decision for the text as a whole", fontsize=10)
    below.spines[["top", "right"]].set_visible(False)
    return figure


def reliability(
    panels: Mapping[str, tuple[Float[Array, " n"], Bool[Array, " n"]]], *, bins: int = 10, title: str
) -> Figure:
    """Reliability diagrams: in each bin of the confidence, the share that is right, against what was promised.

    Args:
        panels: by name, the confidence of each prediction, and whether it was right.
        bins: of equal width; the number above a bar says how many predictions are in it.
        title: of the figure.
    """
    figure, axes_of = grid(len(panels), len(panels), height=4.4, title=title)
    for axes, (name, (confidence, correct)) in zip(axes_of, panels.items(), strict=True):
        bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
        count = np.bincount(bin_of, minlength=bins)
        used = np.flatnonzero(count)
        right = np.bincount(bin_of, correct, bins)[used] / count[used]
        promised = np.bincount(bin_of, confidence, bins)[used] / count[used]
        middle = (used + 0.5) / bins
        axes.bar(middle, right, width=0.92 / bins, color=BLUE, alpha=0.85, label="right")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        axes.plot(promised, promised, "D", color=ORANGE, markersize=5, label="mean confidence")
        axes.vlines(promised, right, promised, color=ORANGE, linewidth=2)
        for x, top, number in zip(middle, np.maximum(right, promised), count[used], strict=True):
            axes.text(x, top + 0.03, str(number), ha="center", fontsize=8)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.12)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("confidence")
        axes.spines[["top", "right"]].set_visible(False)
    axes_of[0].set_ylabel("share that is right")
    axes_of[0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def abstention(threshold: Float[Array, " N"], shares: Mapping[str, Float[Array, " N"]], *, chosen: float) -> Figure:
    """What a threshold of the probability does: each share against it, ``chosen`` marked."""
    figure, (axes,) = grid(1, 1, height=3.7, title="The price of an answer: what the threshold decides")
    for (name, values), style in zip(shares.items(), STYLES, strict=False):
        axes.plot(threshold, 100 * values, **style, markevery=max(len(threshold) // 8, 1), linewidth=1.8, label=name)
    axes.axvline(chosen, color=GREY, linestyle=":", linewidth=1.5)
    axes.text(chosen, 50, f" threshold {chosen:g}", fontsize=9, color=GREY)
    axes.set_xlabel("least probability of a choice")
    axes.set_ylabel("%")
    axes.set_ylim(-2, 104)
    axes.legend(frameon=False, loc="center", bbox_to_anchor=(0.7, 0.5))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def losses_by_model(losses: Mapping[str, Float[Array, " K"]], kinds: Sequence[str], *, title: str) -> Figure:
    """Held-out loss of each kind of text, and their mean, for each way to choose a model."""
    figure, (axes,) = grid(1, 1, height=1.2 + 0.5 * len(losses), title=title)
    for place, values in enumerate(losses.values()):
        mean = float(values.mean())
        for kind, value, style in zip(kinds, values, STYLES, strict=False):
            axes.plot(value, place, linestyle="none", marker=style["marker"], color=style["color"], markersize=7,
                      markeredgecolor="white", label=kind if place == 0 else None)  # fmt: skip
        axes.plot([mean, mean], [place - 0.33, place + 0.33], color="black", linewidth=2.5,
                  label="mean" if place == 0 else None)  # fmt: skip
        axes.annotate(f"{mean:.3f}", (mean, place - 0.33), xytext=(4, -3), textcoords="offset points", fontsize=9)
    axes.set_yticks(range(len(losses)), list(losses))
    axes.set_ylim(len(losses) - 0.5, -0.6)
    axes.set_xlabel("nats per byte of held-out text, behind the first 32 bytes")
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
