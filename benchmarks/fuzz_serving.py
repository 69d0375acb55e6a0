"""Thousands of odd requests to one server: python -m benchmarks.fuzz_serving [MODEL] [--requests 2000] [--json]

They come from a seed, many at the same time: broken JSON and HTTP, extreme numbers, bodies that are too large, clients
that are slow, leave, or take nothing. In the end one burst fills the queue. The server must answer each with a status
below 500 or close the connection, write no traceback, leave no slot taken, and answer as before.
"""

import asyncio
import json as json_module
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from moe_numpy.commands.output import JsonOption, console_for, plain_table, print_json, refusals, refuse
from moe_numpy.commands.usage import Command, exit_on_signals

from .odd_requests import Odd, Requests
from .peer_process import PeerError
from .random_model import MODELS
from .serving_model import opened, random_model
from .serving_process import ServingProcess

SMALL = MODELS["qwen3-moe-701m"] | {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "vocab_size": 512,
}  # fmt: skip
SLOTS, QUEUE, BODY = 4, 16, 1 << 20
AT_ONCE = 24
LIMIT = 90.0  # seconds that a connection may last: more than the server's limits together
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
CLOSED, LEFT = "closed", "left"


@dataclass
class Count:
    """How requests ended.

    Attributes:
        by_kind: of each kind, how many got each status, were closed without one, or left.
        faults: what should not be.
        longest: seconds of a connection.
    """

    by_kind: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    longest: float = 0.0

    def add(self, odd: Odd, answer: bytes, seconds: float) -> None:
        """One connection has ended."""
        of, statuses = self.by_kind.setdefault(odd.kind, Counter()), [s.decode() for s in _STATUS.findall(answer)]
        self.longest = max(self.longest, seconds)
        final = [status for status in statuses if status != "100"]
        of.update(final or [LEFT if odd.then in ("leave", "reset") else CLOSED])
        for status in final:
            if status >= "500":
                self.faults.append(f"{odd.kind}: {status} for {odd.parts[0]!r:.300}")
            if status == "429" and b"retry-after: " not in answer.lower():
                self.faults.append(f"{odd.kind}: 429 without Retry-After")

    def total(self) -> Counter[str]:
        """Of all kinds."""
        return sum(self.by_kind.values(), Counter())


async def send(address: tuple[str, int], odd: Odd, count: Count, limit: float = LIMIT) -> None:
    """One request, to the end of its connection."""
    began, answer = time.monotonic(), bytearray()
    try:
        async with asyncio.timeout(limit):
            with suppress(ConnectionError):
                await _send(address, odd, answer)
    except TimeoutError:
        count.faults.append(f"{odd.kind}: no end after {limit:g} s of {odd.parts[0]!r:.300}")
    count.add(odd, bytes(answer), time.monotonic() - began)


async def _send(address: tuple[str, int], odd: Odd, answer: bytearray) -> None:
    reader, writer = await asyncio.open_connection(*address)
    reading = None if odd.then == "ignore" else asyncio.ensure_future(_read(reader, answer, odd.then))
    try:
        for part in odd.parts:
            writer.write(part)
            await writer.drain()
            if odd.pause and reading is not None:
                await asyncio.wait([reading], timeout=odd.pause)
                if reading.done():
                    break
        if odd.then == "half":
            writer.write_eof()
        if reading is None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(1)
            reading = asyncio.ensure_future(_read(reader, answer, "read"))
            writer.transport.resume_reading()  # type: ignore[attr-defined]
        await reading
    finally:
        if reading is not None:
            reading.cancel()
        if odd.then == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


async def _read(reader: asyncio.StreamReader, answer: bytearray, then: str) -> None:
    """Until the end, or a first piece for one who leaves."""
    while piece := await reader.read(1 << 16):
        answer += piece
        if then in ("leave", "reset"):
            return


async def fuzz(
    address: tuple[str, int],
    requests: Requests,
    number: int,
    slow: int,
    burst: int,
    limit: float = LIMIT,
    tokens: int = 200,
) -> Count:
    """Send ``number`` requests, ``slow`` of them slowly beside the others, and at last a ``burst`` of long ones.

    Args:
        address: of the server.
        requests: draws them.
        number: of all.
        slow: of those that do not come, or take nothing.
        burst: of those that come at the same time.
        limit: seconds of a connection.
        tokens: that each of the burst asks for.
    """
    count, free = Count(), asyncio.Semaphore(AT_ONCE)

    async def one(odd: Odd) -> None:
        async with free:
            await send(address, odd, count, limit)

    slowly = [asyncio.ensure_future(send(address, requests.slow(), count, limit)) for _ in range(slow)]
    await asyncio.gather(*(one(requests.draw()) for _ in range(number - slow - burst)))
    await asyncio.gather(*slowly)
    await asyncio.gather(*(send(address, requests.long(tokens), count, limit) for _ in range(burst)))
    return count


async def plain(address: tuple[str, int], model: str) -> Any:
    """The choices of an ordinary request."""
    fields = {"model": model, "prompt": [5, 6, 7], "max_tokens": 12, "temperature": 0, "logprobs": 3}
    body, count = json_module.dumps(fields).encode(), Count()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    answer = bytearray()
    await _send(address, Odd("ordinary", (head.encode() + b"Content-Type: application/json\r\n\r\n" + body,)), answer)
    count.add(Odd("ordinary", (body,)), bytes(answer), 0.0)
    return json_module.loads(bytes(answer).partition(b"\r\n\r\n")[2])["choices"]


app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command(cls=Command)
def main(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A folder; a small random model without.")
    ] = None,
    requests: Annotated[int, typer.Option(min=100, help="How many, all kinds together.")] = 2400,
    seed: Annotated[int, typer.Option(min=0, help="Of the requests.")] = 0,
    json: JsonOption = False,
) -> None:
    """Send odd requests to a server, and count how they end."""
    console = console_for(json)
    with refusals(), random_model(SMALL) if model is None else opened(model, console) as found:
        try:
            with console.status("The server starts ..."):
                server = ServingProcess(found.folder, "--slots", SLOTS, "--queue", QUEUE)
        except PeerError as error:
            refuse(str(error), 1)
        with server:
            document = _run(server, requests, seed, console)
    document["exit_status"] = server.exit_status
    if server.exit_status:
        document["faults"].append(f"the server ended with {server.exit_status}")
    if json:
        print_json(document)
    else:
        _print(document, console)
    if document["faults"]:
        raise typer.Exit(1)


def _run(server: ServingProcess, number: int, seed: int, console: Any) -> dict[str, Any]:
    requests, began = Requests(server.name, seed, BODY), time.monotonic()
    before = asyncio.run(plain(server.address, server.name))
    with console.status(f"{number} requests ..."):
        count = asyncio.run(fuzz(server.address, requests, number, slow=40, burst=SLOTS + QUEUE + 20))
    time.sleep(0.5)
    health, metrics, log = server.health(), server.get("/metrics"), server.log
    if health["slots_busy"] or "moe_numpy_queue_waiting 0.0" not in metrics:
        count.faults.append(f"a slot or a place is still taken: {health}")
    if "Traceback" in log:
        count.faults.append(f"a traceback in the log: {log[-2000:]}")
    if asyncio.run(plain(server.address, server.name)) != before:
        count.faults.append("an ordinary request has another answer than before")
    total = count.total()
    if not total["429"]:
        count.faults.append("the queue was never full")
    return {
        "requests": number,
        "seed": seed,
        "seconds": time.monotonic() - began,
        "longest_s": count.longest,
        "answers": dict(sorted(total.items())),
        "by_kind": {kind: dict(sorted(of.items())) for kind, of in sorted(count.by_kind.items())},
        "log_lines": len(log.splitlines()),
        "faults": count.faults,
    }


def _print(document: dict[str, Any], console: Any) -> None:
    names: Sequence[str] = list(document["answers"])
    table = plain_table()
    table.add_column("kind")
    for name in names:
        table.add_column(name, justify="right")
    for kind, of in {**document["by_kind"], "all": document["answers"]}.items():
        table.add_row(kind, *(str(of.get(name, "")) for name in names))
    console.print(table)
    console.print(
        f"{document['requests']} requests in {document['seconds']:.0f} s, the longest {document['longest_s']:.0f} s"
    )
    for fault in document["faults"]:
        console.print(f"fault: {fault}", markup=False, soft_wrap=True)
    if not document["faults"]:
        console.print("no fault: no 5xx, no hang, no traceback, no slot taken, the same answer as before")


if __name__ == "__main__":
    exit_on_signals()
    app(prog_name="python -m benchmarks.fuzz_serving")
