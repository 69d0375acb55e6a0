"""Models whose experts are added, dropped or merged after training, and what became of each expert's number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..instruments.layer_inputs import layer_inputs
from ..models import ModelConfig, Transformer
from ..moe import MoE
from ..moe.expert_stacks import expert_tensors, require_replaceable, take_experts
from ..moe.merging import merge_into
from ..moe.new_rows import new_rows
from ..moe.selection import FixedK
from ..nn import FeedForward
from ..nn.module import Unfilled
from ..typing import Array, Float, Int
from .expert_patterns import Chosen, experts_of, moe_layers, patterns_of
from .model_settings import ModelSettings


@dataclass(frozen=True, eq=False)
class Changed:
    """A model with other experts.

    Attributes:
        config: its configuration.
        model: itself.
        entries: by layer, the number in the old model of each expert; of a new one, that of the expert it copies.
        num_kept: how many of them are old; the others are new.
    """

    config: ModelConfig
    model: Transformer
    entries: Mapping[int, Sequence[int]]
    num_kept: int

    def renamed(self, old: Transformer, patterns: Sequence[str]) -> list[str]:
        """LAYER:EXPERTS of the old model as those of this one; what is no such pattern stays."""
        found = []
        for pattern in patterns:
            if ":" not in pattern:
                found.append(pattern)
                continue
            chosen = experts_of(old, pattern)
            kept = {i: self.entries[i][: self.num_kept] for i in chosen}
            now = {i: {new for new, was in enumerate(kept[i]) if was in chosen[i]} for i in chosen}
            found += patterns_of(now, self.entries.keys())
        return found


def require_changeable(config: ModelSettings, model: Transformer) -> ModelConfig:
    """The configuration of a model whose experts may change. ValueError for any other."""
    if not isinstance(config, ModelConfig):
        raise ValueError("the experts of a published model stay as they are; this is for models that were made here")
    if not config.num_experts:
        raise ValueError("the model is dense: it has no experts")
    for layer in model.layers:
        if not isinstance(layer.feed_forward, FeedForward):
            require_replaceable(layer.feed_forward)
    return config


def with_experts(config: ModelConfig, model: Transformer, entries: Mapping[int, Sequence[int]], kept: int) -> Changed:
    """The model with the experts ``entries`` of each layer, in this order, as copies.

    Raises:
        ValueError: the layers would have different numbers of experts, too few for the router, or one that cannot be
            taken apart.
    """
    counts = {i: len(of_layer) for i, of_layer in entries.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"layer {i} would have {count}" for i, count in counts.items())
        raise ValueError(f"all layers need the same number of experts: {listed}; name as many in each layer")
    dense = config.active_width if config.dense_d_ff is None and config.moe_every > 1 else config.dense_d_ff
    changed_config = replace(config, num_experts=next(iter(counts.values())), dense_d_ff=dense)  # refuses too few
    changed = Transformer(changed_config, rng=Unfilled())
    for i, layer in moe_layers(changed).items():
        take_experts(layer, moe_layers(model)[i], entries[i])
    of_experts = {id(tensor) for layer in moe_layers(changed).values() for tensor in expert_tensors(layer)}
    theirs = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in [*changed.named_parameters(), *changed.named_buffers()]:
        if id(tensor) not in of_experts:
            tensor.data = theirs[name].data.copy()
    return Changed(changed_config, changed, entries, kept)


def without_experts(config: ModelConfig, model: Transformer, dropped: Chosen) -> Changed:
    """The model without some experts; errors as of :func:`with_experts`."""
    layers = moe_layers(model)
    entries = {i: [e for e in range(layer.num_experts) if e not in dropped.get(i, ())] for i, layer in layers.items()}
    return with_experts(config, model, entries, min(map(len, entries.values())))


def least_used(use: Mapping[int, Float[Array, " E"]], count: int) -> Chosen:
    """The ``count`` experts of each layer with the smallest load, gate mass or contribution."""
    return {i: frozenset(np.argsort(of_layer, kind="stable")[:count].tolist()) for i, of_layer in use.items()}


def least_into_nearest(
    mass: Mapping[int, Float[Array, " E"]], alike: Mapping[int, Float[Array, "E E"]], count: int
) -> dict[int, list[tuple[int, int]]]:
    """Pairs (kept, other): the ``count`` experts with the least gate mass, each with the most similar that is left.

    ValueError if there are not enough experts for pairs without a common one.
    """
    pairs: dict[int, list[tuple[int, int]]] = {}
    for i, least in least_used(mass, count).items():
        if 2 * count > len(mass[i]):
            raise ValueError(f"{count} pairs need {2 * count} experts, layer {i} has {len(mass[i])}")
        left = alike[i].copy()
        left[:, sorted(least)] = -np.inf
        pairs[i] = []
        for other in sorted(least, key=lambda e: (mass[i][e], e)):
            kept = int(left[other].argmax())
            left[:, kept] = -np.inf
            pairs[i].append((kept, other))
    return pairs


def with_merged(
    config: ModelConfig,
    model: Transformer,
    pairs: Mapping[int, Sequence[tuple[int, int]]],
    mass: Mapping[int, Float[Array, " E"]],
    *,
    align: bool = True,
) -> Changed:
    """The model with each pair (kept, other) as one expert, weighted by their gate mass; see :func:`merge_into`."""
    layers = moe_layers(model)
    entries = {i: list(range(layer.num_experts)) for i, layer in layers.items()}
    copied = with_experts(config, model, entries, config.num_experts)
    for i, of_layer in pairs.items():
        for kept, other in of_layer:
            both = mass[i][kept] + mass[i][other]
            share = float(mass[i][kept] / both) if both else 0.5
            merge_into(moe_layers(copied.model)[i], kept, other, share, align=align)
    merged = {i: frozenset(other for _, other in of_layer) for i, of_layer in pairs.items()}
    return without_experts(config, copied.model, merged)


def with_new_experts(
    config: ModelConfig,
    model: Transformer,
    count: int,
    old: Int[Array, "B S"],
    new: Int[Array, "B S"],
    *,
    unused: float = 0.01,
    rng: np.random.Generator,
) -> Changed:
    """The model with ``count`` more experts in each layer, for the domain of ``new``; on old text nearly the same.

    Each begins as a copy of another expert, the ones that the new domain chooses most: copies of one expert would tie
    with each other. Its row of the router is that of :func:`moe_numpy.moe.new_rows.new_rows`, not the original's, since
    twins that tie take both places of a top-2 choice. Auxiliary losses with the setting ``balance`` are switched off:
    they would send old text to the new experts.

    Raises:
        ValueError: the routers do not choose k experts per token by their logits alone, or there are fewer experts than
            new ones.
    """
    if not 1 <= count <= config.num_experts:
        raise ValueError(f"count must be between 1 and the {config.num_experts} experts there are, got {count}")
    heard_old, heard_new = layer_inputs(model, old), layer_inputs(model, new)
    entries, rows = {}, {}
    for i, layer in moe_layers(model).items():
        k = _per_token(layer)
        (x_old, of_old), (x_new, of_new) = heard_old[i], heard_new[i]
        bars = [np.sort(routing.trace.logits.data, axis=1)[:, -k] for routing in (of_old, of_new)]
        rows[i] = new_rows(count, x_old, x_new, *bars, unused=unused, rng=rng)
        loads = of_new.statistics.load[: layer.num_experts]
        originals = np.argsort(-loads, kind="stable")[:count].tolist()
        entries[i] = [*range(layer.num_experts), *originals]
    changed = with_experts(_unbalanced(config), model, entries, config.num_experts)
    for i, layer in moe_layers(changed.model).items():
        where = slice(config.num_experts, config.num_experts + count)
        layer.router.weight.data[where] = rows[i]
        for other in (layer.router.bias, layer.router.noise_weight):
            if other is not None:
                other.data[where] = 0
    return changed


def _per_token(layer: MoE) -> int:
    router = layer.router.config
    if not isinstance(router.selection, FixedK) or router.balancer is not None:
        raise ValueError(
            "experts can be added where each token takes k of them by its logits alone; this router chooses "
            f"{router.selection.words}" + ("" if router.balancer is None else f" with {router.balancer.words}")
        )
    return router.selection.k


def _unbalanced(config: ModelConfig) -> ModelConfig:
    """Without the balance loss, where the recipe has a setting for it."""
    try:
        return replace(config, recipe_settings={**config.recipe_settings, "balance": 0.0})
    except ValueError:
        return config
