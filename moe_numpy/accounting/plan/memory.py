"""Bytes on each device: weights, gradients, the optimizer's states, activations."""

from dataclasses import dataclass
from fractions import Fraction

from ..architecture import Architecture
from ..costs import in_bytes
from .activations import kept_numbers
from .layout import shards
from .stages import Stage
from .training import Training


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device.

    Attributes:
        place: in the pipeline, from 0.
        experts: of each sparse layer that the device holds.
        parameters: that it holds.
        weights: bytes, as are all that follow.
        gradients: summed over the micro-batches of a step.
        optimizer: its states.
        activations: kept for the backward pass.
    """

    place: int
    experts: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations


def device_memory(architecture: Architecture, training: Training) -> list[DeviceMemory]:
    """Of the devices that share one copy of the experts, for each place in the pipeline; replicas have the same.

    A device holds P_d parameters outside the experts, all of its stage, and P_e in its shard of the experts. With
    DualPipe it holds those of two stages.

        weights        (P_d + P_e) · bytes
        gradients      (P_d + P_e) · bytes
        optimizer      (P_d + P_e) · bytes, or (P_d / R_d + P_e / R_e) · bytes if sharded, with R copies of each
        activations    tokens · micro-batches in flight · Σ over layers of what :func:`kept_numbers` counts

    where each sparse layer keeps k · imbalance assignments per token, and the last stage the logits of one micro-batch
    besides. With ``recompute="layers"`` one layer at a time keeps everything. Not counted: buffers of the exchange,
    what libraries allocate, fragmentation.

    Raises:
        ValueError: the model has an encoder, or fewer layers than stages.
    """
    a, layout, types = architecture, training.layout, training.types
    found = []
    for place, own in enumerate(training.held(a)):
        activations = _activation_bytes(a, training, place, own)
        dense = sum(stage.dense.total for stage in own)
        for experts in shards(a.num_experts, layout.expert_parallel):
            routed = sum(stage.experts.total * experts // max(a.num_experts, 1) for stage in own)
            states = Fraction(dense + routed)
            if training.sharded_optimizer:
                copies = training.pipeline.copies
                states = Fraction(dense, layout.data_parallel * copies) + Fraction(
                    routed, layout.expert_replicas * copies
                )
            found.append(
                DeviceMemory(
                    place=place,
                    experts=experts,
                    parameters=dense + routed,
                    weights=in_bytes(dense + routed, types.weights),
                    gradients=in_bytes(dense + routed, types.gradients),
                    optimizer=round(states * Fraction(types.optimizer_bits) / 8),
                    activations=activations,
                )
            )
    return found


def _activation_bytes(a: Architecture, training: Training, place: int, own: tuple[Stage, ...]) -> int:
    assignments = a.top_k * training.imbalance

    def kept(sparse: bool, recompute: str) -> float:
        numbers = kept_numbers(a, sparse, recompute)
        return numbers.per_token + numbers.per_assignment * assignments

    numbers = 0.0
    for stage in own:
        for sparse, layers in ((True, stage.sparse_layers), (False, len(stage.layers) - stage.sparse_layers)):
            if layers:
                numbers += layers * kept(sparse, training.recompute)
    numbers *= training.pipeline.in_flight(place) / len(own)
    if training.recompute == "layers":
        numbers += kept(any(stage.sparse_layers for stage in own), "none")
    logits = a.vocab_size if any(stage.layers.stop == a.num_layers for stage in own) else 0
    return in_bytes(round(training.tokens * numbers), training.types.activations) + in_bytes(
        training.tokens * logits, "fp32"
    )
