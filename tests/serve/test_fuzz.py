"""A small part of ``python -m benchmarks.fuzz_serving``, with shorter limits."""

import asyncio
import logging

from small_servers import serving, until

from benchmarks.fuzz_serving import Count, Odd, fuzz, plain
from benchmarks.odd_requests import Requests
from moe_numpy.serve.app import Limits

BODY = 20_000


def test_odd_requests(bytes_served, caplog, monkeypatch):
    monkeypatch.setattr("moe_numpy.serve.slow_clients.HEAD_SECONDS", 1.0)
    limits = Limits(body=BODY, body_seconds=1.0, patience=1.0)
    with serving(bytes_served, limits=limits, slots=2, queue=4) as server, caplog.at_level(logging.WARNING):
        address = server.server.servers[0].sockets[0].getsockname()[:2]
        before = asyncio.run(plain(address, "tiny"))
        count = asyncio.run(fuzz(address, Requests("tiny", 0, BODY), 300, slow=10, burst=20, limit=20, tokens=50))
        until(lambda: server.engine.busy == server.engine.waiting == 0)
        assert asyncio.run(plain(address, "tiny")) == before
    assert count.faults == []
    assert not [record for record in caplog.records if record.exc_info]
    assert {"200", "400", "404", "405", "408", "413", "415", "429", "closed"} <= set(count.total())
    assert sum(map(len, count.by_kind.values())) > 20


def test_faults_are_seen():
    count, odd = Count(), Odd("kind", (b"sent",))
    count.add(odd, b"HTTP/1.1 200 OK\r\n\r\n", 1.0)
    count.add(odd, b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n\r\n", 1.0)
    assert count.faults == []
    count.add(odd, b"HTTP/1.1 429 Too Many Requests\r\n\r\n", 1.0)
    count.add(odd, b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 2.0)
    assert [fault.split(" for")[0] for fault in count.faults] == ["kind: 429 without Retry-After", "kind: 503"]
    assert count.total() == {"200": 1, "429": 2, "503": 1}
