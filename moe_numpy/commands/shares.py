"""Tables of shares: which expert takes how much, shaded where the terminal has colours."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from ..typing import Array, Float
from .output import one_line, plain_table, print_title

_CELL = 7  # terminal columns per share, padding included
# Points of the colour map cividis, dark to bright; they differ in lightness, so colour vision is not needed.
_CIVIDIS = ((0, 34, 78), (59, 73, 108), (112, 113, 115), (165, 156, 116), (219, 202, 89), (253, 231, 55))


def print_shares(
    console: Console,
    title: str,
    rows: Sequence[str],
    shares: Float[Array, "rows E"],
    *,
    last: tuple[str, Sequence[str]] | None = None,
) -> None:
    """Print percentages per expert, shaded; in several tables if one is wider than the terminal.

    A cell of at least twice the fair share is marked ``+``, one of at most half ``-``.

    Args:
        console: where to print.
        title: above the table.
        rows: the names of the rows.
        shares: fractions; rows sum to 1.
        last: name and cells of one more column.
    """
    num_experts = shares.shape[1]
    rows = [one_line(row) for row in rows]
    name_width = min(max(len("expert"), *map(len, rows)), 24)
    room = console.width - name_width - 4 - (len(last[0]) + 3 if last else 0)
    num_tables = -(-num_experts // max(1, room // _CELL))
    at_once = -(-num_experts // num_tables)  # tables of about the same width
    top = max(float(shares.max()), 2 / num_experts)
    print_title(console, title)
    for start in range(0, num_experts, at_once):
        experts = range(start, min(start + at_once, num_experts))
        table = plain_table()
        table.add_column("expert", max_width=name_width, no_wrap=True)
        for e in experts:
            table.add_column(str(e), justify="right", no_wrap=True, min_width=_CELL - 2)
        if last:
            table.add_column(last[0], justify="right", no_wrap=True)
        for r, name in enumerate(rows):
            cells = [_share(float(shares[r, e]), 1 / num_experts, top) for e in experts]
            table.add_row(Text(name), *cells, *([last[1][r]] if last else []))
        console.print(table)


def fair_share_note(num_experts: int) -> str:
    """The legend of :func:`print_shares`."""
    return f"% of the row; fair share {100 / num_experts:.1f}; + at least twice that, - at most half"


def _share(share: float, fair: float, top: float) -> Text:
    mark = "+" if share >= 2 * fair else "-" if share <= fair / 2 else " "
    position = min(share / top, 1) * (len(_CIVIDIS) - 1)
    i = min(math.floor(position), len(_CIVIDIS) - 2)
    red, green, blue = (round(a + (position - i) * (b - a)) for a, b in zip(_CIVIDIS[i], _CIVIDIS[i + 1], strict=True))
    ink = "#000000" if position > 2.5 else "#ffffff"
    return Text(f"{100 * share:.0f}{mark}", Style(color=ink, bgcolor=f"#{red:02x}{green:02x}{blue:02x}"))
