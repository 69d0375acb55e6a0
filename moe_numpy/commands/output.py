"""Output of all commands, to a terminal, a pipe or a program: errors, JSON, tables, safe text."""

import errno
import json
import re
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..autodiff import NonFiniteError

# Parts of words in Persian and Indic scripts, and of emoji: joiners, and the tags that spell a flag.
_JOINERS = "\u200c\u200d" + "".join(map(chr, range(0xE0020, 0xE0080)))

is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)
"""Whether this is one of several ranks and not the first: what all of them would say, it does not."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]

_END = 150  # characters of a long word that are shown at each end
_LONG = re.compile(r"\S{1000,}")

_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


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
    """Turn errors in the user's input into a plain message on stderr and exit code 2; 1 for a non-finite number.

    Wraps validation and loading only: an error while computing keeps its traceback.
    """
    try:
        yield
    except OSError as error:
        if is_of_stdout(error):
            raise
        refuse(reason(error))
    except NonFiniteError as error:
        refuse(str(error), exit_code=1)
    except (ValueError, MemoryError) as error:
        refuse(reason(error))


def is_of_stdout(error: OSError) -> bool:
    """Whether it comes from printing: who reads a pipe left, or the disk behind it is full. Files have names."""
    return error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EFBIG)


def _where(error: OSError) -> str:
    """What failed. Printing has no name, nor has the current folder once it is deleted."""
    if error.filename:
        return f"{error.filename}: "
    if is_of_stdout(error):
        return "standard output: "
    return "the current folder: " if error.errno == errno.ENOENT else ""


def reason(error: Exception) -> str:
    """What went wrong and where, without the name of the exception."""
    if isinstance(error, OSError):
        return f"{_where(error)}{error.strerror or error}"
    return str(error) or "out of memory"


class Refusal(typer.Exit):
    """The end of a command with an error in one line, which :meth:`say` prints once.

    Args:
        message: the error.
        exit_code: of the command.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(exit_code)
        self._message = message
        self._said = False

    def say(self, where: str = "") -> None:
        """Print it on stderr, unless that is done; ``where`` stands in front."""
        if not self._said:
            typer.echo(f"error: {where}{short_line(self._message)}", err=True)
        self._said = True


def refuse(message: str, exit_code: int = 2) -> NoReturn:
    """Print an error on stderr, in one line, and end the command."""
    refusal = Refusal(message, exit_code)
    if not is_quiet.get():
        refusal.say()
    raise refusal


def note(message: str) -> None:
    """Print on stderr what did not work and does not end the command."""
    if not is_quiet.get():
        typer.echo(f"note: {short_line(message)}", err=True)


def given_path(text: str) -> Path:
    """A path from the command line. An empty one would be the current folder."""
    if not text or "\0" in text:
        raise typer.BadParameter("the path is empty" if not text else "the path has a NUL")
    return Path(text)


def command_line(*words: object) -> str:
    """A command to copy, quoted for the shell."""
    return shlex.join(["python", "-m", "moe_numpy", *map(str, words)])


def print_command(console: Console, *words: object) -> None:
    """Print a command to copy, on one line."""
    console.print(Text(f"  {one_line(command_line(*words))}"), soft_wrap=True)


def printable(text: str) -> str:
    """Text without control and formatting characters, which a terminal might obey; newline, tab and joiners stay.

    A byte that is not UTF-8 in the name of a file is shown as ``\\xff``, as ``ls`` does.
    """
    shown = (rf"\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in text)
    return "".join(c for c in shown if c in f"\n\t{_JOINERS}" or unicodedata.category(c[0]) not in ("Cc", "Cf", "Cs"))


def one_line(text: object) -> str:
    """A name, path or message, printable, with line breaks and tabs as spaces."""
    return " ".join(printable(str(text)).splitlines()).replace("\t", " ")


def short_line(text: object) -> str:
    """A message as :func:`one_line`, in which a name or value of thousands of characters is cut in its middle."""
    return _LONG.sub(lambda word: f"{word[0][:_END]}[...]{word[0][-_END:]}", one_line(text))


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


def side_by_side(cells: Sequence[str], room: int, gap: str = "   ") -> list[str]:
    """Cells beside each other in lines of at most ``room`` columns, if a single one is not wider."""
    if not cells:
        return []
    begins, used = [0], cell_len(cells[0])
    for i, cell in enumerate(cells[1:], 1):
        used += len(gap) + cell_len(cell)
        if used > room:
            begins.append(i)
            used = cell_len(cell)
    return [gap.join(cells[a:b]) for a, b in pairwise([*begins, len(cells)])]


def print_files(console: Console, title: str, paths: Sequence[Path]) -> None:
    """Print one path per line below a title, never wrapped, to copy; nothing if there is none."""
    if paths:
        print_title(console, title)
    for path in paths:
        console.print(Text(f"  {one_line(path)}"), soft_wrap=True)
