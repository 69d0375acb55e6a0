"""What a token costs: FLOPs, and bytes that are stored and sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, comb

from .architecture import Architecture
from .parameters import active_parameters, balancing_biases, total_parameters

#: Bits per number. mxfp4 has 4 bits, and one 8-bit scale per 32 numbers (Open Compute Project 2023).
BITS: Mapping[str, float] = {
    "fp64": 64,
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "mxfp4": 4.25,
}


@dataclass(frozen=True)
class Flops:
    """FLOPs of one token's forward pass; a multiply-add is two.

    Attributes:
        weights: multiplications with weight matrices.
        scores: queries with keys, and attention probabilities with values.
    """

    weights: int
    scores: int

    @property
    def forward(self) -> int:
        """weights + scores."""
        return self.weights + self.scores

    @property
    def backward(self) -> int:
        """2 · forward: each multiplication has two factors, and the gradient of each costs as much again."""
        return 2 * self.forward


def flops_per_token(architecture: Architecture, context: int) -> Flops:
    """FLOPs of the last of ``context`` tokens; with an encoder, of the last source and the last target token.

    weights = 2 · (active matrix entries); scores = 2 · (multiply-adds per key) · (keys in all layers).
    In a causal sequence of length S a token attends to (S + 1) / 2 tokens on average.
    Softmax, norms, activations and the embedding lookup are not counted. Source: Kaplan et al. 2020,
    section 2.1, which leaves out the output matrix and half of the scores.

    Raises:
        ValueError: context is below 1.
    """
    keys = architecture.keys_attended(context) + architecture.num_encoder_layers * context
    return Flops(
        weights=2 * active_parameters(architecture).multiplied,
        scores=2 * architecture.attention.score_multiply_adds * keys,
    )


def in_bytes(numbers: int, dtype: str) -> int:
    """Bytes of ``numbers`` numbers, rounded up.

    Raises:
        ValueError: dtype is not in :data:`BITS`.
    """
    if dtype not in BITS:
        raise ValueError(f"dtype must be one of {', '.join(BITS)}, got {dtype!r}")
    return ceil(numbers * BITS[dtype] / 8)


def weight_bytes(architecture: Architecture, dtype: str) -> int:
    """Bytes of all parameters and balancing biases, all in one dtype.

    Published checkpoints mix dtypes: gpt-oss has its experts in mxfp4 and the rest in bf16.
    """
    return in_bytes(total_parameters(architecture).with_embedding + balancing_biases(architecture), dtype)


def cache_bytes(architecture: Architecture, context: int, dtype: str) -> int:
    """Bytes of the key/value cache of one sequence of ``context`` tokens.

    A layer with an attention window caches at most that many tokens.
    """
    return in_bytes(architecture.keys_attended(context) * architecture.attention.cached_numbers, dtype)


def cache_bytes_per_token(architecture: Architecture, dtype: str) -> int:
    """Bytes that all layers cache for one token while it is within every attention window.

    2 K h numbers per layer for grouped-query attention, r + rope for latent attention. With an encoder: for
    one source token and one target token.
    """
    return cache_bytes(architecture, 1, dtype)


@dataclass(frozen=True)
class AllToAll:
    """Bytes that expert parallelism sends per token in a forward pass, over all sparse layers.

    Tokens go to their experts (dispatch), results come back (combine). The backward pass sends as much.

    Attributes:
        per_assignment: with one copy per chosen expert, wherever it is.
        per_device: expected, with one copy per distinct other device, which returns the sum of its results;
            None if the number of devices is not given, or there are no experts.
    """

    per_assignment: int
    per_device: float | None


def all_to_all(
    architecture: Architecture, dtype: str, devices: int | None = None, device_limit: int | None = None
) -> AllToAll:
    """All-to-all traffic per token, for experts spread evenly over ``devices``.

    per_assignment = L · 2 · d · k numbers in L sparse layers;
    per_device = L · 2 · d · :func:`expected_remote_devices`.

    Raises:
        ValueError: :func:`expected_remote_devices` refuses; device_limit without devices; unknown dtype.
    """
    if device_limit is not None and devices is None:
        raise ValueError(f"device_limit={device_limit} needs the number of devices")
    row = in_bytes(architecture.d_model, dtype)
    sent = 2 * architecture.num_sparse_layers * row
    per_device = None
    if devices is not None and architecture.num_experts:
        per_device = sent * expected_remote_devices(architecture.num_experts, architecture.top_k, devices, device_limit)
    return AllToAll(per_assignment=sent * architecture.top_k, per_device=per_device)


def expected_remote_devices(num_experts: int, top_k: int, devices: int, device_limit: int | None = None) -> float:
    """Expected number of devices, besides its own, that hold one of a token's experts.

    If all sets of experts are equally likely, with g = E / D experts on each of D devices, of which a token
    may use M (all without a limit):

        (D - 1)/D · M · (1 - C(M g - g, k) / C(M g, k))

    The last factor is the probability that a given one of the M devices holds at least one of the k experts.
    The limit is that of device-limited and node-limited routing (DeepSeek-V2 2024, section 2.2.2;
    DeepSeek-V3 2024, section 2.1.2).

    Raises:
        ValueError: devices does not divide num_experts; device_limit exceeds devices, or leaves fewer than
            top_k experts.
    """
    if devices < 1 or num_experts % devices:
        raise ValueError(f"devices must divide num_experts={num_experts}, got {devices}")
    usable = devices if device_limit is None else device_limit
    each = num_experts // devices
    if not 1 <= usable <= devices or usable * each < top_k:
        raise ValueError(f"device_limit must be between {-(-top_k // each)} and devices={devices}, got {usable}")
    used = 1 - comb((usable - 1) * each, top_k) / comb(usable * each, top_k)
    return (devices - 1) / devices * usable * used
