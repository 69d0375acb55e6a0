"""What training and serving a model on many devices takes, on paper: memory, traffic, time."""

from .activations import RECOMPUTE, Kept, kept_numbers
from .exchange import COPIES, Links, bytes_sent, rows_sent
from .layout import Layout, shards
from .memory import DeviceMemory, device_memory
from .pipeline import SCHEDULES, Pipeline
from .reach import Reach, reach
from .serving import Serving, serving
from .stages import Stage, evenly_cut, stages_of
from .step_time import Hardware, StepTime, exchange_seconds, step_time, training_flops
from .stragglers import imbalance, skewed_imbalance, zipf_load
from .training import Training, Types

__all__ = [
    "COPIES",
    "RECOMPUTE",
    "SCHEDULES",
    "DeviceMemory",
    "Hardware",
    "Kept",
    "Layout",
    "Links",
    "Pipeline",
    "Reach",
    "Serving",
    "Stage",
    "StepTime",
    "Training",
    "Types",
    "bytes_sent",
    "device_memory",
    "evenly_cut",
    "exchange_seconds",
    "imbalance",
    "kept_numbers",
    "reach",
    "rows_sent",
    "serving",
    "shards",
    "skewed_imbalance",
    "stages_of",
    "step_time",
    "training_flops",
    "zipf_load",
]
