"""A model on held-out text: its loss, and which experts take which domain and which token."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import no_grad
from ..autodiff.arrays import to_host
from ..models import Transformer
from ..moe import Routing
from ..ops import LogSoftmax
from ..ops.arithmetic import at_least_float32
from ..typing import Array, Float, Int
from .corpus import Windows
from .ranks import Ranks

WINDOWS_PER_DOMAIN = 48  # what losses and routing tables of a run are measured on
_LARGEST_TABLE = 1 << 26  # numbers: half a GiB
_LOGITS = 1 << 25  # of one forward pass


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Losses in nats per token, and routing counts. Layers are the routed ones; V tokens, E experts.

    Attributes:
        loss: mean over all windows.
        domain_loss: mean over the windows of each domain.
        by_domain: how often each domain chose each expert, before dropping.
        assignments: the same token by token; None where that table would be too large to keep, with a vocabulary
            much larger than that of bytes.
        dropped: assignments dropped because the expert was full.
        bytes_per_token: 1 where tokens are bytes.
    """

    loss: float
    domain_loss: Float[Array, " domains"]
    by_domain: Int[Array, "layers domains E"]
    assignments: Int[Array, "layers domains V E"] | None
    dropped: Int[Array, "layers E"]
    bytes_per_token: float = 1.0

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits, per byte of text."""
        return self.loss / math.log(2) / self.bytes_per_token

    @property
    def expert_load(self) -> Float[Array, "layers E"]:
        """Each expert's share of the layer's assignments, before dropping; rows sum to 1, or to 0 without any."""
        return _shares(self.by_domain.sum(axis=1))

    @property
    def domain_expert(self) -> Float[Array, "layers domains E"]:
        """Each expert's share of the domain's assignments, before dropping; rows sum to 1, or to 0 without any."""
        return _shares(self.by_domain)

    @property
    def dropped_by_layer(self) -> Float[Array, " layers"]:
        """Dropped assignments over all assignments, in each layer; 0 in a layer without any."""
        return self.dropped.sum(axis=1) / np.maximum(self.by_domain.sum(axis=(1, 2)), 1)

    @property
    def dropped_fraction(self) -> float:
        """Dropped assignments over all assignments; 0 without experts."""
        return float(self.dropped.sum() / max(self.by_domain.sum(), 1))


def evaluate(
    model: Transformer, windows: Windows, num_domains: int, batch_size: int = 32, ranks: Ranks | None = None
) -> Evaluation:
    """Run the model on fixed windows, without noise and without a graph, on the device where it lives.

    Ranks that share the model share each batch, and all get the same result.

    The windows stay in order: which tokens exceed a capacity depends on which windows share the batch. It has fewer
    than ``batch_size`` where the logits would take too much memory.
    """
    ranks = Ranks() if ranks is None else ranks
    was_training = model.training
    model.eval()
    xp, num_routed = model.namespace, len(model.routed_layers)
    by_domain = np.zeros((num_routed, num_domains, model.num_routes), np.int64)
    assignments = None
    if by_domain.size * model.vocab_size <= _LARGEST_TABLE:
        assignments = np.zeros((num_routed, num_domains, model.vocab_size, model.num_routes), np.int64)
    batch_size = max(min(batch_size, _LOGITS // (windows.tokens.shape[1] * model.vocab_size)), 1)
    dropped = np.zeros((num_routed, model.num_routes), np.int64)
    window_loss = np.zeros(len(windows.domain))
    for start in range(0, len(windows.domain), batch_size):
        own = ranks.own(min(batch_size, len(windows.domain) - start))
        batch = slice(start + own.start, start + own.stop)
        tokens, targets = windows.tokens[batch], windows.targets[batch]
        with no_grad():
            output = model(xp.asarray(tokens))
            log_p = LogSoftmax.apply(at_least_float32(output.logits), axis=-1).data
        nats = -xp.take_along_axis(log_p, xp.asarray(targets)[..., None], axis=-1)
        window_loss[batch] = to_host(nats.mean(axis=(1, 2), dtype=np.float64))
        domain = np.repeat(windows.domain[batch], tokens.shape[1])
        routings = (r for r in output.routings if r is not None)
        for layer, routing in enumerate(routings):
            token, expert, lost_expert = _asked(routing)
            np.add.at(by_domain[layer], (domain[token], expert), 1)
            if assignments is not None:
                np.add.at(assignments[layer], (domain[token], tokens.reshape(-1)[token], expert), 1)
            np.add.at(dropped[layer], lost_expert, 1)
    model.train(was_training)
    counted = [by_domain, dropped, window_loss, *([] if assignments is None else [assignments])]
    for of_rank in counted:
        of_rank[...] = ranks.add_up(of_rank)
    windows_of = np.bincount(windows.domain, minlength=num_domains)
    return Evaluation(
        loss=float(window_loss.mean()),
        domain_loss=np.bincount(windows.domain, window_loss, num_domains) / np.maximum(windows_of, 1),
        by_domain=by_domain,
        assignments=assignments,
        dropped=dropped,
        bytes_per_token=windows.bytes_per_token,
    )


def _asked(routing: Routing) -> tuple[Any, Any, Any]:
    """Token and expert of every assignment, the dropped ones included; and the experts of the dropped ones."""
    routing, lost = routing.only_kept(), routing.statistics.dropped
    token, expert, lost_token, lost_expert = map(to_host, (routing.token, routing.expert, lost.token, lost.expert))
    return np.concatenate([token, lost_token]), np.concatenate([expert, lost_expert]), lost_expert


def _shares(counts: Int[Array, "*rows E"]) -> Float[Array, "*rows E"]:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
