"""Training: text, optimizer, schedule, and runs that survive a crash."""

from .built_in_text import default_corpus
from .checkpoint_files import CheckpointError
from .checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .corpus import Corpus, CorpusError, Domain, Windows, bytes_needed, decode, encode
from .loop import Trainer
from .optimizers import AdamW, clip_factor, global_norm
from .record import StepRecord
from .runs import Run, RunError
from .schedule import WarmupCosine
from .stored_checkpoint import Checkpoint
from .user_text import load_corpus, text_corpus

__all__ = [
    "AdamW",
    "Checkpoint",
    "CheckpointError",
    "Corpus",
    "CorpusError",
    "Domain",
    "Run",
    "RunError",
    "StepRecord",
    "Trainer",
    "TrainingConfig",
    "WarmupCosine",
    "Windows",
    "bytes_needed",
    "clip_factor",
    "decode",
    "default_corpus",
    "encode",
    "global_norm",
    "list_checkpoints",
    "load_checkpoint",
    "load_corpus",
    "save_checkpoint",
    "text_corpus",
]
