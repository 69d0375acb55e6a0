"""Progress over a text or the weights of a model: a bar on a terminal, lines in a pipe; nothing within two seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_QUIET = 2.0  # seconds


@contextmanager
def text_progress(
    console: Console, total: int, doing: str = "Routing text", done: str = "routed", things: str = "tokens"
) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of tokens, or other things, that are done so far."""
    began = time.monotonic()
    if console.is_interactive:
        columns = (
            TextColumn(doing),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,}/{task.total:,} " + things),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, expand=True, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda so_far: progress.update(task, completed=so_far)
        return
    printed = began

    def print_line(so_far: int) -> None:
        nonlocal printed
        now = time.monotonic()
        spent = now - began
        if spent > _QUIET and now - printed > spent / 10 and so_far < total:
            printed = now
            left = spent * (total - so_far) / so_far
            console.print(f"{done} {so_far:,} of {total:,} {things}, {left:.0f} s left", soft_wrap=True)

    yield print_line
