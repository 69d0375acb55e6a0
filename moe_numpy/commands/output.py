"""Output of all commands, to a terminal, a pipe or a program: errors, JSON, tables, safe text."""

import json
import math
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..typing import Array, Float

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]

_CELL = 7  # terminal columns per share, padding included
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
# Points of the colour map cividis, dark to bright; they differ in lightness, so colour vision is not needed.
_CIVIDIS = ((0, 34, 78), (59, 73, 108), (112, 113, 115), (165, 156, 116), (219, 202, 89), (253, 231, 55))


def with_default(help: str, default: object) -> str:
    """The help of an option with a default that typer does not know. The backslash is rich's escape."""
    return rf"{help} \[default: {default}]"


def console_for(as_json: bool) -> Console:
    """The console for people: stdout, or stderr when stdout carries a JSON document."""
    return Console(stderr=as_json, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


@contextmanager
def refusals() -> Iterator[None]:
    """Turn errors in the user's input into a plain message on stderr and exit code 2.

    Wraps validation and loading only: an error while computing keeps its traceback.
    """
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        refuse(f"{where}{error.strerror or error}")
    except (ValueError, MemoryError) as error:
        refuse(str(error))


def refuse(message: str, exit_code: int = 2) -> NoReturn:
    """Print an error on stderr and end the command."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(exit_code)


def command_line(*words: object) -> str:
    """A command to copy, quoted for the shell."""
    return shlex.join(["python", "-m", "moe_numpy", *map(str, words)])


def print_command(console: Console, *words: object) -> None:
    """Print a command to copy, on one line."""
    console.print(Text(f"  {command_line(*words)}"), soft_wrap=True)


def printable(text: str) -> str:
    """Text without control and formatting characters, which a terminal might obey; newline and tab stay."""
    return "".join(c for c in text if c in "\n\t" or not unicodedata.category(c).startswith("C"))


def sparkline(values: Sequence[float], console: Console, top: float) -> str:
    """One character per value, from 0 to ``top``."""
    bars = _ASCII_BARS if console.options.ascii_only else _BARS
    return "".join(bars[min(int(len(bars) * v / top), len(bars) - 1)] for v in values)


def print_title(console: Console, title: str) -> None:
    """Print a line above a table or a list."""
    console.print(Text(title, "bold"))


def plain_table() -> Table:
    """A table without lines, aligned with the text above it."""
    return Table(box=None, pad_edge=False, header_style="dim")


def print_files(console: Console, paths: Iterable[Path]) -> None:
    """Print one path per line, never wrapped, to copy."""
    for path in paths:
        console.print(Text(f"  {path}"), soft_wrap=True)


def print_shares(
    console: Console,
    title: str,
    rows: Sequence[str],
    shares: Float[Array, "R E"],
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
