"""Progress of a model over a text: a bar on a terminal, lines in a pipe; nothing within the first two seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_QUIET = 2.0  # seconds


@contextmanager
def text_progress(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of tokens routed so far."""
    began = time.monotonic()
    if console.is_interactive:
        columns = (
            TextColumn("Routing text"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,}/{task.total:,} tokens"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, expand=True, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda tokens: progress.update(task, completed=tokens)
        return
    printed = began

    def print_line(tokens: int) -> None:
        nonlocal printed
        now = time.monotonic()
        spent = now - began
        if spent > _QUIET and now - printed > spent / 10 and tokens < total:
            printed = now
            left = spent * (total - tokens) / tokens
            console.print(f"routed {tokens:,} of {total:,} tokens, {left:.0f} s left", soft_wrap=True)

    yield print_line
