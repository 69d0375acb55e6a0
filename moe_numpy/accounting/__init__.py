"""What a transformer costs, from its configuration alone: parameters, FLOPs, bytes; with published models."""

from .architecture import Architecture
from .attention import GroupedQueryAttention, LatentAttention
from .communication import AllToAll, all_to_all, expected_remote_devices
from .entries import Entries
from .feed_forward import FeedForward
from .flops import Flops, flops_per_token
from .memory import BITS, cache_bytes, cache_bytes_per_token, in_bytes, weight_bytes
from .own_models import architecture_of
from .parameters import Parameters, active_parameters, balancing_biases, total_parameters
from .published import PUBLISHED, Published, published

__all__ = [
    "BITS",
    "PUBLISHED",
    "AllToAll",
    "Architecture",
    "Entries",
    "FeedForward",
    "Flops",
    "GroupedQueryAttention",
    "LatentAttention",
    "Parameters",
    "Published",
    "active_parameters",
    "all_to_all",
    "architecture_of",
    "balancing_biases",
    "cache_bytes",
    "cache_bytes_per_token",
    "expected_remote_devices",
    "flops_per_token",
    "in_bytes",
    "published",
    "total_parameters",
    "weight_bytes",
]
