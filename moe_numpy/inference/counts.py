"""What an expert store did, layer by layer."""

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass
class LayerCounts:
    """Of one layer, or of all.

    Attributes:
        requests: experts asked for.
        hits: those that were in memory already, or on their way.
        bytes_read: of the experts that were read, without what lies beside them on a page.
        prefetched: experts that were read before they were asked for.
        seconds_waited: for experts that had not arrived.
    """

    requests: int = 0
    hits: int = 0
    bytes_read: int = 0
    prefetched: int = 0
    seconds_waited: float = 0.0

    @property
    def misses(self) -> int:
        """requests - hits."""
        return self.requests - self.hits

    @property
    def hit_rate(self) -> float:
        """hits / requests; 0 without any."""
        return self.hits / max(self.requests, 1)


def total(counts: Iterable[LayerCounts]) -> LayerCounts:
    """The sum over layers."""
    of = list(counts)
    return LayerCounts(**{field.name: sum(getattr(each, field.name) for each in of) for field in fields(LayerCounts)})
