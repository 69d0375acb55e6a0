"""What a transformer costs, counted from its sizes alone; and the sizes of published models."""

from .architecture import Architecture, architecture_of
from .costs import (
    BITS,
    AllToAll,
    Flops,
    all_to_all,
    cache_bytes,
    cache_bytes_per_token,
    expected_remote_devices,
    flops_per_token,
    in_bytes,
    weight_bytes,
)
from .decode_costs import Decoding, decoding, distinct_experts
from .layers import Entries, FeedForward, GroupedQueryAttention, LatentAttention
from .parameters import Parameters, active_parameters, balancing_biases, total_parameters
from .published import PUBLISHED, PublishedModel, published
from .published_layers import architecture_of_layers

__all__ = [
    "BITS",
    "PUBLISHED",
    "AllToAll",
    "Architecture",
    "Decoding",
    "Entries",
    "FeedForward",
    "Flops",
    "GroupedQueryAttention",
    "LatentAttention",
    "Parameters",
    "PublishedModel",
    "active_parameters",
    "all_to_all",
    "architecture_of",
    "architecture_of_layers",
    "balancing_biases",
    "cache_bytes",
    "cache_bytes_per_token",
    "decoding",
    "distinct_experts",
    "expected_remote_devices",
    "flops_per_token",
    "in_bytes",
    "published",
    "total_parameters",
    "weight_bytes",
]
