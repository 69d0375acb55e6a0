"""Requests as no client should send them, and some as it should: bytes, with pauses, from a seed."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_PATHS = ("/v1/completions", "/v1/chat/completions", "/microscope/api/look")
_ODD = (
    "NaN", "-Infinity", "1e999", "-1e999", "1e-400", "-0.0", "-1", "0", "1.5", "9223372036854775807",
    "18446744073709551616", "1" + "0" * 400, "null", "true", "[]", "{}", '""',
    '"\\ud800"', '"\\u0000"', '"\\udfff\\ud800"', "[[[[[]]]]]", '[null]', '{"a": 1}',
    '["a", 1]', "[0, -1]", "[4294967296]", '"' + "x" * 5000 + '"', '"text"', "[" + "1," * 500 + "1]",
)  # fmt: skip
_FIELDS = (
    "model", "prompt", "messages", "text", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed",
    "stop", "logit_bias", "stream", "stream_options", "routing", "logprobs", "top_logprobs", "echo", "off", "pinned",
    "top_k", "tokens", "user", "tools", "unknown", "",
)  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """What is sent on one connection.

    Attributes:
        kind: its name in the count.
        parts: bytes, sent one after the other.
        pause: seconds between parts.
        then: ``read`` all of the answer; ``leave`` after its first bytes, ``reset`` likewise without farewell,
            ``half`` closes the way there first, ``ignore`` never reads and waits until the other side gives up.
    """

    kind: str
    parts: tuple[bytes, ...]
    pause: float = 0.0
    then: str = "read"


class Requests:
    """Draws requests.

    Args:
        model: the server's name of it.
        seed: of the draws.
        body_limit: bytes that the server takes.
    """

    def __init__(self, model: str, seed: int, body_limit: int):
        self._model, self._limit = model, body_limit
        self._rng = np.random.default_rng(seed)

    def draw(self) -> Odd:
        """One request of any kind but the slow ones."""
        kinds: tuple[Callable[[], Odd], ...] = (
            self._ordinary, self._ordinary, self._odd_field, self._odd_field, self._broken_json, self._deep,
            self._too_large, self._bytes_in_text, self._no_such_path, self._no_http, self._headers, self._old,
            self._pipelined, self._leaving, self._half_closed,
        )  # fmt: skip
        return kinds[self._rng.integers(len(kinds))]()

    def slow(self) -> Odd:
        """One request that does not come, or whose answer is not taken."""
        path, body = self._good(tokens=200, stream=True)
        whole = _post(path, body)
        which = self._rng.integers(3)
        if which == 0:
            return Odd("slow head", tuple(whole[i : i + 1] for i in range(len(whole))), 1.0)
        head, pieces = whole[: -len(body)], tuple(body[i : i + 1] for i in range(len(body)))
        return Odd("slow body", (head, *pieces), 1.0) if which == 1 else Odd("takes nothing", (whole,), then="ignore")

    def long(self, tokens: int) -> Odd:
        """One request that keeps a slot for a while."""
        return Odd("burst", (_post("/v1/completions", self._json(prompt=[5, 6, 7], max_tokens=tokens)),))

    def _pick(self, of: Any) -> Any:
        return of[int(self._rng.integers(len(of)))]

    def _json(self, **fields: Any) -> bytes:
        return json.dumps({"model": self._model, **fields}).encode()

    def _good(self, tokens: int = 8, **more: Any) -> tuple[str, bytes]:
        path, rng = self._pick(_PATHS), self._rng
        if path.endswith("look"):
            return path, json.dumps({"text": "7 8 9", "tokens": min(tokens, 8)}).encode()
        fields: dict[str, Any] = {"max_tokens": int(rng.integers(1, tokens + 1)), "seed": int(rng.integers(100))}
        fields |= {"temperature": float(rng.random()), "top_p": 0.1 + 0.9 * float(rng.random())}
        fields |= {name: True for name in ("stream", "routing", "logprobs") if rng.random() < 0.3}
        if path.endswith("chat/completions"):
            content = " ".join(map(str, rng.integers(3, 99, 5)))
            return path, self._json(**fields | more, messages=[{"role": "user", "content": content}])
        fields |= {"prompt": rng.integers(3, 99, int(rng.integers(1, 40))).tolist(), "n": int(rng.integers(1, 4))}
        if "logprobs" in fields:
            fields["logprobs"] = 5
        return path, self._json(**fields | more)

    def _ordinary(self) -> Odd:
        if self._rng.random() < 0.2:
            path = self._pick(("/health", "/metrics", "/v1/models", "/openapi.json", "/", "/microscope/api/model"))
            return Odd("well-formed", (_head("GET", path) + b"\r\n",))
        return Odd("well-formed", (_post(*self._good()),))

    def _odd_field(self) -> Odd:
        path, body = self._good()
        fields = {name: json.dumps(value) for name, value in json.loads(body).items()}
        for _ in range(int(self._rng.integers(1, 4))):
            fields[self._pick(_FIELDS)] = self._pick(_ODD)
        text = ", ".join(f"{json.dumps(name)}: {value}" for name, value in fields.items())
        return Odd("odd fields", (_post(path, f"{{{text}}}".encode()),))

    def _broken_json(self) -> Odd:
        path, body = self._good()
        changed = bytearray(body)
        for _ in range(int(self._rng.integers(1, 5))):
            at = int(self._rng.integers(len(changed)))
            if self._rng.random() < 0.5:
                changed[at] = int(self._rng.integers(256))
            else:
                del changed[at : at + int(self._rng.integers(1, 20))]
            changed = changed or bytearray(b"{")
        return Odd("changed bytes", (_post(path, bytes(changed)),))

    def _deep(self) -> Odd:
        depth = int(self._rng.integers(100, self._limit // 12))
        begin, end = self._pick(((b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")))
        body = begin * depth + b"1" + end * depth
        if self._rng.random() < 0.5:
            body = b'{"model": "m", "prompt": ' + body + b"}"
        return Odd("deep nesting", (_post(self._pick(_PATHS), body[: self._limit]),))

    def _too_large(self) -> Odd:
        size, path = self._limit + int(self._rng.integers(1, 100_000)), self._pick(_PATHS)
        body = b'{"prompt": "' + b"x" * size + b'"}'
        which = self._rng.integers(3)
        if which == 0:
            return Odd("too large", (_post(path, body),))
        if which == 1:  # announced, and not sent
            return Odd("too large", (_post(path, b"", length=self._pick((size, 2**40, 10**30))),))
        pieces = [body[i : i + 65536] for i in range(0, len(body), 65536)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        head = _head("POST", path) + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        return Odd("too large", (head, chunks))

    def _bytes_in_text(self) -> Odd:
        wrong = self._pick(
            (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x00", b"\xe2\x82", b"\xef\xbb\xbf")
        )
        path, body = self._good()
        at = int(self._rng.integers(len(body)))
        return Odd("wrong UTF-8", (_post(path, body[:at] + wrong + body[at:]),))

    def _no_such_path(self) -> Odd:
        path = self._pick(
            ("/nothing", "/v1", "/v1/", "/v1/models/" + "x" * 3000, "/%00", "/%ff%fe", "//", "/../../etc/passwd",
             "/a?" + "b" * 900, "/microscope.js/..", "/v1/completions/", "/v1/models/%F0%9F%98%80", "*", "http://other/v1/models"),
        )  # fmt: skip
        method = self._pick(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW", "get"))
        if self._rng.random() < 0.4:
            path = self._pick(("/health", "/v1/models", *_PATHS))
        return Odd("paths and methods", (_head(method, path) + b"Content-Length: 0\r\n\r\n",))

    def _no_http(self) -> Odd:
        garbage = self._rng.bytes(int(self._rng.integers(1, 400))) + b"\r\n\r\n"
        hello = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160) + b"\r\n\r\n"
        return Odd(
            "not HTTP",
            (self._pick((garbage, hello, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n\r\n", b"\r\n" * 200)),),
            then="half",
        )

    def _headers(self) -> Odd:
        extra = self._pick(
            (b"no colon\r\n", b"X: " + b"y" * 100_000 + b"\r\n", b"Content-Length: -1\r\n",
             b"Content-Length: 5, 6\r\n", b"Content-Length: 1e3\r\n", b"Transfer-Encoding: gzip\r\n",
             b"Content-Length: 9\r\nContent-Length: 10\r\n", b"Expect: 100-continue\r\nContent-Length: 0\r\n",
             b": empty\r\n", b"X: \x00\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
             b"Authorization: \xff\xfe\r\n", b"Content-Type: \xe9\r\n", b"X: y\r\n" * 2000,
             b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 22 + b"\r\n"),
        )  # fmt: skip
        head = _head("POST", self._pick((*_PATHS, "/nothing")))
        if self._rng.random() < 0.5:
            head = head.replace(b"Connection: close\r\n", b"")
        return Odd("odd headers", (head + extra + b"\r\n",), then=self._pick(("half", "read")))

    def _old(self) -> Odd:
        path, body = self._good()
        sent = _post(path, body).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        if self._rng.random() < 0.5:
            sent = sent.replace(b"Connection: close", b"Connection: keep-alive", 1)
            return Odd("HTTP/1.0", (sent + _head("GET", "/health") + b"\r\n",))
        return Odd("HTTP/1.0", (sent,))

    def _pipelined(self) -> Odd:
        sent = [
            _post(*self._good()).replace(b"Connection: close\r\n", b"", 1) for _ in range(int(self._rng.integers(2, 6)))
        ]
        return Odd("pipelined", (b"".join(sent) + _head("GET", "/health") + b"\r\n",))

    def _leaving(self) -> Odd:
        path, body = self._good(tokens=200, stream=True)
        sent = _post(path, body)
        if self._rng.random() < 0.3:
            sent = sent[: int(self._rng.integers(1, len(sent)))]  # within the request
        return Odd("leaves", (sent,), then=self._pick(("leave", "reset")))

    def _half_closed(self) -> Odd:
        return Odd("half-closed", (_post(*self._good()),), then="half")


def _head(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".encode()


def _post(path: str, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return _head("POST", path) + f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode() + body
