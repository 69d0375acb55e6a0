"""Training a run from the command line: progress, Ctrl-C, and numbers that are not finite."""

from typing import Any, NoReturn

import typer
from rich.console import Console

from .. import kernels
from ..autodiff import NonFiniteError
from ..training import Run, Trainer
from ..training.complete import complete
from .output import print_command, refuse
from .progress import training_progress


def run_training(run: Run, trainer: Trainer, console: Console, *, label: str) -> dict[str, Any]:
    """Train to the end; return the summary.

    Args:
        run: the run folder.
        trainer: of this run's configuration; fresh, or resumed from one of its checkpoints.
        console: for progress.
        label: in front of the progress.

    Raises:
        typer.Exit: 130 after Ctrl-C, 1 after a non-finite loss or gradient.
    """
    if kernels.must_compile():
        console.print("Compiling the loops for this processor, once on this machine: some seconds")
    try:
        with training_progress(console, label, trainer) as show:
            summary = complete(run, trainer, show)
    except NonFiniteError as error:
        _explain(error, run)
    if summary is None:
        console.print(f"Stopped after step {trainer.completed} of {trainer.config.steps}, all saved. Continue with:")
        print_command(console, "train", "--resume", "--out", run.folder)
        raise typer.Exit(130)
    return summary


def _explain(error: NonFiniteError, run: Run) -> NoReturn:
    step = run.newest_step()
    kept = "there is no checkpoint yet" if step is None else f"{run.folder} keeps the checkpoint of step {step}"
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    refuse(f"{error}{where}\n{kept}. A lower --learning-rate in a new run may help.", exit_code=1)
