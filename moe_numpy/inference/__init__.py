"""Using a model: experts where memory has room for them."""

from .byte_ranges import ByteRange
from .counts import LayerCounts, total
from .errors import StoreError
from .expert_store import ExpertStore
from .mapped_store import MappedStore
from .policies import POLICIES
from .prefill import prefill_order
from .simulator import BEST, Simulated, compare, simulate
from .slot_store import SlotStore
from .traces import Request, Trace

__all__ = [
    "BEST",
    "POLICIES",
    "ByteRange",
    "ExpertStore",
    "LayerCounts",
    "MappedStore",
    "Request",
    "Simulated",
    "SlotStore",
    "StoreError",
    "Trace",
    "compare",
    "prefill_order",
    "simulate",
    "total",
]
