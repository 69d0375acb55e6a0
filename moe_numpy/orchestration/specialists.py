"""Specialists: small models of bytes, one for each kind of text, branched from one seed model.

Branch-train-merge (Li et al. 2022, arXiv 2208.03306): a seed model is trained on all kinds; each specialist begins with
its weights and sees only its own kind from then on; they share no parameters and are trained without talking to each
other. A whole text goes to one of them (sequence-level routing).

    FOLDER/text/KIND.txt    the text of each kind
    FOLDER/seed, FOLDER/KIND    a run each: ``generate``, ``inspect`` and ``train --resume`` work on them
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..autodiff import no_grad
from ..files import write_atomically
from ..models import ModelConfig, Transformer
from ..ops import LogSoftmax
from ..training import Run, Trainer, TrainingConfig, encode, presets, text_corpus
from ..training.corpus import Corpus, bytes_needed
from ..typing import Array, Float, Int
from .kinds import KINDS
from .texts import texts

SEED = "seed"
STAGES = (SEED, *KINDS)
"""What is trained, in order."""

MODEL = ModelConfig(num_experts=0, d_model=96, num_layers=3, d_ff=288)
SEED_STEPS, SPECIALIST_STEPS = 300, 300


class SpecialistError(ValueError):
    """A folder without trained specialists; the message says what is missing."""


def write_texts(folder: Path) -> None:
    """Write the texts that are not there yet; those of an earlier version of Python stay, so that runs can resume."""
    missing = [kind for kind in KINDS if not text_file(folder, kind).exists()]
    if missing:
        (folder / "text").mkdir(parents=True, exist_ok=True)
        of_kind = texts()
        write_atomically({text_file(folder, kind): of_kind[kind] for kind in missing})


def text_file(folder: Path, kind: str) -> Path:
    """The text of a kind."""
    return folder / "text" / f"{kind}.txt"


def corpus_of(folder: Path, *kinds: str) -> Corpus:
    """The texts of these kinds, a domain each, a tenth held out. CorpusError if one is missing."""
    return text_corpus([text_file(folder, kind) for kind in kinds], min_bytes=bytes_needed(MODEL.context))


def training_of(stage: str) -> TrainingConfig:
    """How a stage is trained."""
    return presets.training(steps=SEED_STEPS if stage == SEED else SPECIALIST_STEPS)


def kinds_of(stage: str) -> tuple[str, ...]:
    """The kinds of text that a stage sees."""
    return KINDS if stage == SEED else (stage,)


def is_trained(folder: Path, stage: str) -> bool:
    """Whether a stage has come to its end."""
    return (folder / stage / "summary.json").exists()


def trainer_of(folder: Path, stage: str) -> Trainer:
    """A trainer of a stage at its beginning: specialists begin with the weights of the trained seed.

    Raises:
        RunError, CheckpointError: the seed is not trained.
    """
    trainer = Trainer(MODEL, training_of(stage), corpus_of(folder, *kinds_of(stage)))
    if stage != SEED:
        seed, _ = Run.open(folder / SEED).model()
        trainer.model.load_state_dict(seed.state_dict())
    return trainer


class Specialists:
    """The trained specialists of a folder; each is read when it is first used.

    Args:
        folder: where ``python -m moe_numpy specialists`` has put them.

    Raises:
        SpecialistError: one is not trained yet.
    """

    def __init__(self, folder: Path):
        missing = [kind for kind in KINDS if not is_trained(folder, kind)]
        if missing:
            raise SpecialistError(f"{folder} has no trained specialist for {', '.join(missing)}")
        self.folder = folder
        self._models: dict[str, Transformer] = {}

    def model(self, kind: str) -> Transformer:
        """The specialist of a kind, for evaluation.

        Raises:
            RunError, CheckpointError: its files are damaged.
        """
        if kind not in self._models:
            self._models[kind] = Run.open(self.folder / kind).model()[0]
            self._models[kind].eval()
        return self._models[kind]

    def losses_of(self, text: str) -> dict[str, float]:
        """The mean loss of each specialist on the bytes of a text after the first, in nats; empty if it has only one.

        Of a text longer than the context, its beginning counts.
        """
        tokens = encode(text)[None, : MODEL.context + 1]
        if tokens.shape[1] < 2:
            return {}
        return {kind: float(losses(self.model(kind), tokens[:, :-1], tokens[:, 1:]).mean()) for kind in KINDS}


def losses(model: Transformer, tokens: Int[Array, "B S"], targets: Int[Array, "B S"]) -> Float[Array, "B S"]:
    """-ln p(target) of each byte."""
    with no_grad():
        log_p: Any = LogSoftmax.apply(model(tokens).logits, axis=-1).data
    return -np.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0].astype(np.float64)
