"""How a server bears several clients at the same time: python -m benchmarks.serving [MODEL] [--json]

The server is a process of its own. Each client sends one request after the other, a stream of a completion with a
prompt that no other has, and takes it to its end; so as many texts are written as there are clients.

    ratio  = tokens per second of all clients / those of one client alone
    bound  = B bytes(1) / bytes(B): the ratio if time were that of reading weights, which a call of B tokens shares
    Jain   = (Σ x)² / (B Σ x²) of the clients' tokens per second x: 1 if all get the same, 1 / B if one gets everything
             (Jain, Chiu and Hawe 1984, "A Quantitative Measure of Fairness")

A newcomer comes while seven others are being written. Its time to the first token is compared with that of the same
prompt on an idle server. All take turns in each round, and the medians over rounds count; ``best`` is the fastest
round, which other programs disturbed least.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from moe_numpy.commands.output import JsonOption, console_for, plain_table, print_json, refusals, refuse, with_default
from moe_numpy.commands.usage import Command, exit_on_signals

from .peer_process import PeerError
from .serving_client import Streamed, stream
from .serving_model import Model, opened
from .serving_process import ServingProcess
from .table import print_coming

CLIENTS = (1, 2, 4, 8, 16)
FORMATS = ("bfloat16", "int8", "int4")  # of a model with random weights
RANDOM = "qwen3-moe-701m"
PROMPT, TOKENS, ROUNDS = 32, 64, 3
_LONG = 256  # tokens of a newcomer's longer prompt
_OTHERS, _NEWCOMERS = 7, 5  # while so many decode, so many come one after the other
_PAUSE = 0.3  # seconds between newcomers, at most
LEAST_RATIO, MOST_WAIT = 3.0, 2.0  # what 8 clients should get, and how much longer a newcomer should wait


@dataclass(frozen=True)
class Load:
    """What clients send.

    Attributes:
        clients: at the same time; 1 is always measured.
        prompt: tokens of each prompt.
        tokens: to write.
        requests: of each client, one after the other.
        temperature: of the draws; 1 is what a request has that does not say.
        rounds: of all measurements, at most.
        seconds: no fourth round begins after them.
    """

    clients: Sequence[int] = CLIENTS
    prompt: int = PROMPT
    tokens: int = TOKENS
    requests: int = 2
    temperature: float = 1.0
    rounds: int = ROUNDS
    seconds: float = math.inf


class Client:
    """Sends requests to one server; no two have the same prompt.

    Args:
        server: to ask.
        vocab_size: tokens are below it.
        load: their sizes.
    """

    def __init__(self, server: ServingProcess, vocab_size: int, load: Load):
        self._server, self._vocab_size, self._load = server, vocab_size, load
        self._rng = np.random.default_rng(0)

    async def ask(self, prompt: int | None = None, tokens: int | None = None) -> Streamed:
        """One request. RuntimeError if it fails."""
        least = min(3, self._vocab_size - 1)  # the first tokens of a vocabulary begin and end texts
        fields = {
            "model": self._server.name,
            "prompt": self._rng.integers(least, self._vocab_size, prompt or self._load.prompt).tolist(),
            "max_tokens": tokens or self._load.tokens,
            "temperature": self._load.temperature,
        }
        return await stream(self._server.address, fields)

    async def together(self, clients: int) -> list[list[Streamed]]:
        """What each of so many clients took."""

        async def one() -> list[Streamed]:
            return [await self.ask() for _ in range(self._load.requests)]

        return list(await asyncio.gather(*(one() for _ in range(clients))))

    async def alone(self, prompt: int) -> list[float]:
        """Seconds to the first token on an idle server."""
        return [(await self.ask(prompt, 1)).first_s for _ in range(_NEWCOMERS)]

    async def newcomers(self, prompt: int, longest: int) -> list[float]:
        """Seconds to the first token while others decode."""
        async with _busy([self._forever(longest) for _ in range(_OTHERS)]):
            await asyncio.sleep(1.0)  # their prompts have been read
            taken = []
            for _ in range(_NEWCOMERS):
                taken.append((await self.ask(prompt, 1)).first_s)
                await asyncio.sleep(_PAUSE * self._rng.random())
            return taken

    async def _forever(self, tokens: int) -> None:
        while True:
            await self.ask(None, tokens)


class _busy:
    """Work that goes on during a block."""

    def __init__(self, work: Sequence[Coroutine[Any, Any, None]]):
        self._work = work

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.ensure_future(each) for each in self._work]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            if task.done():
                task.result()  # it should not have ended
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task


def of_clients(taken: Sequence[Sequence[Streamed]]) -> dict[str, Any]:
    """What some clients got in one round."""
    began = min(each.began for client in taken for each in client)
    end = max(each.end for client in taken for each in client)
    rates = [sum(each.tokens for each in client) / (client[-1].end - client[0].began) for client in taken]
    firsts = sorted(each.first_s for client in taken for each in client)
    return {
        "tokens_per_s": sum(each.tokens for client in taken for each in client) / (end - began),
        "least": min(rates),
        "most": max(rates),
        "jain": jain(rates),
        "first_p50_ms": 1e3 * statistics.median(firsts),
        "first_p95_ms": 1e3 * float(np.quantile(firsts, 0.95)),
    }


def jain(rates: Sequence[float]) -> float:
    """(Σ x)² / (n Σ x²)."""
    return sum(rates) ** 2 / (len(rates) * sum(x * x for x in rates))


def measure(model: Model, format: str | None, load: Load, console: Console) -> Iterator[dict[str, Any]]:
    """Yield the rows of one format: one for each number of clients, and one for each newcomer's prompt.

    Raises:
        PeerError: the server did not begin.
        RuntimeError: it refused a request.
    """
    counts, context = sorted({1, *load.clients}), model.config.context
    prompts = [n for n in (load.prompt, _LONG) if n < context]
    options = ["--slots", max(*counts, _OTHERS + 1), *(() if format is None else ("--format", format))]
    found: dict[Any, list[dict[str, Any]]] = {}
    print_coming(f"{format or 'as stored'}: the server starts", console)
    with ServingProcess(model.folder, *options) as server:
        client = Client(server, model.config.vocab_size, load)
        asyncio.run(client.ask())  # what is done once is done
        end = time.monotonic() + load.seconds
        for turn in range(load.rounds):
            if turn >= 3 and time.monotonic() > end:
                break
            for count in counts:
                print_coming(f"{format or 'as stored'}, round {turn + 1}: {count} clients   ", console)
                row = of_clients(asyncio.run(client.together(count)))
                found.setdefault(count, []).append(row | {"ratio": row["tokens_per_s"]})
                found[count][-1]["ratio"] /= found[1][-1]["tokens_per_s"]
            for prompt in prompts:
                print_coming(f"{format or 'as stored'}, round {turn + 1}: newcomers   ", console)
                alone = statistics.median(asyncio.run(client.alone(prompt)))
                busy = asyncio.run(client.newcomers(prompt, context - load.prompt))
                ratios = {
                    "alone_ms": 1e3 * alone,
                    "first_p50_ms": 1e3 * statistics.median(busy),
                    "first_p95_ms": 1e3 * float(np.quantile(busy, 0.95)),
                    "ratio": statistics.median(busy) / alone,
                }
                found.setdefault(f"prompt of {prompt}", []).append(ratios)
    for what, rounds in found.items():
        row = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        if isinstance(what, int):
            best = [max(each["tokens_per_s"] for each in found[count]) for count in (what, 1)]
            row |= {"best": best[0], "best_ratio": best[0] / best[1], "bound": model.most_ratio(what)}
            kind: dict[str, Any] = {"clients": what}
        else:
            kind = {"newcomer": what}
        yield {"format": format or "as stored", **kind, **row}


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What should hold of each format, and whether it does."""
    told = []
    for row in rows:
        if row.get("clients") == 8:
            of, limit = "8 clients against 1, tokens per second", LEAST_RATIO
            told.append({"of": of, "least": limit, "ratio": row["ratio"], "holds": row["ratio"] >= limit})
        elif "newcomer" in row:
            of, limit = f"first token beside {_OTHERS} others against alone, {row['newcomer']}", MOST_WAIT
            told.append({"of": of, "most": limit, "ratio": row["ratio"], "holds": row["ratio"] <= limit})
        else:
            continue
        told[-1] = {"format": row["format"], **told[-1]}
    return told


def report(model: str, given: Sequence[str] | None, load: Load, json: bool) -> None:
    """Measure, and print.

    Args:
        model: as :func:`benchmarks.serving_model.opened`.
        given: formats; None for a folder as it is stored, and random weights in three.
        load: of the clients.
        json: whether one JSON document is printed.
    """
    console = console_for(json)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    formats = list(dict.fromkeys(given or ((None,) if Path(model).is_dir() else FORMATS)))
    with refusals(), opened(model, console) as found:
        for format in formats:
            try:
                new = list(measure(found, format, load, console))
            except (PeerError, RuntimeError, TimeoutError) as error:
                refuse(str(error), 1)
            rows += new
            _print(new, console)
    told = verdicts(rows)
    if json:
        print_json({"rows": rows, "verdicts": told, "seconds": time.perf_counter() - began})
        return
    for each in told:
        limit = f"at least {each['least']:g}" if "least" in each else f"at most {each['most']:g}"
        told_so = f"{each['format']}: {each['of']}: {each['ratio']:.2f}, {limit}: {_word(each['holds'])}"
        console.print(told_so, soft_wrap=True)


def _word(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _print(rows: Sequence[dict[str, Any]], console: Console) -> None:
    for kind, columns in (
        (
            "clients",
            (
                "tokens_per_s",
                "ratio",
                "best",
                "best_ratio",
                "bound",
                "least",
                "most",
                "jain",
                "first_p50_ms",
                "first_p95_ms",
            ),
        ),
        ("newcomer", ("alone_ms", "first_p50_ms", "first_p95_ms", "ratio")),
    ):
        table = plain_table()
        for column in (kind, *columns):
            table.add_column(column.replace("_per_", "/").replace("_", "\n"), justify="right", vertical="bottom")
        for row in (each for each in rows if kind in each):
            shown = (row[column] for column in columns)
            table.add_row(str(row[kind]), *("-" if x is None else f"{x:.2f}" if x < 10 else f"{x:.0f}" for x in shown))
        console.print(f"{rows[0]['format']}", style="bold")
        console.print(table)


app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command(cls=Command)
def main(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, or with random weights a name or config.json.")
    ] = RANDOM,
    format: Annotated[
        list[str] | None,
        typer.Option(help=with_default("Of weights. Repeatable.", f"{', '.join(FORMATS)}; of a folder as stored")),
    ] = None,
    clients: Annotated[
        list[int] | None,
        typer.Option(min=1, max=256, help=with_default("At the same time. Repeatable.", ", ".join(map(str, CLIENTS)))),
    ] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = PROMPT,
    tokens: Annotated[int, typer.Option(min=2, help="To write.")] = TOKENS,
    requests: Annotated[int, typer.Option(min=1, help="Of each client, one after the other.")] = 2,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Of the draws.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of all measurements; the median counts.")] = ROUNDS,
    json: JsonOption = False,
) -> None:
    """Measure a server with several clients: tokens per second, fairness, and the time to the first token."""
    load = Load(clients or CLIENTS, prompt, tokens, requests, temperature, rounds)
    report(model, format, load, json)


if __name__ == "__main__":
    exit_on_signals()
    app(prog_name="python -m benchmarks.serving")
