"""Where the time of a training step goes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from ..architecture import Architecture
from ..costs import in_bytes
from .exchange import Links
from .stages import Stage
from .training import Training


@dataclass(frozen=True)
class Hardware:
    """A device and its links.

    Attributes:
        peak: FLOPs per second of a device.
        utilisation: share of the peak that multiplications reach while nothing else delays them.
        within: bytes per second that a device sends to others of its node.
        between: bytes per second that it sends to other nodes.

    Raises:
        ValueError: a number is not positive, or utilisation exceeds 1.
    """

    peak: float
    utilisation: float
    within: float
    between: float

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < getattr(self, field.name) < float("inf"):
                raise ValueError(f"{field.name} must be positive, got {getattr(self, field.name)}")
        if self.utilisation > 1:
            raise ValueError(f"utilisation must be at most 1, got {self.utilisation}")

    def seconds(self, sent: Links) -> float:
        """Of sending these bytes: links of both kinds work at the same time, and the slower one decides."""
        return max(sent.within / self.within, sent.between / self.between)


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step. Each part is what it adds to those before it.

    Attributes:
        compute: multiplications, on average over the stages, with evenly loaded devices.
        exchange: all-to-all that no computation hides, likewise.
        slowest_stage: all wait for the most expensive stage.
        fullest_device: and there for the device whose experts have most to do.
        bubble: the pipeline fills and empties.
        gradients: sent between the copies of the weights.
    """

    compute: float
    exchange: float
    slowest_stage: float
    fullest_device: float
    bubble: float
    gradients: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(getattr(self, field.name) for field in fields(self))


def training_flops(architecture: Architecture, training: Training) -> float:
    """FLOPs of a token, forward and backward: 3 · forward. What is computed again does not count."""
    held = training.held(architecture)
    return 3 * sum(stage.forward_flops for own in held for stage in own) / training.pipeline.copies


def step_time(architecture: Architecture, training: Training, hardware: Hardware) -> StepTime:
    """The time of a step of m micro-batches of t tokens.

    In a stage with ℓ sparse layers a micro-batch takes

        F_c = t · FLOPs of a forward pass / (peak · utilisation)      B_c = 2 F_c; 3 F_c with layers computed again
        F_x = B_x = t · ℓ · seconds of what a token sends for a layer
        F&B = max(F_c + B_c, F_x + B_x) if they overlap, else their sum

        step = m F&B + bubble(F_c + F_x, B_c + B_x, F_c, F&B) + gradients

    of the slowest stage; nothing hides the exchange in the bubble. A device of DualPipe works half its time for each of
    its two stages. On the fullest device the experts' FLOPs and the exchange are ``imbalance`` times the average.
    Gradients are reduced and weights gathered once a step in rings of the R copies, over links between nodes if a stage
    is on several: (R - 1)/R · (bytes of gradients + bytes of weights), or twice the gradients without a sharded
    optimizer.

    Not counted: rows between stages, arithmetic other than multiplications, the optimizer's, latency, and what is
    computed again with ``recompute="cheap"``.

    Raises:
        ValueError: the model has an encoder, or fewer layers than stages.
    """
    a, m = architecture, training.micro_batches
    passes = 4 if training.recompute == "layers" else 3
    speed = hardware.peak * hardware.utilisation
    layer_seconds = training.tokens * hardware.seconds(training.sent(a))

    def forward(own: Sequence[Stage], load: float) -> tuple[float, float]:
        """Of computing and of exchanging."""
        flops = fmean(stage.forward_flops + 2 * (load - 1) * stage.active_experts for stage in own)
        layers = fmean(stage.sparse_layers for stage in own)
        return training.tokens * flops / speed, layers * layer_seconds * load

    def both(own: Sequence[Stage], load: float) -> float:
        compute, exchange = forward(own, load)
        return max(passes * compute, 2 * exchange) if training.overlap else passes * compute + 2 * exchange

    held = training.held(a)
    average, slowest = fmean(both(own, 1.0) for own in held), max(both(own, 1.0) for own in held)
    computing = fmean(passes * forward(own, 1.0)[0] for own in held)
    last = max(held, key=lambda own: both(own, training.imbalance))
    fullest = both(last, training.imbalance)
    alone, exchange = forward(last, training.imbalance)
    return StepTime(
        compute=m * computing,
        exchange=m * (average - computing),
        slowest_stage=m * (slowest - average),
        fullest_device=m * (fullest - slowest),
        bubble=training.pipeline.bubble(alone + exchange, (passes - 1) * alone + exchange, alone, fullest),
        gradients=max(_gradient_seconds(training, hardware, own) for own in held),
    )


def exchange_seconds(architecture: Architecture, training: Training, hardware: Hardware) -> float:
    """All-to-all of a step on the average device, hidden or not: m · t · 2 · sparse layers / P · seconds of a layer."""
    layers = architecture.num_sparse_layers / training.layout.stages
    sent = hardware.seconds(training.sent(architecture))
    return training.micro_batches * training.tokens * 2 * layers * sent


def _gradient_seconds(training: Training, hardware: Hardware, own: Sequence[Stage]) -> float:
    layout, types = training.layout, training.types
    link = hardware.between if layout.data_parallel > layout.devices_per_node else hardware.within
    dense = sum(stage.dense.total for stage in own)
    routed = sum(stage.experts.total for stage in own) // layout.expert_parallel
    seconds = 0.0
    for parameters, copies in ((dense, layout.data_parallel), (routed, layout.expert_replicas)):
        among = copies * training.pipeline.copies
        back = types.weights if training.sharded_optimizer else types.gradients
        sent = in_bytes(parameters, types.gradients) + in_bytes(parameters, back)
        seconds += (among - 1) / among * sent / link
    return seconds
