"""The routing of one text, token by token."""

from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..instruments.routing_report import SentenceRouting
from .output import plain_table, print_title, side_by_side

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def print_tokens(console: Console, routed: SentenceRouting, layer: int, names: Sequence[str]) -> None:
    """One row per token: the experts that it chose in a layer and their gate weights, the largest first."""
    i = routed.layers.index(layer)
    print_title(console, f"Layer {layer}: the experts of each token and their gate weights")
    table = plain_table()
    width = max(map(cell_len, names))
    table.add_column("token", no_wrap=True)
    table.add_column("expert gate", no_wrap=True)
    room = max(console.width - max(width, len("token")) - 2, 12)
    digits = len(str(routed.gate.shape[2] - 1))
    for s, name in enumerate(names):
        experts = np.flatnonzero(routed.asked[i, s])
        experts = experts[np.argsort(-routed.gate[i, s, experts], kind="stable")]
        cells = [f"{e:>{digits}} {_gate(float(routed.gate[i, s, e]))}" for e in experts]
        table.add_row(Text(name + " " * (width - cell_len(name))), "\n".join(side_by_side(cells, room, "  ")) or "none")
    console.print(table)


def print_sentence(console: Console, routed: SentenceRouting, shown: Sequence[int]) -> None:
    """Each byte above the digit of its first-choice expert, one row per layer."""
    visible = {0x20: " ", 0x0A: "\\", 0x09: "\\"}
    characters = [visible.get(b) or (chr(b) if 0x20 < b < 0x7F else ".") for b in routed.ids]
    notes = ["\\ is newline"]
    if routed.gate.shape[2] > 10:
        notes.append("a is 10, A 36")
    if routed.dropped.any():
        notes.append(". was full")
    print_title(console, f"First-choice expert of each byte ({'; '.join(notes)})")
    room = max(console.width - 12, 10)
    for start in range(0, len(characters), room):
        here = slice(start, start + room)
        console.print(Text(f"{'':10}" + "".join(characters[here])), soft_wrap=True)
        for i, number in enumerate(routed.layers):
            if number in shown:
                experts = zip(routed.first_choice[i, here], routed.dropped[i, here], strict=True)
                row = "".join("." if lost else _DIGITS[e % len(_DIGITS)] for e, lost in experts)
                console.print(Text(f"layer {number:<3} {row}", style="cyan"), soft_wrap=True)
        console.print()


def _gate(weight: float) -> str:
    """.41, 1.25; ``full`` where the expert had no place."""
    return "full" if weight == 0 else f"{weight:.2f}".removeprefix("0")
