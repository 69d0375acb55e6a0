"""The experts of a layer by number: the arrays that have an entry for each, and their hidden units."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..nn import Buffer, Parameter
from ..typing import Array, Float
from .experts import GptOssExperts, MLPExperts, SwiGLUExperts, WithZeroExperts
from .layer import MoE
from .selection import Dense, RandomSecond, Threshold, TopK

_NOT_ONE_BY_ONE = "cannot be listed, added, dropped, merged or frozen one by one"
_BY_SCORE = TopK, RandomSecond, Threshold, Dense  # whose other choices stay the same when an expert comes or goes


def real_experts(layer: MoE) -> Any:
    """The experts that compute something."""
    return layer.experts.real if isinstance(layer.experts, WithZeroExperts) else layer.experts


def expert_tensors(layer: MoE) -> Iterator[Parameter | Buffer]:
    """The parameters and state of a layer that have an entry for each expert along the first axis."""
    router = layer.router
    yield from real_experts(layer).parameters()
    yield from (each for each in (router.weight, router.bias, router.noise_weight) if each is not None)
    if router.balancer_state is not None and len(router.balancer_state.data) == router.num_experts:
        yield router.balancer_state


def require_replaceable(layer: Any) -> None:
    """ValueError unless a token chooses among all experts of this layer by their scores, each by itself."""
    if not isinstance(layer, MoE):
        raise ValueError(f"the experts of {type(layer).__name__} {_NOT_ONE_BY_ONE}")
    if layer.pools:
        raise ValueError(f"the experts here are in pools, one per modality; they {_NOT_ONE_BY_ONE}")
    selection = layer.router.config.selection
    if not isinstance(selection, _BY_SCORE):
        raise ValueError(
            "experts can be listed, added, dropped, merged and frozen one by one where a token takes those with the "
            f"best scores of all (here: {selection.words})"
        )


def take_experts(target: MoE, source: MoE, entries: Sequence[int]) -> None:
    """Give ``target`` the experts ``entries`` of ``source`` in this order, with their rows of the router, as copies.

    An expert may come twice. Zero-computation experts follow, as in ``source``.
    """
    for new, old in zip(expert_tensors(target), expert_tensors(source), strict=True):
        zeros = range(source.num_experts, len(old.data))
        new.data = old.data[[*entries, *zeros]]


def hidden_units(experts: Any) -> list[Float[Array, "E f n"]]:
    """What belongs to each hidden unit of each expert, as views: its rows of the first matrix, its column of the last.

    Permuting the units of an expert does not change what it computes.
    """
    if isinstance(experts, SwiGLUExperts):
        E, d, f = experts.down.shape
        rows = experts.gate_up.data.reshape(E, 2, f, d)
        return [rows[:, 0], rows[:, 1], np.swapaxes(experts.down.data, 1, 2)]
    if isinstance(experts, GptOssExperts):
        E, d, f = experts.down.shape
        rows, bias = experts.gate_up.data.reshape(E, f, 2 * d), experts.gate_up_bias.data.reshape(E, f, 2)
        return [rows, bias, np.swapaxes(experts.down.data, 1, 2)]
    if isinstance(experts, MLPExperts):
        last = np.swapaxes(experts.second.data, 1, 2)
        return [experts.first.data, experts.first_bias.data[:, :, None], last]
    raise TypeError(f"the hidden units of {type(experts).__name__} are not known")
