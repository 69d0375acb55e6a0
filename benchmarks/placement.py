"""Experts on ranks, beside DeepSeek's EPLB: python -m benchmarks.placement [--shape E,places,ranks] [--json]

Loads of experts are drawn in turn from Zipf's law with an exponent of 0.5 to 1.5, from a Dirichlet distribution (0.3)
and from a lognormal one (σ 1). Each draw is placed anew. Then every load changes by a factor, lognormal too, and the
experts are placed once more: :func:`moe_numpy.parallel.rebalance` knows where they were, EPLB does not. A move is an
expert on a rank that did not hold it before.

Each expert's load is split evenly over its replicas, two of which on one rank, in EPLB, give it two parts.
"""

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from moe_numpy.commands.output import JsonOption, console_for, plain_table, print_json, print_title, refusals
from moe_numpy.parallel import Placement, balance, lower_bound, matched, moves, rebalance
from moe_numpy.typing import Array, Float

ATTAINABLE = 1.1  # max / mean that should be reached where the lower bound allows it
_ROUNDING = 1e-9

Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """E experts on ranks with so many places each."""

    num_experts: int
    places: int
    num_ranks: int

    def __str__(self) -> str:
        return f"{self.num_experts}, {self.places}, {self.num_ranks}"

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Of E,places,ranks. ValueError if it is something else, or there is no room for all experts."""
        try:
            shape = cls(*map(int, text.split(",")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"shape must be E,places,ranks in whole numbers, got {text!r}") from error
        if min(astuple(shape)) < 1 or shape.places * shape.num_ranks < shape.num_experts:
            raise ValueError(f"shape must be positive and have room for all experts, got {text!r}")
        return shape


SHAPES = tuple(
    Shape(*sizes) for sizes in ((16, 4, 8), (64, 9, 8), (7, 3, 3), (13, 4, 5), (60, 5, 16), (60, 4, 16), (256, 9, 32))
)


def main(
    shape: Annotated[list[str] | None, typer.Option(help="E,places,ranks; repeatable.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Loads of each shape.")] = 200,
    drift: Annotated[float, typer.Option(min=0, help="σ of the logarithm by which loads change.")] = 0.2,
    json: JsonOption = False,
) -> None:
    """Place experts by drawn loads, and again after these changed."""
    console = console_for(json)
    with refusals():
        shapes = [Shape.parse(text) for text in shape] if shape else SHAPES
    rows = [summary(each, measured(each, draws, drift, console)) for each in shapes]
    if json:
        print_json({"draws": draws, "drift": drift, "rows": rows})
    else:
        print_rows(rows, console)


def eplb(load: Float[Array, " E"], num_ranks: int, places: int) -> list[list[int]]:
    """The experts of each rank by EPLB without groups of nodes; an expert can be on a rank more than once.

    1. Every expert gets a slot; each further slot goes to the expert with the largest load per slot.
    2. Slots by descending load: each goes to the rank with the least load of those that have room.

    DeepSeek-V3 Technical Report 2024, section 3.4.2; github.com/deepseek-ai/EPLB.
    """
    slots = list(range(len(load)))
    counts = np.ones(len(load), np.int64)
    while len(slots) < num_ranks * places:
        slots.append(int((load / counts).argmax()))
        counts[slots[-1]] += 1
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    for e in sorted(slots, key=lambda e: -load[e] / counts[e]):
        r = min((r for r in range(num_ranks) if len(ranks[r]) < places), key=loads.__getitem__)
        ranks[r].append(e)
        loads[r] += load[e] / counts[e]
    return ranks


def largest(load: Float[Array, " E"], ranks: Sequence[Sequence[int]]) -> float:
    """The largest load of a rank, each expert's being split evenly over its replicas."""
    counts = np.bincount(np.concatenate([np.asarray(held, np.int64) for held in ranks]), minlength=len(load))
    return max(float((load / counts)[list(held)].sum()) for held in ranks)


def drawn(rng: np.random.Generator, num_experts: int, number: int) -> Float[Array, " E"]:
    """Loads whose sum is 1."""
    zipf = np.arange(1, num_experts + 1) ** -rng.uniform(0.5, 1.5)
    load = (
        rng.permutation(zipf),
        rng.dirichlet(np.full(num_experts, 0.3)),
        rng.lognormal(0, 1, num_experts),
    )[number % 3]
    return load / load.sum()


def measured(shape: Shape, draws: int, drift: float, console: Console) -> list[Row]:
    """What each draw gives; loads of ranks relative to their mean."""
    rng, (num_experts, places, num_ranks) = np.random.default_rng(0), astuple(shape)
    rows = []
    for number in track(range(draws), f"{shape}", console=console, transient=True, disable=not console.is_terminal):
        row: Row = {}
        load = drawn(rng, num_experts, number)
        started = time.perf_counter()
        ours = balance(load, num_ranks, places)
        row["balance_s"] = time.perf_counter() - started
        theirs = eplb(load, num_ranks, places)
        row["together"] = any(len(set(held)) < len(held) for held in theirs)
        row["bound"] = lower_bound(load, num_ranks, places) * num_ranks
        row["ours"], row["eplb"] = (largest(load, of) * num_ranks for of in (ours.experts, theirs))

        load = load * rng.lognormal(0, drift, num_experts)
        load /= load.sum()
        started = time.perf_counter()
        then = rebalance(load, ours, places)
        row["rebalance_s"] = time.perf_counter() - started
        new = eplb(load, num_ranks, places)
        row["ours_then"], row["eplb_then"] = (largest(load, of) * num_ranks for of in (then.experts, new))
        row["ours_moves"] = len(moves(ours, then))
        before, after = (Placement(tuple(tuple(sorted(set(r))) for r in of), num_experts) for of in (theirs, new))
        row["eplb_moves"] = len(moves(before, after))
        row["eplb_matched_moves"] = len(moves(before, matched(after, before)))
        rows.append(row)
    return rows


def summary(shape: Shape, rows: Sequence[Row]) -> Row:
    """Means, extremes and numbers of draws."""

    def of(name: str) -> Any:
        return np.array([row[name] for row in rows])

    within = of("bound") <= ATTAINABLE
    result: Row = {"shape": list(astuple(shape)), "draws": len(rows), "together": int(of("together").sum())}
    for name in ("bound", "ours", "eplb", "ours_then", "eplb_then", "balance_s", "rebalance_s"):
        result[name], result[f"most_{name}"] = float(of(name).mean()), float(of(name).max())
    result["attainable"] = int(within.sum())
    result["ours_attained"], result["eplb_attained"] = (
        int((of(name)[within] <= ATTAINABLE).sum()) for name in ("ours", "eplb")
    )
    result["worse"], result["worse_then"] = (
        int((of(f"ours{then}") > of(f"eplb{then}") * (1 + _ROUNDING)).sum()) for then in ("", "_then")
    )
    for name in ("ours_moves", "eplb_moves", "eplb_matched_moves"):
        result[name] = int(of(name).sum())
    return result


def print_rows(rows: Sequence[Row], console: Console) -> None:
    """Two tables: placed anew, and after the loads changed."""
    print_title(console, f"Largest over mean load of a rank, {rows[0]['draws']} draws: mean, and the worst")
    table = plain_table()
    for name in ("E, places, ranks", "lower bound", "ours", "EPLB", "<= 1.1", "worse than EPLB", "together", "s"):
        table.add_column(name, justify="left" if name.startswith("E,") else "right")
    for row in rows:
        pairs = [f"{row[name]:.4f}, {row[f'most_{name}']:.3f}" for name in ("bound", "ours", "eplb")]
        attained = f"{row['ours_attained']}, {row['eplb_attained']} of {row['attainable']}"
        seconds = f"{row['balance_s']:.2f}, {row['most_balance_s']:.2f}"
        table.add_row(_sizes(row), *pairs, attained, str(row["worse"]), str(row["together"]), seconds)
    console.print(table)
    console.print(
        "<= 1.1: of the draws whose lower bound allows it, ours and EPLB's; together: draws in which EPLB puts replicas"
        " of one expert on one rank, ours never does.\n"
    )
    print_title(console, "After the loads changed")
    table = plain_table()
    for name in ("E, places, ranks", "ours", "EPLB", "worse than EPLB", "moves", "EPLB's", "EPLB's, matched", "s"):
        table.add_column(name, justify="left" if name.startswith("E,") else "right")
    for row in rows:
        pairs = [f"{row[name]:.4f}, {row[f'most_{name}']:.3f}" for name in ("ours_then", "eplb_then")]
        copies = [str(row[name]) for name in ("ours_moves", "eplb_moves", "eplb_matched_moves")]
        seconds = f"{row['rebalance_s']:.2f}, {row['most_rebalance_s']:.2f}"
        table.add_row(_sizes(row), *pairs, str(row["worse_then"]), *copies, seconds)
    console.print(table)


def _sizes(row: Row) -> str:
    return ", ".join(map(str, row["shape"]))


if __name__ == "__main__":
    typer.run(main)
