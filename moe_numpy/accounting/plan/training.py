"""The settings of a training run on many devices."""

from dataclasses import dataclass, field

from ..architecture import Architecture
from ..costs import BITS
from ..layers import require_at_least
from .activations import RECOMPUTE
from .exchange import COPIES, Links, bytes_sent, rows_sent
from .layout import Layout
from .pipeline import Pipeline
from .stages import Stage, stages_of


@dataclass(frozen=True)
class Types:
    """The type of every number that training stores or sends, a key of :data:`moe_numpy.accounting.BITS`.

    Attributes:
        weights: that are multiplied. Unless they are fp32, the optimizer has a master copy in fp32.
        gradients: of the weights, summed over the micro-batches.
        moments: both of Adam.
        activations: kept for the backward pass; logits are fp32.
        dispatch: rows on their way to experts.
        combine: answers on their way back.

    Raises:
        ValueError: a type is unknown.
    """

    weights: str = "bf16"
    gradients: str = "fp32"
    moments: str = "fp32"
    activations: str = "bf16"
    dispatch: str = "bf16"
    combine: str = "bf16"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value not in BITS:
                raise ValueError(f"{name} must be one of {', '.join(BITS)}, got {value!r}")

    @property
    def optimizer_bits(self) -> float:
        """Bits of a weight's states: master copy and two moments."""
        return 2 * BITS[self.moments] + (0 if self.weights == "fp32" else BITS["fp32"])


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
        layout: of the devices.
        micro_batches: of a step, on each device of a stage.
        sequences: of a micro-batch.
        context: tokens of a sequence.
        schedule: of the pipeline, one of :data:`SCHEDULES`.
        types: of the numbers.
        copies: what the dispatch sends, one of :data:`COPIES`.
        node_limit: nodes that a token may use; None for all.
        sharded_optimizer: ZeRO-1 (Rajbhandari et al. 2020): copies of a parameter share its states.
        recompute: what the backward pass computes again, one of :data:`RECOMPUTE`.
        overlap: whether a forward and a backward pass that run at the same time hide each other's exchange.
        imbalance: load of the fullest device, of the mean; see :func:`imbalance`.

    Raises:
        ValueError: a setting is out of range.
    """

    layout: Layout
    micro_batches: int = 1
    sequences: int = 1
    context: int = 4096
    schedule: str = "1f1b"
    types: Types = field(default_factory=Types)
    copies: str = "node"
    node_limit: int | None = None
    sharded_optimizer: bool = True
    recompute: str = "none"
    overlap: bool = True
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        require_at_least(1, self, "sequences", "context", "imbalance")
        for name, known in (("copies", COPIES), ("recompute", RECOMPUTE)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        self.pipeline  # noqa: B018 (raises)

    @property
    def tokens(self) -> int:
        """Of a micro-batch, on one device."""
        return self.sequences * self.context

    @property
    def tokens_per_step(self) -> int:
        """On all devices."""
        return self.tokens * self.micro_batches * self.layout.data_parallel

    @property
    def pipeline(self) -> Pipeline:
        """The schedule."""
        return Pipeline(self.schedule, self.layout.stages, self.micro_batches)

    def held(self, architecture: Architecture) -> list[tuple[Stage, ...]]:
        """The stages whose weights a device has, by its place in the pipeline: one, or two from opposite ends."""
        stages = stages_of(architecture, self.layout.stages, self.context)
        if self.pipeline.copies == 1:
            return [(stage,) for stage in stages]
        return list(zip(stages, reversed(stages), strict=True))

    def sent(self, architecture: Architecture) -> Links:
        """Bytes that a token sends for one sparse layer in a forward pass; the backward pass sends as much."""
        a = architecture
        if not a.num_sparse_layers:
            return Links(0.0, 0.0)
        rows = rows_sent(self.layout, a.num_experts, a.top_k, self.copies, self.node_limit)
        return bytes_sent(rows, a.d_model, self.types.dispatch, self.types.combine)
