"""A run from where it stands to its end: training, validation on the way, the summary."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff import check_finite
from .evaluation import WINDOWS_PER_DOMAIN, Evaluation, evaluate
from .loop import Trainer
from .picture_evaluation import evaluate_pictures
from .record import StepRecord
from .runs import Run
from .summary import summarize

_VALIDATIONS = 6  # after the one before the first step, evenly spread; the last is at the end


def complete(run: Run, trainer: Trainer, on_step: Callable[[StepRecord], None]) -> dict[str, Any] | None:
    """Train to the end and write the summary; return it, or None if a signal ended training early.

    Of several ranks, the first writes and has a summary; that of the others is empty.

    Args:
        run: where everything is written.
        trainer: of this run's configuration; fresh, or resumed from one of its checkpoints.
        on_step: called after each step, to show progress.

    Raises:
        NonFiniteError: a loss or a gradient is NaN or infinite.
    """
    steps, context, num_domains = trainer.config.steps, trainer.model.context, len(trainer.corpus.domains)
    windows = trainer.corpus.validation_windows(context, limit=WINDOWS_PER_DOMAIN)
    validate_at = {round(steps * i / _VALIDATIONS) for i in range(1, _VALIDATIONS)}

    def validate() -> Evaluation:
        with check_finite():
            return evaluate(trainer.model, windows, num_domains, ranks=trainer.ranks)

    def write(losses: dict[int, float]) -> None:
        if trainer.ranks.is_first:
            run.write_validation(losses)

    def after_step(record: StepRecord) -> None:
        try:
            on_step(record)
        finally:  # ranks do everything together
            if record.step in validate_at:
                losses[record.step] = validate().loss
                write(losses)

    with np.errstate(all="ignore"):  # the trainer and check_finite() report overflow themselves
        losses = run.validation() if trainer.completed else {0: validate().loss}
        write(losses)
        if not trainer.train(after_step, run):
            return None
        final = validate()
        pictures = None
        if trainer.config.image_batch_size and trainer.corpus.pictures is not None:
            with check_finite():
                pictures = evaluate_pictures(trainer.model, trainer.corpus.pictures, windows.tokens)
    losses[steps] = final.loss
    ledger = trainer.ranks.ledger(steps)
    if not trainer.ranks.is_first:
        return {}
    write(losses)
    run.write_ledger(ledger)
    summary = summarize(run, trainer, losses.get(0), final, pictures)
    run.write_summary(summary)
    return summary
