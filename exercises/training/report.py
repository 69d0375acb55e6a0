"""What a training with the learner's functions says: whose each function was, how often it ran, both curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from moe_numpy.commands.output import sparkline

from ..exercise import Exercise
from .run import AGREEMENT, Comparison

_WIDTH = 60


def print_comparison(console: Console, result: Comparison, exercises: Sequence[Exercise], mine: set[int]) -> None:
    """A table of functions, two sparklines and the verdict."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "function", "whose", "calls"):
        table.add_column(name, justify="right" if name == "calls" else "left")
    for e in exercises:
        table.add_row(e.label, e.target.rpartition(":")[2], *_claim(e, result, mine))
    console.print(table)
    top = max([*result.mine, *result.library], default=1.0)
    console.print()
    for name, losses in (("yours", result.mine), ("library", result.library)):
        console.print(f"{name:8} {sparkline(_thinned(losses), console, top)}  {losses[-1]:.3f} nats per byte")
    console.print(
        f"{len(result.mine)} steps in {result.seconds:.0f} s; largest difference {result.difference:.2g} nats"
    )
    if result.agrees:
        console.print("✓ the curves agree")
    else:
        console.print(
            f"✗ the curves differ by more than {AGREEMENT} nats: a passed function is still not the library's"
        )


def to_json(result: Comparison, exercises: Sequence[Exercise], mine: set[int]) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "agrees": result.agrees,
        "difference": result.difference,
        "seconds": round(result.seconds, 2),
        "losses": result.mine,
        "library_losses": result.library,
        "functions": [
            {"exercise": e.label, "target": e.target, "whose": _claim(e, result, mine)[0], "calls": _calls(e, result)}
            for e in exercises
        ],
    }


def save_figure(result: Comparison, path: Path) -> Path:
    """Both curves in one picture."""
    from moe_numpy.plots import Curve, learning_curves

    steps = np.arange(1, len(result.mine) + 1)
    curves = [
        Curve(label, steps, np.array(losses), {})
        for label, losses in (("your functions", result.mine), ("the library's", result.library))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    learning_curves(curves).savefig(path)
    return path


def _claim(e: Exercise, result: Comparison, mine: set[int]) -> tuple[str, str]:
    """Whose function ran; what never ran is claimed by nobody."""
    if not e.target.startswith("moe_numpy."):
        return "not part of the model", "-"
    calls = _calls(e, result)
    whose = "yours" if e.number in mine else "the library's"
    return (whose, f"{calls:,}") if calls else (f"nobody's: {whose} was never called", "0")


def _calls(e: Exercise, result: Comparison) -> int:
    return result.calls.get(e.label, 0)


def _thinned(losses: Sequence[float]) -> list[float]:
    pick = np.linspace(0, len(losses) - 1, min(_WIDTH, len(losses))).astype(int)
    return [losses[i] for i in pick]
