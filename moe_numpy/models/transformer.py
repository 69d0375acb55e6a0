"""A decoder-only transformer: attention and feed-forward layers, each dense or sparse, around a residual stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..autodiff.tensor import as_array
from ..moe import HierarchicalMoE, MoE, Routing, SoftMoE, make_layer
from ..nn import Attention, Embedding, FeedForward, KeyValueCache, Linear, Module, RMSNorm
from ..nn.padding import padding_of
from ..typing import Array, Bool, Float, Int, Random
from .config import ModelConfig


@dataclass(frozen=True)
class Output:
    """Logits for the next token, and how each layer routed; None for a layer without a router."""

    logits: Float[Tensor, "B S V"]
    routings: tuple[Routing | None, ...]

    @property
    def auxiliary_loss(self) -> Tensor | None:
        """The sum of the layers' auxiliary losses, coefficients included; None where there are none."""
        total = None
        for routing in self.routings:
            if routing is not None and routing.auxiliary_loss is not None:
                total = routing.auxiliary_loss if total is None else total + routing.auxiliary_loss
        return total


class Block(Module):
    """h = x + Attention(norm(x)); y = h + FeedForward(norm(h)): pre-norm, as in Llama and Mixtral."""

    def __init__(self, config: ModelConfig, sparse: bool, *, rng: np.random.Generator, dtype: Any):
        d = config.d_model
        self.attention_norm = RMSNorm(d, dtype=dtype)
        self.attention = Attention(d, config.num_heads, config.num_kv_heads, rng=rng, dtype=dtype)
        self.feed_forward_norm = RMSNorm(d, dtype=dtype)
        self.feed_forward: MoE | HierarchicalMoE | SoftMoE | FeedForward
        if sparse:
            self.feed_forward = make_layer(
                config.layer_recipe, d, config.d_ff, config.num_experts, rng=rng, dtype=dtype
            )
        else:
            width = config.d_ff if config.num_experts == 0 else config.dense_d_ff or config.active_width
            self.feed_forward = FeedForward(d, width, rng=rng, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "B S d"],
        tokens: Int[Array, "B S"],
        cache: KeyValueCache | None,
        rng: Random | None,
        mask: Bool[Array, "B S"] | None,
    ) -> tuple[Float[Tensor, "B S d"], Routing | None]:
        """The new residual stream, and the routing of this layer."""
        h = x + self.attention(self.attention_norm(x), cache=cache, mask=mask)
        normed = self.feed_forward_norm(h)
        if isinstance(self.feed_forward, FeedForward):
            return h + self.feed_forward(normed), None
        y, routing = self.feed_forward(normed, rng, tokens, mask)
        return h + y, routing


class Transformer(Module):
    """Embedding, blocks, a final norm, and an output matrix that is not tied to the embedding.

    Args:
        config: the sizes.
        rng: draws the weights.
        dtype: of the weights.
    """

    def __init__(self, config: ModelConfig, *, rng: np.random.Generator, dtype: Any = np.float32):
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.d_model, rng=rng, dtype=dtype)
        self.layers = [Block(config, config.is_sparse(i), rng=rng, dtype=dtype) for i in range(config.num_layers)]
        self.norm = RMSNorm(config.d_model, dtype=dtype)
        # Small, so that the first predictions are nearly uniform and the first loss is near ln V.
        self.output = Linear(config.d_model, config.vocab_size, std=0.02, rng=rng, dtype=dtype)

    def forward(
        self,
        tokens: Int[Array, "B S"] | list[list[int]],
        *,
        caches: list[KeyValueCache] | None = None,
        rng: Random | None = None,
        mask: Bool[Array, "B S"] | None = None,
    ) -> Output:
        """Logits at every position.

        Args:
            tokens: token ids in [0, vocab_size), also as a list of lists.
            caches: from :meth:`new_caches`; ``tokens`` then continue the sequence that they hold.
            rng: for the routers' noise in training.
            mask: True for real tokens; padding may be anywhere and have any id. Logits and auxiliary losses are those
                without padding. Padded positions have logits too: leave them out of the loss, with the
                ``ignore_index`` of :class:`moe_numpy.ops.CrossEntropy`.

        Raises:
            TypeError: the ids are not integers, or the mask is not boolean.
            ValueError: the tokens are not a batch of sequences, a sequence is longer than the context, or the mask has
                another shape or comes with caches, or the caches are not one per layer.
        """
        tokens = self._ids(tokens)
        padding = padding_of(mask, tokens.shape)
        mask = None if padding is None else padding.mask  # on the host: the layers do not wait for it again
        if mask is not None:
            tokens = self.namespace.where(self.namespace.asarray(mask), tokens, 0)
        if caches is not None and len(caches) != len(self.layers):
            raise ValueError(f"caches must be one per layer, {len(self.layers)}, got {len(caches)}")
        length = tokens.shape[1] + (caches[0].length if caches else 0)
        if length > self.config.context:
            raise ValueError(f"a sequence of {length} tokens does not fit context={self.config.context}")
        x = self.embedding(tokens)
        routings = []
        for i, layer in enumerate(self.layers):
            x, routing = layer(x, tokens, caches[i] if caches else None, rng, mask)
            routings.append(routing)
        return Output(self.output(self.norm(x)), tuple(routings))

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
        """An empty key/value cache for each layer, as long as the context."""
        config = self.config
        shape = (batch_size, config.num_kv_heads, config.context, config.d_model // config.num_heads)
        return [KeyValueCache(shape, self.embedding.weight.dtype, self.namespace) for _ in self.layers]

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
