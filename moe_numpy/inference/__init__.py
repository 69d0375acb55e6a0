"""Using a model: texts read and continued without a tape, and experts where memory has room for them."""

from .byte_ranges import ByteRange
from .choices import Choices
from .counts import LayerCounts, total
from .decoder import Decoder
from .errors import NotRowByRowError, StoreError
from .expert_store import ExpertStore
from .interventions import Interventions, intervened
from .mapped_store import MappedStore
from .policies import POLICIES
from .prefill import prefill_order
from .prefix_cache import PrefixCache, Reuse
from .prompt_lookup import PromptLookup, guesses_after
from .sequence import Sequence
from .simulator import BEST, Simulated, compare, simulate
from .slot_store import SlotStore
from .traces import Request, Trace
from .writing import Guesses, write

__all__ = [
    "BEST",
    "POLICIES",
    "ByteRange",
    "Choices",
    "Decoder",
    "ExpertStore",
    "Guesses",
    "Interventions",
    "LayerCounts",
    "MappedStore",
    "NotRowByRowError",
    "PrefixCache",
    "PromptLookup",
    "Request",
    "Reuse",
    "Sequence",
    "Simulated",
    "SlotStore",
    "StoreError",
    "Trace",
    "compare",
    "guesses_after",
    "intervened",
    "prefill_order",
    "simulate",
    "total",
    "write",
]
