"""Progress of training: a live bar on a terminal, ten plain lines in a pipe."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..training import StepRecord, Trainer

_RECENT = 20  # steps that the speed is averaged over


@contextmanager
def training_progress(console: Console, label: str, trainer: Trainer) -> Iterator[Callable[[StepRecord], None]]:
    """Yield a function to call after each step."""
    steps = trainer.config.steps
    recent: deque[float] = deque(maxlen=_RECENT)

    def measure(record: StepRecord) -> tuple[float, str]:
        """Tokens per second, and the time left."""
        recent.append(record.seconds)
        seconds = sum(recent) / len(recent)
        return trainer.tokens_per_step / seconds, clock((steps - record.step) * seconds)

    if not console.is_interactive:
        lines = {round(steps * tenth / 10) for tenth in range(1, 11)}

        def print_line(record: StepRecord) -> None:
            speed, left = measure(record)
            if record.step in lines:
                console.print(
                    f"{label:5}  step {record.step:>{len(str(steps))}}/{steps}  {_losses(record)}  "
                    f"{speed:,.0f} tokens/s  {left} left",
                    soft_wrap=True,
                )

        yield print_line
        return

    columns = (
        TextColumn(f"{label:5}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[speed]} tokens/s"),
        TextColumn("{task.fields[left]} left"),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task(label, total=steps, completed=trainer.completed, loss="", speed="-", left="-:--")

        def move_bar(record: StepRecord) -> None:
            speed, left = measure(record)
            progress.update(task, completed=record.step, loss=_losses(record), speed=f"{speed:,.0f}", left=left)

        yield move_bar


def _losses(record: StepRecord) -> str:
    """The loss, or those on text and on captions."""
    if record.text_loss is None:
        return f"loss {record.loss:.3f}"
    return f"text {record.text_loss:.3f}  captions {record.caption_loss:.3f}"


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
