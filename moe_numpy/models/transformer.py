"""A decoder-only transformer: attention and feed-forward layers, each dense or sparse, around a residual stream."""

import importlib
import os
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..autodiff.tensor import as_array
from ..moe import HierarchicalMoE, MoE, Routing, SoftMoE, make_layer
from ..moe.losses import balance_of_traces
from ..nn import Attention, Embedding, FeedForward, KeyValueCache, LatentAttention, Linear, Module, PatchEmbedding
from ..nn.padding import padding_of
from ..nn.patch_embedding import PATCH
from ..ops import Affine, Cast, Concatenate
from ..typing import Array, Bool, Float, Int, Random
from .transformer_config import Heads, Layer, Sparse, TransformerConfig


@dataclass(frozen=True)
class Output:
    """Logits for the next token, and how each layer routed; None for a layer without a router.

    ``balance_coefficient`` is that of the configuration.
    """

    logits: Float[Tensor, "B S V"]
    routings: tuple[Routing | None, ...]
    balance_coefficient: float = 0.0

    @property
    def auxiliary_loss(self) -> Tensor | None:
        """The sum of the auxiliary losses of and over the layers, coefficients included; None where there are none."""
        total = None
        traces = [routing.trace for routing in self.routings if routing is not None]
        if self.balance_coefficient and traces:
            total = self.balance_coefficient * balance_of_traces(traces)
        for routing in self.routings:
            if routing is not None and routing.auxiliary_loss is not None:
                total = routing.auxiliary_loss if total is None else total + routing.auxiliary_loss
        return total


@runtime_checkable
class Configuration(Protocol):
    """What a transformer can be made from: :class:`ModelConfig`, or a published model's configuration."""

    @property
    def transformer(self) -> TransformerConfig:
        """The model, layer by layer."""


class Block(Module):
    """h = x + m Attention(norm(x)); y = h + m FeedForward(norm(h)): pre-norm, as in Llama and Mixtral.

    Or post-norm, h = x + m norm(Attention(x)), y = h + m norm(FeedForward(h)). m is 1 except in Granite.
    """

    def __init__(self, config: TransformerConfig, layer: Layer, *, rng: Random, dtype: Any):
        d, settings = config.d_model, {"rng": rng, "dtype": dtype}
        self.norm_first, self.multiplier = config.norm_first, config.residual_multiplier
        self.attention_norm = config.norm.of_width(d, **settings)
        self.attention: Attention | LatentAttention
        heads = layer.attention
        if isinstance(heads, Heads):
            self.attention = Attention(d, heads.num_heads, heads.num_kv_heads, heads.d_head, heads.parts, **settings)
        else:
            self.attention = LatentAttention(d, heads.num_heads, heads.parts, **settings)
        self.feed_forward_norm = config.norm.of_width(d, **settings)
        self.feed_forward: MoE | HierarchicalMoE | SoftMoE | FeedForward
        part = layer.feed_forward
        if isinstance(part, Sparse):
            self.feed_forward = make_layer(part.recipe, d, part.d_ff, part.num_experts, **settings)
        else:
            self.feed_forward = FeedForward(d, part.d_ff, part.bias, **settings)

    def forward(
        self,
        x: Float[Tensor, "B S d"],
        tokens: Int[Array, "B S"],
        cache: KeyValueCache | None,
        rng: Random | None,
        mask: Bool[Array, "B S"] | None,
        modality: Int[np.ndarray, "B S"] | None = None,
    ) -> tuple[Float[Tensor, "B S d"], Routing | None]:
        """The new residual stream, and the routing of this layer."""
        attended = self.attention(self.before(self.attention_norm, x), cache=cache, mask=mask)
        h = self.added(x, self.after(self.attention_norm, attended))
        normed = self.before(self.feed_forward_norm, h)
        if isinstance(self.feed_forward, FeedForward):
            y, routing = self.feed_forward(normed), None
        elif modality is not None:
            y, routing = self.feed_forward(normed, rng, tokens, mask, modality)
        else:
            y, routing = self.feed_forward(normed, rng, tokens, mask)
        return self.added(h, self.after(self.feed_forward_norm, y)), routing

    def before(self, norm: Any, x: Any) -> Any:
        """The input of a part; x and the norm may be of arrays."""
        return norm(x) if self.norm_first else x

    def after(self, norm: Any, x: Any) -> Any:
        """The answer of a part."""
        return x if self.norm_first else norm(x)

    def added(self, x: Any, more: Any) -> Any:
        """The residual stream with an answer."""
        return x + (more if self.multiplier == 1 else self.multiplier * more)


class Transformer(Module):
    """Embedding, blocks, a final norm, and an output matrix, by default not tied to the embedding.

    Args:
        config: the sizes, a :class:`ModelConfig`, or anything with a :class:`TransformerConfig` as ``transformer``.
        rng: draws the weights.
        dtype: of the weights.
    """

    def __init__(self, config: Configuration, *, rng: Random, dtype: Any = np.float32):
        self.config, self.parts = config, config.transformer
        self.activations: Any = None  # their type, if it is not that of the embedding
        parts, settings = self.parts, {"rng": rng, "dtype": dtype}
        self.embedding = Embedding(parts.vocab_size, parts.d_model, **settings)
        self.patch_embedding: PatchEmbedding | None = None
        if parts.images is not None:
            self.patch_embedding = PatchEmbedding(*parts.images, parts.d_model, **settings)
        self.layers = [Block(parts, layer, **settings) for layer in parts.layers]
        self.norm = parts.norm.of_width(parts.d_model, **settings)
        self.output: Linear | None = None
        if not parts.tied:
            # Small, so that the first predictions are nearly uniform and the first loss is near ln V.
            self.output = Linear(parts.d_model, parts.vocab_size, bias=parts.output_bias, std=0.02, **settings)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, *, dtype: Any = None, memory: int | None = None
    ) -> "Transformer":
        """A published model; see :func:`moe_numpy.pretrained.from_pretrained`."""
        pretrained: Any = importlib.import_module("moe_numpy.pretrained")  # a room behind this one
        model: Transformer = pretrained.from_pretrained(folder, dtype=dtype, memory=memory)
        return model

    def forward(
        self,
        tokens: Int[Array, "B S"] | list[list[int]],
        *,
        caches: list[KeyValueCache] | None = None,
        rng: Random | None = None,
        mask: Bool[Array, "B S"] | None = None,
        images: Float[Array, "N H W"] | None = None,
    ) -> Output:
        """Logits at every position.

        Args:
            tokens: token ids in [0, vocab_size), also as a list of lists.
            caches: from :meth:`new_caches`; ``tokens`` then continue the sequence that they hold.
            rng: for the routers' noise in training.
            mask: True for real tokens; padding may be anywhere and have any id. Logits and auxiliary losses are those
                without padding. Padded positions have logits too: leave them out of the loss, with the
                ``ignore_index`` of :class:`moe_numpy.ops.CrossEntropy`.
            images: those whose patches stand where the token id is :data:`moe_numpy.nn.patch_embedding.PATCH`, in the
                order of the tokens; the ids are an array of NumPy then.

        Raises:
            TypeError: the ids are not integers, or the mask is not boolean.
            ValueError: the tokens are not a batch of sequences, a sequence is longer than the context, or the mask has
                another shape or comes with caches, the caches are not one per layer, or the patches do not fit.
        """
        x, routings = self.hidden(tokens, caches, rng, mask, images)
        return Output(self._logits(x), routings, self.parts.balance_coefficient)

    def hidden(
        self,
        tokens: Int[Array, "B S"] | list[list[int]],
        caches: list[KeyValueCache] | None = None,
        rng: Random | None = None,
        mask: Bool[Array, "B S"] | None = None,
        images: Float[Array, "N H W"] | None = None,
    ) -> tuple[Float[Tensor, "B S d"], tuple[Routing | None, ...]]:
        """What the logits are computed from, and the routings: :meth:`forward` without V numbers per token."""
        tokens = self._ids(tokens)
        padding = padding_of(mask, tokens.shape)
        mask = None if padding is None else padding.mask  # on the host: the layers do not wait for it again
        if mask is not None:
            tokens = self.namespace.where(self.namespace.asarray(mask), tokens, 0)
        if caches is not None and len(caches) != len(self.layers):
            raise ValueError(f"caches must be one per layer, {len(self.layers)}, got {len(caches)}")
        length = tokens.shape[1] + (caches[0].length if caches else 0)
        if length > self.context:
            raise ValueError(f"a sequence of {length} tokens does not fit context={self.context}")
        modality = None
        if images is None:
            x = self.embedding(tokens)
        else:
            modality = (tokens == PATCH).astype(np.int64)
            tokens = np.where(modality, 0, tokens)
            x = self._with_patches(self.embedding(tokens), modality, images)
        if self.activations is not None:
            x = Cast.apply(x, dtype=self.activations)
        if self.parts.embedding_multiplier != 1:
            x = self.parts.embedding_multiplier * x
        routings = []
        for i, layer in enumerate(self.layers):
            x, routing = layer(x, tokens, caches[i] if caches else None, rng, mask, modality)
            routings.append(routing)
        return self.norm(x), tuple(routings)

    def _with_patches(
        self, x: Float[Tensor, "B S d"], modality: Int[np.ndarray, "B S"], images: Float[Array, "N H W"]
    ) -> Float[Tensor, "B S d"]:
        """The residual stream with patches in their places."""
        if self.patch_embedding is None:
            raise ValueError("this model was made without images")
        patches, d = self.patch_embedding(images), x.shape[2]
        places = np.flatnonzero(modality)
        if len(places) != patches.shape[0] * patches.shape[1]:
            raise ValueError(f"{len(places)} tokens are patches, but {len(images)} images have {patches.shape[1]} each")
        row = np.arange(modality.size)
        row[places] = modality.size + np.arange(len(places))
        rows: Tensor = Concatenate.apply(x.reshape(-1, d), patches.reshape(-1, d), axis=0)[row]
        return rows.reshape(*x.shape)

    def _logits(self, x: Float[Tensor, "B S d"]) -> Float[Tensor, "B S V"]:
        logits = Affine.apply(x, self.embedding.weight, None) if self.output is None else self.output(x)
        return logits if self.parts.logit_divisor == 1 else logits / self.parts.logit_divisor

    def _ids(self, tokens: Any) -> Int[Array, "B S"]:
        if isinstance(tokens, Tensor):
            tokens = tokens.data
        elif isinstance(tokens, list | tuple):
            tokens = self.namespace.asarray(as_array(tokens))
            tokens = tokens if tokens.size else tokens.astype(int)
        if not hasattr(tokens, "dtype"):
            raise TypeError(f"tokens must be an array of ids, of shape [B, S], got {tokens!r:.60}")
        if tokens.ndim != 2:
            raise ValueError(
                f"tokens must be a batch of sequences, of shape [B, S], got shape {tokens.shape}"
                + ("; one sequence is tokens[None, :], or [tokens]" if tokens.ndim == 1 else "")
            )
        return tokens

    def new_caches(self, batch_size: int) -> list[KeyValueCache]:
        """An empty key/value cache for each layer, for at most as many tokens as the context."""
        settings = batch_size, self.context, self.activations or self.embedding.weight.dtype, self.namespace
        return [layer.attention.new_cache(*settings) for layer in self.layers]

    @property
    def context(self) -> int:
        """The longest sequence, in tokens."""
        return self.parts.context

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.parts.vocab_size

    @property
    def routed_layers(self) -> list[int]:
        """The indices of the layers with a router."""
        return [i for i, layer in enumerate(self.layers) if _router(layer) is not None]

    @property
    def num_routes(self) -> int:
        """The options of a router: experts, zero-computation ones included, or groups; 0 without routers."""
        return max((_routes(self.layers[i]) for i in self.routed_layers), default=0)

    @property
    def namespace(self) -> Any:
        """The array library of the parameters; token ids must be its arrays too."""
        return array_namespace(self.embedding.weight.data)

    def active_parameters(self) -> int:
        """Parameters used per token: all but the idle experts'. Layers that share their experts count once."""
        sparse = {
            id(getattr(layer.feed_forward, "experts", layer.feed_forward)): layer.feed_forward
            for layer in self.layers
            if not isinstance(layer.feed_forward, FeedForward)
        }
        idle = sum(layer.num_parameters() - layer.active_parameters() for layer in sparse.values())
        return self.num_parameters() - idle


def _routes(layer: Block) -> int:
    """The options of the routers of a layer that has one."""
    part = layer.feed_forward
    return part.num_routes if isinstance(part, MoE) else _router(layer).num_experts


def _router(layer: Block) -> Any:
    """The router of a layer; None for a dense one and Soft MoE."""
    return getattr(layer.feed_forward, "router", None)
