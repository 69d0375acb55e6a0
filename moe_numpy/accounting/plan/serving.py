"""What one step of decoding takes where devices share the experts and each has texts of its own."""

from dataclasses import dataclass

from ..architecture import Architecture
from ..costs import cache_bytes, flops_per_token, in_bytes
from ..decode_costs import distinct_experts
from ..parameters import total_parameters
from .exchange import bytes_sent, rows_sent
from .layout import Layout, shards
from .step_time import Hardware


@dataclass(frozen=True)
class Serving:
    """A step of decoding on the fullest device: one token for each of its texts.

    Attributes:
        weights: bytes held: its shard of the experts, and a copy of all else.
        cache: bytes of the keys and values, or latents, of its texts.
        read: bytes read in the step: weights that a token of any device needs, and the cache.
        memory_seconds: of reading them.
        compute_seconds: of the multiplications.
        exchange_seconds: of dispatch and combine in all sparse layers.
        seconds: of the step.
    """

    weights: int
    cache: int
    read: float
    memory_seconds: float
    compute_seconds: float
    exchange_seconds: float
    seconds: float


def serving(
    architecture: Architecture,
    layout: Layout,
    hardware: Hardware,
    memory_bandwidth: float,
    *,
    texts: int,
    context: int,
    weights: str = "bf16",
    cache: str = "bf16",
    dispatch: str = "bf16",
    combine: str = "bf16",
    copies: str = "node",
    node_limit: int | None = None,
    overlap: bool = False,
    imbalance: float = 1.0,
) -> Serving:
    """Decode with ``texts`` on each device, each of ``context`` tokens with the new one.

    A device reads all but the experts once, as well as those of its experts that one of the tokens of the devices that
    share them needs: :func:`distinct_experts`. Then

        step = max(read / bandwidth, FLOPs / (peak · utilisation)) + exchange

    or, if half of the texts are exchanged while the other half is computed, the longer of the two terms (DeepSeek-V3
    2024, section 3.4). The experts' FLOPs and the exchange are ``imbalance`` times those of an average device. Not
    counted: latency, which small messages feel.

    Args:
        architecture: the model.
        layout: of one stage.
        hardware: devices and links.
        memory_bandwidth: bytes per second that a device reads from its memory.
        texts: on each device.
        context: tokens of each.
        weights: type of the weights.
        cache: type of keys and values.
        dispatch: type of rows on their way to experts.
        combine: type of answers on their way back.
        copies: what the dispatch sends, one of :data:`COPIES`.
        node_limit: nodes that a token may use.
        overlap: of exchange and computation.
        imbalance: load of the fullest device, of the mean.

    Raises:
        ValueError: there are several stages, the model has an encoder, or a number is out of range.
    """
    a = architecture
    if layout.stages != 1:
        raise ValueError(f"serving is planned for 1 stage, got {layout.stages}")
    if a.num_encoder_layers:
        raise ValueError(f"plans are made for models without an encoder, got one of {a.num_encoder_layers} layers")
    if texts < 1:
        raise ValueError(f"texts must be at least 1, got {texts}")
    if not 0 < memory_bandwidth < float("inf"):
        raise ValueError(f"memory_bandwidth must be positive, got {memory_bandwidth}")
    parameters = total_parameters(a)
    held = parameters.with_embedding - parameters.experts.total
    used, flops, exchange = float(parameters.without_embedding - parameters.experts.total), 0.0, 0.0
    flops = float(flops_per_token(a, context).forward)
    if a.num_sparse_layers and a.expert:
        most = max(shards(a.num_experts, layout.expert_parallel))
        one = a.expert.entries(a.d_model) * a.num_sparse_layers
        held += most * one.total
        needed = distinct_experts(a.num_experts, a.top_k, texts * layout.expert_parallel) / a.num_experts
        used += most * one.total * needed
        flops += 2 * (imbalance - 1) * a.top_k * one.multiplied
        rows = rows_sent(layout, a.num_experts, a.top_k, copies, node_limit)
        per_layer = hardware.seconds(bytes_sent(rows, a.d_model, dispatch, combine))
        exchange = texts * a.num_sparse_layers * per_layer * imbalance
    kept = texts * cache_bytes(a, context, cache)
    read = in_bytes(round(used), weights) + kept
    reading, computing = read / memory_bandwidth, texts * flops / (hardware.peak * hardware.utilisation)
    busy = max(reading, computing)
    return Serving(
        weights=in_bytes(held, weights),
        cache=kept,
        read=read,
        memory_seconds=reading,
        compute_seconds=computing,
        exchange_seconds=exchange,
        seconds=max(busy, exchange) if overlap else busy + exchange,
    )
