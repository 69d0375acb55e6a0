"""Figures of what a sparse model costs: stored and active parameters, experts read, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from ..typing import Array, Float
from .style import BLUE, GREEN, GREY, ORANGE, PINK, STYLES, grid

_PARTS = ((BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (PINK, "xx"), (GREY, "\\\\"))


@dataclass(frozen=True)
class ModelSize:
    """A point of :func:`total_and_active`: stored parameters, active parameters, and a group."""

    label: str
    total: float
    active: float
    group: str


def stored_and_active(
    models: Sequence[str],
    parts: Sequence[str],
    stored: Float[Array, "models parts"],
    active: Float[Array, "models parts"],
) -> Figure:
    """Two bars per model, split into its parts: stored and active parameters, in percent of the stored ones.

    Args:
        models: their names, from top to bottom.
        parts: names of at most five kinds of parameters.
        stored: stored parameters of each kind.
        active: active parameters of each kind.

    Raises:
        ValueError: more than five parts.
    """
    if len(parts) > len(_PARTS):
        raise ValueError(f"parts must be at most {len(_PARTS)}, got {len(parts)}")
    height = 1.3 + 0.8 * len(models)
    figure, (axes,) = grid(1, 1, height=height, title="Stored and active parameters")
    whole = stored.sum(axis=1)
    for counts, shift, what in ((stored, -0.2, "stored"), (active, 0.2, "active")):
        left = np.zeros(len(models))
        y = np.arange(len(models)) + shift
        for p, (colour, hatch) in zip(range(len(parts)), _PARTS, strict=False):
            label = parts[p] if what == "stored" else None
            share = 100 * counts[:, p] / whole
            axes.barh(y, share, 0.36, left, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=label)
            left += share
        for m in range(len(models)):
            axes.text(left[m] + 1, y[m], f"{counts[m].sum() / 1e9:.4g} billion {what}", va="center", fontsize=10)
    axes.set_yticks(range(len(models)), models, fontsize=11)
    axes.invert_yaxis()
    axes.set_xlim(0, 128)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("% of the stored parameters")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(parts), frameon=False, fontsize=10)
    return figure


def total_and_active(sizes: Sequence[ModelSize]) -> Figure:
    """Active against stored parameters, on logarithmic axes; dense models lie on the diagonal."""
    title = "Published sparse models: stored and active parameters"
    figure, (axes,) = grid(1, 1, height=6.2, title=title)
    total, active = np.array([s.total for s in sizes]), np.array([s.active for s in sizes])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(total.min() / 2, total.max() * 3)
    axes.set_ylim(active.min() / 2, active.max() * 3)
    axes.xaxis.set_major_formatter(_billions)
    axes.yaxis.set_major_formatter(_billions)
    axes.set_xlabel("stored parameters")
    axes.set_ylabel("active parameters")
    axes.grid(alpha=0.25)
    groups = list(dict.fromkeys(s.group for s in sizes))
    for group, style in zip(groups, STYLES, strict=False):
        mine = [i for i, s in enumerate(sizes) if s.group == group]
        point = style | {"linestyle": "none", "markersize": 9, "markeredgecolor": "white"}
        axes.plot(total[mine], active[mine], **point, label=group, zorder=5)
    for share, name in ((1.0, "dense"), (0.1, "one in 10"), (0.01, "one in 100"), (0.001, "one in 1000")):
        _draw_share(axes, share, name)
    axes.legend(loc="upper left", frameon=False, fontsize=10)
    _label_points(figure, axes, [(s.label, s.total, s.active) for s in sizes])
    return figure


def against_dense(num_experts: Sequence[int], ratios: Mapping[str, Float[Array, " N"]]) -> Figure:
    """Costs against the number of experts, relative to the dense model of equal compute."""
    figure, (axes,) = grid(1, 1, height=4.2, title="More experts at equal compute per token")
    for (name, ratio), style in zip(ratios.items(), STYLES, strict=False):
        axes.plot(num_experts, ratio, **style, linewidth=2, label=name)
        axes.annotate(
            f"{ratio[-1]:.3g} ×",
            (num_experts[-1], ratio[-1]),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=style["color"],
            fontweight="bold",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(num_experts, [str(e) for e in num_experts])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} ×")
    axes.set_xlim(num_experts[0] / 1.1, num_experts[-1] * 1.35)
    axes.set_xlabel("experts per layer")
    axes.set_ylabel("relative to the dense model")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    return figure


def experts_read(
    tokens: Sequence[int],
    expected: Mapping[str, Float[Array, " N"]],
    drawn: Mapping[str, Float[Array, " N"]] | None = None,
) -> Figure:
    """The fraction of a layer's experts that a batch reads: expected as lines, drawn as points."""
    title = "Experts read by a batch"
    figure, (axes,) = grid(1, 1, height=4.4, title=title)
    for (name, share), style in zip(expected.items(), STYLES, strict=False):
        axes.plot(tokens, 100 * share, color=style["color"], linestyle=style["linestyle"], linewidth=2)
        points = share if drawn is None else drawn[name]
        axes.plot(
            tokens, 100 * points, color=style["color"], marker=style["marker"], linestyle="none", markersize=7,
            markeredgecolor="white", label=name,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, [str(t) for t in tokens])
    axes.set_ylim(0, 105)
    axes.set_xlabel("tokens in the batch")
    axes.set_ylabel("% of the experts read")
    axes.grid(alpha=0.25)
    meaning = None if drawn is None else "line: formula; points: drawn"
    axes.legend(frameon=False, fontsize=10, loc="upper left", title=meaning, alignment="left")
    return figure


def layer_times(tokens: Sequence[int], milliseconds: Mapping[str, Float[Array, " N"]]) -> Figure:
    """Time of one forward pass of several layers against the number of tokens, on logarithmic axes."""
    figure, (axes,) = grid(1, 1, height=4.4, title="Time of one forward pass, measured on this machine")
    for (name, times), style in zip(milliseconds.items(), STYLES, strict=False):
        axes.plot(tokens, times, **style, linewidth=2, markersize=8, markeredgecolor="white", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(tokens, [str(t) for t in tokens])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("tokens in the batch")
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=10, loc="upper left")
    return figure


def _draw_share(axes: Axes, share: float, name: str) -> None:
    """Draw the line active = share · stored, with its name at its end if that is in view."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.plot([left, right], [share * left, share * right], color=GREY, linewidth=1, linestyle=":", zorder=1)
    x = min(right / 1.1, top / share / 1.5)
    if bottom < share * x and left < x:
        axes.text(x, share * x, name, color=GREY, fontsize=9, ha="right", va="bottom", zorder=1)


def _billions(value: float, _position: float) -> str:
    return f"{value / 1e9:g} billion"


def _label_points(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write each label where it covers no point and no other label, if possible."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # text has a size only after the layout is computed
    renderer = canvas.get_renderer()
    centres = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = [Bbox.from_bounds(cx - 8, cy - 8, 16, 16) for cx, cy in centres]
    places = [((9, 0), "left", "center"), ((-9, 0), "right", "center")]
    places += [((0, s * 9), "center", "bottom" if s > 0 else "top") for s in (1, -1)]
    places += [((7, s * 9), "left", "bottom" if s > 0 else "top") for s in (1, -1)]
    places += [((-7, s * 9), "right", "bottom" if s > 0 else "top") for s in (1, -1)]
    for label, x, y in points:
        for place in places:
            text = _annotate(axes, label, (x, y), *place)
            if not any(text.get_window_extent(renderer).overlaps(box) for box in taken):
                break
            text.remove()
        else:  # no free place: the first one, over what is there
            text = _annotate(axes, label, (x, y), *places[0])
        taken.append(text.get_window_extent(renderer))


def _annotate(axes: Axes, label: str, at: tuple[float, float], offset: tuple[int, int], ha: str, va: str) -> Annotation:
    text = axes.annotate(label, at, xytext=offset, textcoords="offset points", ha=ha, va=va, fontsize=10, zorder=6)
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])  # readable where a line passes behind it
    return text
