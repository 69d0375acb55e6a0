"""Which experts the tokens of a text choose in each layer of a model: what all tables and figures of it count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import no_grad
from ..kernels import to_host
from ..models import Transformer
from ..moe import Routing
from ..typing import Array, Float, Int


@dataclass(frozen=True, eq=False)
class TextWindow:
    """A piece of text that the model reads alone.

    Attributes:
        ids: its tokens.
        domain: the number of the kind of text that it comes from.
        lead: how many ids at its begin are not of the text, such as ``<s>``; they are read and not counted.
    """

    ids: Int[Array, " S"]
    domain: int = 0
    lead: int = 0


@dataclass(frozen=True, eq=False)
class Choices:
    """What the N tokens of a text asked for in one layer: token ``token[a]`` for expert ``expert[a]``.

    Attributes:
        token, expert: the pairs, dropped ones included; tokens ascend.
        first: the expert of each token's largest gate weight; -1 for a token without any.
        dropped: how many assignments each expert had no place for.
    """

    token: Int[Array, " A"]
    expert: Int[Array, " A"]
    first: Int[Array, " N"]
    dropped: Int[Array, " E"]


@dataclass(frozen=True, eq=False)
class RoutedText:
    """N tokens, window after window, and their choices in layers of E experts.

    It holds a few small integers per choice, whatever the vocabulary is.

    Attributes:
        ids: the tokens.
        before: the token before each; -1 for the first of a window.
        domain: of each token.
        window: the number of its window.
        position: in its window.
        layers: which layers of the model they are.
        num_experts: E.
        choices: one per layer.
    """

    ids: Int[Array, " N"]
    before: Int[Array, " N"]
    domain: Int[Array, " N"]
    window: Int[Array, " N"]
    position: Int[Array, " N"]
    layers: tuple[int, ...]
    num_experts: int
    choices: tuple[Choices, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def counts(self, label: Int[Array, " N"], num_labels: int) -> Int[Array, "layers labels E"]:
        """How often tokens of each label, counted from 0, asked for each expert."""
        size = num_labels * self.num_experts
        flat = [np.bincount(label[c.token] * self.num_experts + c.expert, minlength=size) for c in self.choices]
        return np.stack(flat).reshape(len(self.choices), num_labels, self.num_experts)

    @property
    def load(self) -> Int[Array, "layers E"]:
        """How often each expert was asked for."""
        return self.counts(np.zeros(len(self), np.int64), 1)[:, 0]

    @property
    def dropped(self) -> Int[Array, "layers E"]:
        """How many assignments each expert had no place for."""
        return np.stack([c.dropped for c in self.choices])


def shares(counts: Int[Array, "*rows E"]) -> Float[Array, "*rows E"]:
    """Each expert's share of its row; rows sum to 1, or to 0 without any count."""
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)


def route_text(
    model: Transformer,
    windows: Sequence[TextWindow],
    batch_size: int,
    done: Callable[[int], None] = lambda tokens: None,
) -> RoutedText:
    """Run a model over windows, without noise; logits are not computed.

    Windows of a batch that differ in length are padded, and padding is not routed. They stay in order: which tokens
    exceed a capacity depends on which windows share the batch.

    Args:
        model: with at least one router.
        windows: none longer than the model's context.
        batch_size: windows at once.
        done: called after each batch with the number of counted tokens so far.

    Raises:
        ValueError: there is no window, or the model has no router.
    """
    if not windows or not model.routed_layers:
        raise ValueError("there is no text to route" if not windows else "the model is dense: nothing is routed")
    was_training = model.training
    model.eval()
    parts: list[list[Choices]] = [[] for _ in model.routed_layers]
    counted = 0
    try:
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            for part, choices in zip(parts, _of_batch(model, batch), strict=True):
                part.append(choices)
            counted += sum(len(w.ids) - w.lead for w in batch)
            done(counted)
    finally:
        model.train(was_training)
    whole = [np.asarray(w.ids) for w in windows]
    lengths = [len(w.ids) - w.lead for w in windows]
    return RoutedText(
        ids=np.concatenate([ids[w.lead :] for ids, w in zip(whole, windows, strict=True)]),
        before=np.concatenate([np.r_[-1, ids[:-1]][w.lead :] for ids, w in zip(whole, windows, strict=True)]),
        domain=np.repeat([w.domain for w in windows], lengths),
        window=np.repeat(np.arange(len(windows)), lengths),
        position=np.concatenate([np.arange(w.lead, len(w.ids)) for w in windows]),
        layers=tuple(model.routed_layers),
        num_experts=model.num_routes,
        choices=tuple(_joined(part) for part in parts),
    )


def _of_batch(model: Transformer, batch: Sequence[TextWindow]) -> list[Choices]:
    """The choices in each layer; the scores of all experts are forgotten."""
    is_text = np.concatenate([np.arange(len(w.ids)) >= w.lead for w in batch])
    number = np.where(is_text, np.cumsum(is_text) - 1, -1)
    with no_grad():
        _, routings = model.hidden(*_padded(model, batch))
    return [_choices(routing, number, model.num_routes) for routing in routings if routing is not None]


def _padded(model: Transformer, batch: Sequence[TextWindow]) -> tuple[Any, Any, Any, Any]:
    """The arguments of ``hidden``: tokens [B, S], no caches, no rng, and a mask if lengths differ."""
    longest = max(len(w.ids) for w in batch)
    tokens, mask = np.zeros((len(batch), longest), np.int64), np.zeros((len(batch), longest), bool)
    for row, window in enumerate(batch):
        tokens[row, : len(window.ids)] = window.ids
        mask[row, : len(window.ids)] = True
    return model.namespace.asarray(tokens), None, None, None if mask.all() else mask


def _choices(routing: Routing, number: Int[Array, " T"], num_experts: int) -> Choices:
    """Of the real tokens of a batch; ``number`` is each one's, from 0, and negative for one that does not count."""
    asked = routing.trace.candidates  # numbered without padding
    token, expert, gate = (to_host(a) for a in (asked.token, asked.expert, routing.trace.gate.data))
    kept = number[token] >= 0
    if asked.sent is not None:
        kept &= to_host(asked.sent)
    token, expert, gate = number[token[kept]], expert[kept], gate[kept]
    order = np.lexsort((expert, -gate, token))
    token, expert = token[order].astype(np.int32), expert[order].astype(np.int16)
    first = np.full(np.count_nonzero(number >= 0), -1, np.int16)
    which, at = np.unique(token, return_index=True)
    first[which] = expert[at]
    lost = to_host(routing.statistics.dropped.expert)
    return Choices(token, expert, first, np.bincount(lost, minlength=num_experts))


def _joined(parts: Sequence[Choices]) -> Choices:
    """Those of all batches, numbered on."""
    sizes = [len(part.first) for part in parts]
    before = np.repeat(np.cumsum(sizes) - sizes, [len(part.token) for part in parts])
    token, expert, first = (np.concatenate([getattr(p, name) for p in parts]) for name in ("token", "expert", "first"))
    return Choices(token + before.astype(np.int32), expert, first, np.sum([p.dropped for p in parts], axis=0))
