"""The models of a scaling law that were trained on a GPU: recorded, since a notebook cannot train them."""

from pathlib import Path

import msgspec

from ..files import read_jsonl
from .scaling_laws import Point

_FILE = Path(__file__).with_name("scaling_sweep.jsonl")


class SweptModel(msgspec.Struct, frozen=True):
    """A trained model of the sweep.

    Attributes:
        sweep: "large" or "small".
        parameters: N, active weights of attention and feed-forward networks.
        experts, granularity: E G experts of width 4 d / G, of which a byte takes G; E = 1 is dense.
        tokens: D, bytes that it was trained on.
        seed: of weights and batches.
        rate: the learning rate over that of the rule.
        total: stored parameters, embedding and output included.
        loss: nats per byte of held-out text.
    """

    sweep: str
    parameters: int
    experts: int
    granularity: int
    tokens: int
    seed: int
    rate: float
    total: int
    loss: float

    @property
    def point(self) -> Point:
        """As a law sees it."""
        return Point(self.parameters, self.loss, self.tokens, self.experts, self.granularity)


def recorded_sweep(name: str = "large") -> list[SweptModel]:
    """The models of one of two sweeps, both of 29 November 2026; docs/scaling.md describes them.

    ``"large"``: 53 models of 66 thousand to 4.2 million active parameters, trained on one H200;
    ``python -m benchmarks.scaling --device cuda --out FILE`` trains them again. ``"small"``: 44 models of 8 to 74
    thousand, on two cores of the same host; ``python -m benchmarks.scaling --small --out FILE``.

    Raises:
        ValueError: there is no sweep of this name.
    """
    models: list[SweptModel] = read_jsonl(_FILE, SweptModel)
    found = [model for model in models if model.sweep == name]
    if not found:
        raise ValueError(f"sweep must be one of {sorted({model.sweep for model in models})}, got {name!r}")
    return found
