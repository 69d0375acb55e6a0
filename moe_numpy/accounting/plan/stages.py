"""The layers of a model, cut into the stages of a pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..architecture import Architecture
from ..layers import Entries


@dataclass(frozen=True)
class Stage:
    """What a stage of the pipeline holds and computes.

    Attributes:
        layers: its layers, from 0.
        sparse_layers: how many of them have experts.
        dense: parameters of all but the experts; every device of the stage has them.
        experts: parameters of the experts of all its layers; the devices share them.
        scores: multiply-adds of a token's attention scores.
        active_experts: multiply-adds of a token's experts.
    """

    layers: range
    sparse_layers: int
    dense: Entries
    experts: Entries
    scores: float
    active_experts: int

    @property
    def forward_flops(self) -> float:
        """FLOPs of one token's forward pass; a multiply-add is two."""
        return 2 * (self.dense.multiplied + self.scores + self.active_experts)


def stages_of(architecture: Architecture, stages: int, context: int) -> list[Stage]:
    """The layers in neighbouring groups, so that the most expensive stage is as cheap as possible; then as even.

    The embedding is in the first stage, the last norm and the output matrix in the last. A matrix that serves as both
    is in both. Scores are those of an average token of ``context``, and spread evenly over the layers.

    Raises:
        ValueError: the model has an encoder, there are more stages than layers, or context is below 1.
    """
    a = architecture
    if a.num_encoder_layers:
        raise ValueError(f"plans are made for models without an encoder, got one of {a.num_encoder_layers} layers")
    if not 1 <= stages <= a.num_layers:
        raise ValueError(f"stages must be between 1 and the {a.num_layers} layers of the model, got {stages}")
    if context < 1:
        raise ValueError(f"context must be at least 1 token, got {context}")
    scores = a.attention.score_multiply_adds * _mean_keys(a, context) / a.num_layers
    active = [_expert(a, i).multiplied * a.top_k for i in range(a.num_layers)]
    costs = [_outside_experts(a, i).multiplied + active[i] + round(scores) for i in range(a.num_layers)]
    matrix = a.d_model * a.vocab_size
    costs[-1] += matrix
    table = Entries(other=a.relative_positions * a.attention.num_heads)
    found = []
    for layers in evenly_cut(costs, stages):
        dense = sum((_outside_experts(a, i) for i in layers), Entries())
        if layers.start == 0:
            dense += table + Entries(other=0 if a.tied_embeddings and stages == 1 else matrix)
        if layers.stop == a.num_layers:
            dense += Entries(matrix, a.d_model)
        found.append(
            Stage(
                layers,
                sparse_layers=sum(a.is_sparse(i, a.num_layers) for i in layers),
                dense=dense,
                experts=sum((_expert(a, i) * a.num_experts for i in layers), Entries()),
                scores=scores * len(layers),
                active_experts=sum(active[i] for i in layers),
            )
        )
    return found


def evenly_cut(costs: Sequence[int], parts: int) -> list[range]:
    """Neighbouring groups of the costs, none empty, with the smallest largest sum; among those, of squares of sums."""
    before = [0]
    for cost in costs:
        before.append(before[-1] + cost)
    # best[n]: largest sum, sum of squares and ends of the groups, for the first n costs
    best: list[tuple[int, int, tuple[int, ...]] | None] = [(0, 0, ())] + [None] * len(costs)
    for _ in range(parts):
        grown: list[tuple[int, int, tuple[int, ...]] | None] = [None] * len(best)
        for end in range(1, len(best)):
            options = (
                (max(left[0], before[end] - before[i]), left[1] + (before[end] - before[i]) ** 2, (*left[2], end))
                for i, left in enumerate(best[:end])
                if left is not None
            )
            grown[end] = min(options, default=None)
        best = grown
    whole = best[-1]
    assert whole is not None, "there are at least as many costs as parts"
    return [range(a, b) for a, b in zip((0, *whole[2][:-1]), whole[2], strict=True)]


def _mean_keys(a: Architecture, context: int) -> float:
    """The mean of ``keys_attended`` over the tokens of a sequence: (S + 1)/2 a layer; local ones see w at most."""
    near = min(context, a.attention_window or context)
    local = near - near * (near - 1) / (2 * context)
    return (a.num_layers - a.num_local_layers) * (context + 1) / 2 + a.num_local_layers * local


def _outside_experts(a: Architecture, layer: int) -> Entries:
    """Attention, its norms, and the dense network or the router and the shared expert."""
    d = a.d_model
    entries = a.attention.entries(d) + a.attention.norms() + Entries(other=2 * d)
    if not a.is_sparse(layer, a.num_layers):
        assert a.feed_forward is not None
        return entries + a.feed_forward.entries(d)
    shared = a.shared_expert.entries(d) + Entries(a.shared_expert_gate * d) if a.shared_expert else Entries()
    return entries + Entries(d * a.num_experts, a.router_bias * a.num_experts) + shared


def _expert(a: Architecture, layer: int) -> Entries:
    """One expert of a layer; nothing in a dense one."""
    return a.expert.entries(a.d_model) if a.expert and a.is_sparse(layer, a.num_layers) else Entries()
