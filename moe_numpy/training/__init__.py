"""Training: text, optimizer, schedule, and runs that survive a crash."""

from .checkpoints import Checkpoint, CheckpointError, list_checkpoints, load_checkpoint, save_checkpoint
from .corpus import (
    VOCABULARY_SIZE,
    Batch,
    Corpus,
    CorpusError,
    Domain,
    bytes_needed,
    decode,
    default_corpus,
    encode,
    text_corpus,
)
from .files import append_jsonl, read_jsonl, truncate_history, write_json_atomically
from .optimizers import AdamW, clip_factor, global_norm
from .schedule import WarmupCosine

__all__ = [
    "VOCABULARY_SIZE",
    "AdamW",
    "Batch",
    "Checkpoint",
    "CheckpointError",
    "Corpus",
    "CorpusError",
    "Domain",
    "WarmupCosine",
    "append_jsonl",
    "bytes_needed",
    "clip_factor",
    "decode",
    "default_corpus",
    "encode",
    "global_norm",
    "list_checkpoints",
    "load_checkpoint",
    "read_jsonl",
    "save_checkpoint",
    "text_corpus",
    "truncate_history",
    "write_json_atomically",
]
