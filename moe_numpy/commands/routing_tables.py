"""Tables of what experts take, for 80 columns and up to hundreds of experts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..instruments.coactivation import Pair
from ..instruments.dependence import Explained
from ..instruments.routed_text import shares
from ..instruments.typical_tokens import Typical
from ..typing import Array, Float, Int
from .output import one_line, plain_table, print_title, side_by_side, sparkline
from .shares import print_shares

MANY = 32  # experts; more do not fit as columns


def print_takers(console: Console, title: str, rows: Sequence[str], counts: Int[Array, "rows E"]) -> None:
    """Which experts take each row: a column per expert, or, if there are many, the experts of largest lift per row."""
    if counts.shape[1] <= MANY:
        print_shares(console, title, rows, shares(counts))
        return
    share, load = shares(counts), counts.sum(axis=0) / max(counts.sum(), 1)
    lift = share / np.where(load > 0, load, 1)
    print_title(console, title)
    table = plain_table()
    width = min(max(map(cell_len, rows)), 24)
    table.add_column("", max_width=width, no_wrap=True)
    table.add_column("the most typical experts: times their usual share, % of the row", no_wrap=True)
    for r, name in enumerate(rows):
        enough = counts[r] >= max(10, counts[r].sum() / counts.shape[1] / 4)
        experts = [e for e in np.argsort(-lift[r], kind="stable") if enough[e] and lift[r, e] > 1]
        cells = [f"{e:>3} {lift[r, e]:.1f}x {100 * share[r, e]:.1f}" for e in experts[:10]]
        (line, *_) = side_by_side(cells, console.width - width - 3) or ["none stands out"]
        table.add_row(Text(one_line(name)), line)
    console.print(table)


def print_layers(
    console: Console,
    layers: Sequence[int],
    load: Float[Array, "layers E"],
    apart: Float[Array, " layers"] | None,
    explained: dict[str, list[Explained]],
) -> None:
    """One row per layer: its extreme loads, how far its domains are apart, and what explains the choice."""
    print_title(console, "Layers: extremes of load, and what explains the first choice of an expert")
    closest = "" if apart is None else "apart: the two closest domains. "
    console.print(f"{closest}Labels: % beyond chance (% of shuffled ones)", style="dim")
    table = plain_table()
    for column in ("layer", "busiest", "idlest", *(["apart"] if apart is not None else []), *explained):
        table.add_column(column, justify="right", no_wrap=True)
    for i, layer in enumerate(layers):
        cells = [f"{100 * load[i].max():.1f} %", f"{100 * load[i].min():.1f} %"]
        cells += [] if apart is None else [f"{100 * apart[i]:.0f} %"]
        for of_layer in explained.values():
            value = of_layer[i]
            beyond = "-" if np.isnan(value.adjusted) else f"{100 * value.adjusted:.0f}"
            cells.append(f"{beyond} ({100 * value.chance:.0f})")
        table.add_row(str(layer), *cells)
    console.print(table)


def print_typical(
    console: Console, layer: int, experts: Sequence[Sequence[Typical]], name: Callable[[int], str], kind: str
) -> None:
    """The most typical tokens of each expert; of many experts, as many as fit one line."""
    print_title(console, f"Layer {layer}: the most typical {kind} of each expert (times its usual share, count)")
    table = plain_table()
    table.add_column("expert", justify="right")
    table.add_column(kind, no_wrap=True)
    for e, found in enumerate(experts):
        lines = side_by_side(
            [f"{name(t.label)} {t.lift:.1f}x ({t.count:,})" for t in found], max(console.width - 8, 10)
        )
        shown = lines if len(experts) <= MANY else lines[:1]
        table.add_row(str(e), Text("\n".join(shown) or "none stands out"))
    console.print(table)


def print_pairs(console: Console, layer: int, pairs: Sequence[Pair]) -> None:
    """Experts that are chosen together more often than their loads explain."""
    print_title(console, f"Layer {layer}: experts chosen together more often than their loads explain")
    if not pairs:
        console.print("no pair stands out")
        return
    cells = [f"{p.experts[0]} + {p.experts[1]}  {p.lift:.1f}x ({p.count:,})" for p in pairs]
    width = max(map(len, cells)) + 3
    for line in side_by_side([cell.ljust(width - 3) for cell in cells], console.width):
        console.print(line, markup=False)


def print_load(console: Console, layers: list[int], shown: list[int], steps: Any, load: Any) -> None:
    """The largest and the smallest share of an expert over training, one line per layer; nothing without a history."""
    if len(steps) == 0:
        return
    num_experts = load.shape[2]
    parts = np.array_split(np.arange(len(steps)), min(16, len(steps)))
    fair = 100 / num_experts
    print_title(console, f"Load while training, steps {steps[0]} to {steps[-1]} (fair share {fair:.1f} %)")
    table = plain_table()
    for column in ("layer", "busiest expert", "idlest expert"):
        table.add_column(column, no_wrap=True)
    for number in shown:
        of_layer = load[:, layers.index(number)]
        cells = []
        for extreme in (of_layer.max(axis=1), of_layer.min(axis=1)):
            means = [extreme[part].mean() for part in parts]
            line = sparkline(means, console, top=max(of_layer.max(), 2 / num_experts))
            cells.append(f"{line} {100 * means[0]:.0f} to {100 * means[-1]:.0f} %")
        table.add_row(str(number), *cells)
    console.print(table)
    console.print()
