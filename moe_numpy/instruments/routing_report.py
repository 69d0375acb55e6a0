"""Reading what a router learned: how far its domains are apart, kinds of bytes, and the routing of one text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import no_grad
from ..kernels import to_host
from ..models import Transformer
from ..typing import Array, Bool, Float, Int

BYTE_CLASSES = (
    ("lower case", b"abcdefghijklmnopqrstuvwxyz"),
    ("upper case", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    ("digits", b"0123456789"),
    ("space", b" "),
    ("newline", b"\n"),
    ("brackets", b"()[]{}"),
    ("quotes", b"\"'`"),
    ("operators", b"+-*/=<>%&|^~@"),
    ("punctuation", b".,:;!?_#$\\"),
)
OTHER_BYTES = "other"


@dataclass(frozen=True, eq=False)
class SentenceRouting:
    """How one text was routed, token by token. Layers with experts only, S tokens, E experts.

    Attributes:
        ids: the tokens.
        layers: which layers of the model they are.
        gate: gate weights, 0 where an expert was not asked or had no place.
        asked: whether the token asked for the expert.
    """

    ids: Sequence[int]
    layers: tuple[int, ...]
    gate: Float[Array, "layers S E"]
    asked: Bool[Array, "layers S E"]

    @property
    def first_choice(self) -> Int[Array, "layers S"]:
        """The expert of the largest gate weight; where all were dropped, the first that was asked."""
        return np.where(self.dropped, self.asked.argmax(axis=2), self.gate.argmax(axis=2))

    @property
    def dropped(self) -> Bool[Array, "layers S"]:
        """Whether a token found no expert at all."""
        return ~(self.gate > 0).any(axis=2)

    def of_layers(self, numbers: Sequence[int]) -> "SentenceRouting":
        """The same of some layers only."""
        at = [self.layers.index(number) for number in numbers]
        return SentenceRouting(self.ids, tuple(numbers), self.gate[at], self.asked[at])


def separation(domain_expert: Float[Array, "layers domains E"]) -> Float[Array, " layers"]:
    """How far apart the two most similar domains of a layer are: the least ½ Σ_e |p_e - q_e| of all pairs p, q.

    0 if two domains use the experts alike, 1 if no two share one. 0 for a single domain.
    """
    p = domain_expert
    distance = abs(p[:, :, None] - p[:, None, :]).sum(axis=3) / 2
    first, second = np.triu_indices(p.shape[1], k=1)
    return distance[:, first, second].min(axis=1) if len(first) else np.zeros(len(p))


def most_separating(domain_expert: Float[Array, "layers domains E"]) -> int:
    """The index of the layer with the largest separation."""
    return int(separation(domain_expert).argmax())


def by_byte_class(byte_expert: Int[Array, "layers V E"]) -> tuple[list[str], Float[Array, "layers classes E"]]:
    """The classes that occur, and how each class's assignments spread over experts; rows sum to 1."""
    in_class = np.zeros((len(BYTE_CLASSES) + 1, byte_expert.shape[1]), np.int64)
    for i, (_, members) in enumerate(BYTE_CLASSES):
        in_class[i, list(members)] = 1
    in_class[-1] = in_class.sum(axis=0) == 0
    counts = np.einsum("cv,lve->lce", in_class, byte_expert)
    occurs = np.flatnonzero(counts.sum(axis=(0, 2)))
    counts = counts[:, occurs]
    names = [*(name for name, _ in BYTE_CLASSES), OTHER_BYTES]
    return [names[i] for i in occurs], counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)


def route_sentence(model: Transformer, ids: Sequence[int]) -> SentenceRouting:
    """Run one text through the model alone, without noise. Bytes are the ids of a model trained on bytes.

    Raises:
        ValueError: the text is empty or longer than the context, or the model has no experts.
    """
    if not 0 < len(ids) <= model.context:
        raise ValueError(f"the sentence must have 1 to context={model.context} tokens, got {len(ids)}")
    layers = tuple(model.routed_layers)
    if not layers:
        raise ValueError("the model is dense: there is no routing to look at")
    was_training = model.training
    model.eval()
    with no_grad():
        _, routings = model.hidden(model.namespace.asarray(np.array([list(ids)], np.int64)))
    model.train(was_training)
    shape = len(layers), len(ids), model.num_routes
    gate: Any = np.zeros(shape, np.float32)
    asked: Any = np.zeros(shape, bool)
    for layer, routing in enumerate(r.only_kept() for r in routings if r is not None):
        lost = routing.statistics.dropped
        token, expert = to_host(routing.token), to_host(routing.expert)
        gate[layer, token, expert] = to_host(routing.gate.data)
        asked[layer, token, expert] = True
        asked[layer, to_host(lost.token), to_host(lost.expert)] = True
    return SentenceRouting(tuple(ids), layers, gate, asked)
