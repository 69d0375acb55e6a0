"""What decoding one token of each of several texts reads and computes: some experts serve many texts, others none."""

from dataclasses import dataclass

from .architecture import Architecture
from .costs import cache_bytes, flops_per_token, in_bytes
from .parameters import active_parameters


@dataclass(frozen=True)
class Decoding:
    """The cost of one token, of ``batch`` texts that grow by one token each.

    Attributes:
        batch: B.
        experts: distinct experts that a sparse layer uses, on average; 0 without sparse layers.
        weight_bytes: weights read, divided by B.
        cache_bytes: keys and values read, or latents.
        flops: of the forward pass.
    """

    batch: int
    experts: float
    weight_bytes: float
    cache_bytes: float
    flops: float

    @property
    def bytes(self) -> float:
        """weight_bytes + cache_bytes."""
        return self.weight_bytes + self.cache_bytes


def distinct_experts(num_experts: int, top_k: int, tokens: int) -> float:
    """The experts that at least one of the tokens uses: E (1 - (1 - k / E)^B).

    The expectation where tokens choose independently and every expert is equally likely. A router with favourites uses
    fewer.

    Raises:
        ValueError: top_k is not from 1 to num_experts, or tokens is below 1.
    """
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k must be between 1 and num_experts={num_experts}, got {top_k}")
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens}")
    return num_experts * (1 - (1 - top_k / num_experts) ** tokens)


def decoding(architecture: Architecture, batch: int, context: int, dtype: str, cache_dtype: str = "bf16") -> Decoding:
    """What one token costs that follows ``context`` - 1 others, in a batch of texts as long.

    Every weight that a text of the batch uses is read once a step, and each text reads its own cache. Activations and
    the row of the embedding are not counted: they stay in caches, or are few.

    Args:
        architecture: of a decoder-only model.
        batch: texts.
        context: tokens of each, the new one included.
        dtype: of the weights, a key of :data:`moe_numpy.accounting.BITS`.
        cache_dtype: of keys and values.

    Raises:
        ValueError: the model has an encoder, or a number is below 1.
    """
    if architecture.num_encoder_layers:
        raise ValueError(
            f"decoding is counted for models without an encoder, got {architecture.num_encoder_layers} layers"
        )
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    active, used = active_parameters(architecture), 0.0
    read = float(active.without_embedding)
    if architecture.num_experts:
        used = distinct_experts(architecture.num_experts, architecture.top_k, batch)
        read += active.experts.total * (used / architecture.top_k - 1)
    return Decoding(
        batch=batch,
        experts=used,
        weight_bytes=in_bytes(round(read), dtype) / batch,
        cache_bytes=cache_bytes(architecture, context, cache_dtype),
        flops=flops_per_token(architecture, context).forward,
    )
