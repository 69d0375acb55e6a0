"""Bytes that expert parallelism sends: tokens to their experts (dispatch), results back (combine)."""

from dataclasses import dataclass
from math import comb

from .architecture import Architecture
from .memory import in_bytes


@dataclass(frozen=True)
class AllToAll:
    """Bytes for one token in a forward pass, summed over the sparse layers. The backward pass sends as much.

    Attributes:
        per_assignment: a copy for each chosen expert, wherever that is.
        per_device: expected; a copy for each distinct other device, which returns the sum of its results.
            None where the number of devices is not given, or there are no experts.
    """

    per_assignment: int
    per_device: float | None


def all_to_all(
    architecture: Architecture, dtype: str, devices: int | None = None, device_limit: int | None = None
) -> AllToAll:
    """All-to-all traffic for one token, for experts spread evenly over ``devices``.

    per_assignment = L · 2 · d · k numbers in L sparse layers; per_device = L · 2 · d · (the result of
    :func:`expected_remote_devices`).

    Raises:
        ValueError: as there; or a device_limit without devices; or an unknown dtype.
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

    If every set of experts is equally likely, with g = E / D experts on each of D devices, of which a token
    may use M (all without a limit):

        (D - 1)/D · M · (1 - C(M g - g, k) / C(M g, k))

    The last factor is the probability that a given device of the M has at least one of the k experts. The
    limit is that of device-limited and node-limited routing (DeepSeek-V2 2024, section 2.2.2; DeepSeek-V3
    2024, section 2.1.2).

    Raises:
        ValueError: devices does not divide num_experts; device_limit is above it or leaves fewer than top_k
            experts.
    """
    if devices < 1 or num_experts % devices:
        raise ValueError(f"devices must divide num_experts={num_experts}, got {devices}")
    usable = devices if device_limit is None else device_limit
    each = num_experts // devices
    if not 1 <= usable <= devices or usable * each < top_k:
        raise ValueError(f"device_limit must be between {-(-top_k // each)} and devices={devices}, got {usable}")
    used = 1 - comb((usable - 1) * each, top_k) / comb(usable * each, top_k)
    return (devices - 1) / devices * usable * used
