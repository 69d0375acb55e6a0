"""Training a run from the command line, from its first validation to its summary.json."""

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import typer
from rich.console import Console

from .. import kernels
from ..autodiff import NonFiniteError, check_finite
from ..training import list_checkpoints, write_json_atomically
from ..training.evaluation import Evaluation, evaluate
from ..training.loop import StepRecord, Trainer
from ..training.runs import Run
from ..training.summary import summarize
from .output import command_line, refuse
from .progress import training_progress

WINDOWS_PER_DOMAIN = 48  # validation windows that losses and routing tables are measured on
_VALIDATIONS = 6  # how often the validation loss is measured on the way


def run_training(run: Run, trainer: Trainer, console: Console, *, label: str) -> dict[str, Any]:
    """Train to the end and write ``summary.json``; return its content.

    Args:
        run: the run folder.
        trainer: of this run's configuration; fresh, or resumed from one of its checkpoints.
        console: for progress.
        label: in front of the progress bar.

    Raises:
        typer.Exit: 130 after Ctrl-C, 1 after a non-finite loss or gradient.
    """
    context, num_domains = trainer.model.config.context, len(trainer.corpus.domains)
    windows = trainer.corpus.validation_windows(context, limit=WINDOWS_PER_DOMAIN)

    def validate() -> Evaluation:
        with check_finite():
            return evaluate(trainer.model, windows, num_domains)

    if kernels.must_compile():
        console.print("Compiling the loops for this processor, once on this machine: some seconds")
    if trainer.completed == 0:
        curve = {0: validate().loss}
    else:
        curve = {step: loss for step, loss in run.validation().items() if step <= trainer.completed}
    _write_curve(run.folder, curve)
    if trainer.completed < trainer.config.steps:
        (run.folder / "summary.json").unlink(missing_ok=True)  # of an end that is now to be reached again
    steps = trainer.config.steps
    validate_at = {round(steps * i / _VALIDATIONS) for i in range(1, _VALIDATIONS)}

    try:
        # Trainer and check_finite() look for overflow themselves; a warning would only cut into the bar.
        with np.errstate(all="ignore"):
            with training_progress(console, label, trainer) as show:

                def on_step(record: StepRecord) -> None:
                    show(record)
                    if record.step in validate_at:
                        curve[record.step] = validate().loss
                        _write_curve(run.folder, curve)

                finished = trainer.train(on_step, run.folder)
            final = validate() if finished else None
    except NonFiniteError as error:
        _explain(error, run.folder)
    if final is None:
        console.print(f"Stopped after step {trainer.completed} of {steps}, all saved. Continue with:")
        again = command_line("train", "--resume", "--out", run.folder)
        console.print(f"  {again}", soft_wrap=True, markup=False)
        raise typer.Exit(130)
    curve[steps] = final.loss
    _write_curve(run.folder, curve)
    summary = summarize(run, trainer, curve.get(0), final)
    write_json_atomically(run.folder / "summary.json", summary)
    return summary


def _write_curve(folder: Path, curve: dict[int, float]) -> None:
    write_json_atomically(folder / "validation.json", sorted(curve.items()))


def _explain(error: NonFiniteError, folder: Path) -> NoReturn:
    steps = list_checkpoints(folder)
    kept = f"{folder} keeps the checkpoint of step {steps[-1]}" if steps else "there is no checkpoint yet"
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    refuse(f"{error}{where}\n{kept}. A lower --learning-rate in a new run may help.", exit_code=1)
