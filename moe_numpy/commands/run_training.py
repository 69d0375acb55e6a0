"""Training a run from the command line: its folder, progress, signals, and what can go wrong on the way."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from .. import kernels
from ..autodiff import NonFiniteError
from ..training import Run, StepRecord, Trainer
from ..training.complete import complete
from ..training.lock import locked
from .output import print_command, reason, refuse
from .progress import training_progress
from .starting_ranks import ranks_option


@contextmanager
def new_run(folder: Path, *configuration: Any) -> Iterator[Run]:
    """A run that no other process can train at the same time; removed if it ends before its first checkpoint.

    Raises:
        FileExistsError: the folder holds a run already.
        OSError: the folder cannot be made, or is in use.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            run = Run.start(folder, *configuration)
            try:
                yield run
            finally:
                run.discard_if_untrained()
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # something is in it
                path.rmdir()


@contextmanager
def existing_run(folder: Path) -> Iterator[Run]:
    """A run to continue, which no other process can train at the same time, without what a crash left half-written."""
    run = Run.open(folder)
    with locked(folder):
        run.remove_temporaries()
        yield run


def run_training(
    run: Run, trainer: Trainer, console: Console, *, label: str, continue_with: Sequence[object] = ()
) -> dict[str, Any]:
    """Train to the end; return the summary.

    Args:
        run: the run folder.
        trainer: of this run's configuration; fresh, or resumed from one of its checkpoints.
        console: for progress.
        label: in front of the progress.
        continue_with: the command that continues after a signal; by default ``train --resume``.

    Raises:
        typer.Exit: 128 + its number after a signal (130: Ctrl-C), 1 after a non-finite loss or gradient, a failing
            disk or too little memory.
    """
    if kernels.must_compile():
        console.print("Compiling the loops for this processor, once on this machine: some seconds")
    try:
        with training_progress(console, label, trainer) as show:
            summary = complete(run, trainer, _and_events(show, trainer, console))
    except NonFiniteError as error:
        _explain(error, run)
    except BrokenPipeError:
        raise typer.Exit(1) from None  # all is saved, and nobody reads on
    except (OSError, MemoryError) as error:
        refuse(f"{reason(error)}; {_kept(run)}", exit_code=1)
    except (KeyboardInterrupt, SystemExit):  # outside the steps, or a second signal
        _tell_how_to_continue(run, console, continue_with)
        raise
    if summary is None:
        assert trainer.stopped_by is not None
        _tell_how_to_continue(run, console, continue_with)
        raise typer.Exit(128 + trainer.stopped_by)
    return summary


def _and_events(show: Callable[[StepRecord], None], trainer: Trainer, console: Console) -> Callable[[StepRecord], None]:
    """``show``, which also says which experts were split, and once why the steps on a GPU are not recorded."""
    told: str | None = None

    def show_step(record: StepRecord) -> None:
        nonlocal told
        show(record)
        for layer, idle, loaded in record.splits:
            line = f"Step {record.step}: layer {layer}: expert {idle} was idle, now shares the tokens of {loaded}"
            console.print(line, style="dim", markup=False, soft_wrap=True)
        if told is None and trainer.not_recorded is not None:
            told = trainer.not_recorded
            line = f"Steps run launch by launch, not as one CUDA graph: {told}"
            console.print(line, style="dim", markup=False, soft_wrap=True)

    return show_step


def _tell_how_to_continue(run: Run, console: Console, continue_with: Sequence[object]) -> None:
    step = run.newest_step()
    if step is None:
        return
    with contextlib.suppress(OSError, SystemExit):  # SIGHUP: the terminal is gone
        console.print(f"Stopped after step {step} of {run.training_config.steps}, all saved. Continue with:")
        print_command(console, *(continue_with or ("train", "--resume", "--out", run.folder, *ranks_option())))


def _explain(error: NonFiniteError, run: Run) -> NoReturn:
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    refuse(f"{error}{where}; {_kept(run)}. A lower --learning-rate in a new run may help.", exit_code=1)


def _kept(run: Run) -> str:
    step = run.newest_step()
    return "there is no checkpoint yet" if step is None else f"{run.folder} keeps the checkpoint of step {step}"
