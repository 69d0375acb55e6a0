"""What each layer with a router gets: the vectors that are routed and that experts answer."""

from typing import Any

from ..autodiff import no_grad
from ..models import Transformer
from ..moe import Batch, MoE, Routing
from ..nn import Module
from ..typing import Array, Float, Int


class _Listener(Module):
    """A router that remembers what it was asked."""

    def __init__(self, router: Any):
        self.router = router
        self.heard: Any = None
        self.routing: Any = None

    def forward(self, x: Any, batch: Batch) -> Routing:
        self.heard = x.data
        self.routing = self.router(x, batch)
        routing: Routing = self.routing
        return routing


def layer_inputs(model: Transformer, tokens: Int[Array, "B S"]) -> dict[int, tuple[Float[Array, "T d"], Routing]]:
    """By the number of each MoE layer, its T = B S input vectors, and how they were routed; without noise."""
    layers = {i: each.feed_forward for i, each in enumerate(model.layers) if isinstance(each.feed_forward, MoE)}
    listeners = {i: _Listener(layer.router) for i, layer in layers.items()}
    was_training = model.training
    model.eval()
    try:
        for i, layer in layers.items():
            layer.router = listeners[i]  # type: ignore[assignment]
        with no_grad():
            model.hidden(model.namespace.asarray(tokens))
    finally:
        for i, layer in layers.items():
            layer.router = listeners[i].router
        model.train(was_training)
    return {i: (listener.heard, listener.routing) for i, listener in listeners.items()}
