"""What goes wrong is answered with the right status, OpenAI's envelope, and nothing else."""

import asyncio
import json
import re
import socket
import time

import pytest
from small_servers import Watched, serving, until

from moe_numpy.models.text import ByteTokenizer
from moe_numpy.serve import Ask, Served
from moe_numpy.serve.app import Limits
from moe_numpy.serve.event_stream import EventStream

GOOD = {"model": "tiny", "prompt": "a", "max_tokens": 2}
JSON = {"Content-Type": "application/json"}


def assert_refused(response, status, **expected):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text
    assert {name: error[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"model": "tiny", "prompt": "\xff"}', "invalid_json"),
        (b'{"model": "tiny", "prompt": "\\ud800"}', "invalid_json"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', "invalid_json"),
        (b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', "invalid_value"),
        (b'{"model": "tiny", "prompt": "a", "temprature": 1}', "unknown_field"),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": "3"}', "invalid_value"),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": -1}', "invalid_value"),
        (b'{"model": "tiny", "prompt": ["a", 3]}', None),
        (b'{"model": "tiny", "prompt": [300]}', "invalid_value"),
        (b'{"model": "tiny", "prompt": []}', "invalid_value"),
        (b'{"model": "tiny", "prompt": ' + json.dumps(["a"] * 17).encode() + b"}", None),
        (b'{"model": "tiny"}', "invalid_value"),
        (b'{"model": "tiny", "prompt": "a", "logit_bias": {"x": 1}}', "invalid_value"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_wrong_bodies(server, body, code):
    assert_refused(server.http.post("/v1/completions", content=body, headers=JSON), 400, code=code)


def test_a_context_without_room(server):
    full = GOOD | {"prompt": "a" * 64}
    assert_refused(server.http.post("/v1/completions", json=full), 400, code="context_length_exceeded")
    assert server.http.post("/v1/completions", json=full | {"max_tokens": 0}).status_code == 200


def test_wrong_paths_methods_and_types(server):
    assert_refused(server.http.get("/v1/nothing"), 404)
    assert_refused(server.http.post("/nothing"), 404)
    wrong = server.http.get("/v1/completions")
    assert_refused(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    assert_refused(server.http.post("/v1/completions", content=json.dumps(GOOD)), 415)


def test_bodies_that_are_too_large_or_too_slow(bytes_served):
    with serving(bytes_served, limits=Limits(body=1000, body_seconds=0.3)) as server:
        large = GOOD | {"prompt": "a" * 1000}
        assert_refused(server.http.post("/v1/completions", json=large), 413, code="body_too_large")
        chunks = (b"x" * 100 for _ in range(20))
        assert_refused(server.http.post("/v1/completions", content=chunks, headers=JSON), 413)

        def slow():
            yield b'{"model": '
            time.sleep(0.6)
            yield b'"tiny"}'

        assert_refused(server.http.post("/v1/completions", content=slow(), headers=JSON), 408, code="timeout")
        assert server.http.post("/v1/completions", json=GOOD).status_code == 200


def test_a_head_that_does_not_come(bytes_served, monkeypatch):
    monkeypatch.setattr("moe_numpy.serve.slow_clients.HEAD_SECONDS", 0.2)
    with serving(bytes_served) as server:
        with socket.create_connection(server.server.servers[0].sockets[0].getsockname(), timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            assert connection.recv(100) == b""
        assert server.http.get("/health").status_code == 200
        time.sleep(0.3)
        assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("type", ["text/plain", "application/json"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/nothing"])
def test_a_request_that_breaks_off(server, caplog, type, apart, path):
    """Its handler may have answered already, be about to, or wait for the rest."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(server.server.servers[0].sockets[0].getsockname(), timeout=10) as connection:
        if apart:
            connection.sendall(head.encode())
            time.sleep(0.1)
            connection.sendall(b"zz\r\n")
        else:
            connection.sendall(head.encode() + b"zz\r\n")
        answer = b""
        while piece := connection.recv(1000):
            answer += piece
    assert answer.count(b"HTTP/1.1 ") == 1
    until(lambda: len(server.server.server_state.tasks) == 0)
    assert server.http.get("/health").status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_a_key(bytes_served):
    with serving(bytes_served, api_key="secret") as server:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            for path in ("/v1/models", "/metrics", "/microscope/api/model"):
                response = server.http.get(path, headers=given)
                assert_refused(response, 401, code="invalid_api_key", type="authentication_error")
        assert [model.id for model in server.client.models.list()] == ["tiny"]
        assert server.http.get("/health").json()["status"] == "ok"
        described = server.http.get("/openapi.json").json()
        assert described["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]


@pytest.fixture
def slow(decoder):
    """One slot, a queue of one, and 20 ms for each token."""
    watched = Watched(decoder)
    watched.before = lambda *texts: time.sleep(0.02)
    with serving(Served("tiny", watched, ByteTokenizer()), slots=1, queue=1) as server:
        yield server


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot(slow, stream):
    body = json.dumps(GOOD | {"max_tokens": 60, "stream": stream}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(slow.server.servers[0].sockets[0].getsockname(), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: slow.engine.total.drawn >= 3)
    drawn = slow.engine.total.drawn
    until(lambda: slow.engine.busy == 0)
    assert slow.engine.total.drawn <= drawn + 2  # the one that was being computed, and one until the loop has noticed
    until(lambda: len(slow.server.server_state.tasks) == 0)


def test_a_full_queue(slow):
    first = slow.client.completions.create(stream=True, **GOOD | {"max_tokens": 50})
    next(iter(first))
    engine = slow.engine
    waiting = engine.submit([Ask((97,), 1)], lambda piece: None)
    response = slow.http.post("/v1/completions", json=GOOD)
    assert_refused(response, 429, code="queue_full", type="rate_limit_error")
    assert int(response.headers["retry-after"]) >= 1
    first.close()
    engine.cancel(waiting)
    until(lambda: engine.busy == engine.waiting == 0)
    assert slow.http.post("/v1/completions", json=GOOD).status_code == 200


def test_metrics_count_tokens_and_requests(bytes_served):
    with serving(bytes_served, slots=3) as server:
        server.http.post("/v1/completions", json=GOOD)
        server.http.get("/nothing")
        text = server.http.get("/metrics").text
    for line in (
        'moe_numpy_requests_total{path="/v1/completions",status="200"} 1.0',
        'moe_numpy_requests_total{path="other",status="404"} 1.0',
        "moe_numpy_prompt_tokens_total 1.0",
        "moe_numpy_completion_tokens_total 2.0",
        "moe_numpy_slots 3.0",
        "moe_numpy_slots_busy 0.0",
        "moe_numpy_first_token_seconds_count 1.0",
    ):
        assert line in text


def test_a_handler_that_fails_says_so_without_a_traceback(bytes_served, monkeypatch):
    monkeypatch.setattr("moe_numpy.serve.app.model_document", lambda served: 1 / 0)
    with serving(bytes_served) as server:
        assert_refused(server.http.get("/v1/models"), 500, type="server_error")


def test_a_server_that_stops_ends_its_streams(decoder, monkeypatch):
    monkeypatch.setattr("moe_numpy.serve.server.GRACE", 0.1)
    watched = Watched(decoder)
    watched.before = lambda *texts: time.sleep(0.02)
    with serving(Served("tiny", watched, ByteTokenizer()), slots=1) as server:
        body = GOOD | {"max_tokens": 60, "stream": True}
        with server.http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.server.should_exit = True
            rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "stopping"


def test_the_page_and_the_description(server):
    page = server.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["x-content-type-options"] == "nosniff"
    document = server.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert document["components"]["schemas"]["ChatRequest"]["properties"]["model"]["enum"] == ["tiny"]
    pattern = document["components"]["schemas"]["ChatRequest"]["properties"]["logit_bias"]["anyOf"][0]["propertyNames"]
    matching = [n for n in range(1200) if re.search(pattern["pattern"], str(n))]
    assert matching == list(range(256))
    assert not re.search(pattern["pattern"], "007")


def test_a_client_that_takes_nothing_is_given_up(bytes_served):
    """The stream is closed, and its job with it, when an event is not taken in time."""
    closed = []

    async def events():
        yield b"data: 1\n\n"

    async def run():
        never = asyncio.Event()

        async def receive():
            await never.wait()

        async def send(message):
            if message["type"] == "http.response.body":
                await never.wait()

        await EventStream(events(), 0.05, lambda: closed.append(True))({"type": "http"}, receive, send)

    asyncio.run(run())
    assert closed == [True]
