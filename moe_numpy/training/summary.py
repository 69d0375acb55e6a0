"""The results of a finished run, in one flat document."""

from typing import Any

import numpy as np

from ..instruments.routing_report import most_separating
from .evaluation import Evaluation
from .loop import Trainer
from .picture_evaluation import PictureEvaluation
from .runs import Run

_LAST_STEPS = 20


def summarize(
    run: Run,
    trainer: Trainer,
    initial_loss: float | None,
    final: Evaluation,
    pictures: PictureEvaluation | None = None,
) -> dict[str, Any]:
    """The results of a run.

    Losses are in nats per ``unit``, a byte or a token; ``train_loss`` is the mean over the last 20 steps. ``seconds``
    counts optimizer steps only, resumed ones included. ``expert_load``, ``domain_expert`` and ``dropped_fraction`` are
    counted on validation text, the first two before dropping.

    Args:
        run: its history, and its dense twin if there is one.
        trainer: at the end of training.
        initial_loss: validation before the first step, on the same windows; None if not measured.
        final: validation after the last step.
        pictures: held-out pictures after the last step, of a model that was trained on some.
    """
    history = run.history()
    seconds = sum(record["seconds"] for record in history)
    tokens = trainer.completed * trainer.tokens_per_step
    sparse = trainer.model.routed_layers
    domain_expert = final.domain_expert
    shown = most_separating(domain_expert) if sparse else None
    twin = run.dense_twin()
    dense = None if twin is None else twin.summary()
    return {
        "steps": trainer.completed,
        "unit": trainer.corpus.unit,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "train_loss": float(np.mean([record["loss"] for record in history[-_LAST_STEPS:]])),
        "val_loss": final.loss,
        "val_loss_initial": initial_loss,
        "val_bits_per_byte": final.bits_per_byte,
        "dense_val_bits_per_byte": dense["val_bits_per_byte"] if dense else None,
        "total_parameters": trainer.num_parameters,
        "active_parameters": trainer.active_parameters,
        "sparse_layers": sparse,
        "dropped_fraction": final.dropped_fraction,
        "dropped_fraction_by_layer": final.dropped_by_layer.tolist(),
        "expert_load": final.expert_load.tolist(),
        "domains": [domain.name for domain in trainer.corpus.domains],
        "domain_loss": final.domain_loss.tolist(),
        "domain_expert": [] if shown is None else domain_expert[shown].tolist(),
        "domain_expert_layer": None if shown is None else sparse[shown],
        "domain_expert_by_layer": domain_expert.tolist(),
    } | ({} if pictures is None else {"pictures": pictures.to_json()})
