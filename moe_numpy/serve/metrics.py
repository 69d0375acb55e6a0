"""What /metrics tells, in the format of Prometheus."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_OF_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters and histograms of one server; what the engine knows is asked when somebody looks."""

    def __init__(self, engine: Engine):
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "moe_numpy_requests", "Answered requests.", ("path", "status"), registry=self._registry
        )
        self._seconds, self._first, self._next = (
            Histogram(f"moe_numpy_{name}_seconds", help, labels, buckets=buckets, registry=self._registry)
            for name, help, labels, buckets in (
                ("request", "From the head of a request to the end of its answer.", ("path",), _SECONDS),
                ("first_token", "From the whole request to the first piece of text.", (), _SECONDS),
                ("next_token", "From one piece of text to the next of the same request.", (), _OF_TOKENS),
            )
        )
        self._registry.register(_OfEngine(engine))

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_piece(self, seconds: float, first: bool) -> None:
        """A piece of text came after so many seconds."""
        (self._first if first else self._next).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


class _OfEngine(Collector):
    def __init__(self, engine: Engine):
        self._engine = engine

    def collect(self) -> Iterator[Any]:
        engine, total = self._engine, self._engine.total
        for name, help, value in (
            ("prompt_tokens", "Tokens of prompts.", total.prompt),
            ("cached_tokens", "Tokens of prompts that were known already.", total.cached),
            ("completion_tokens", "Tokens drawn.", total.drawn),
        ):
            yield CounterMetricFamily(f"moe_numpy_{name}", help, value=value)
        for name, help, value in (
            ("slots", "Texts that can be written at the same time.", engine.slots),
            ("slots_busy", "Texts that are being written.", engine.busy),
            ("queue_waiting", "Requests that wait.", engine.waiting),
            ("cache_bytes", "Memory of known beginnings of texts.", engine.cache.nbytes),
        ):
            yield GaugeMetricFamily(f"moe_numpy_{name}", help, value=value)
