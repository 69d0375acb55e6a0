"""Candidates that decode in turn, and the rows of what they took."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from moe_numpy.commands.output import plain_table

from .bandwidth import Memory
from .candidates import Candidate
from .table import print_coming
from .timing import seconds_in_turn
from .weights_read import Weights

_MEMORY = "memory"


@dataclass(frozen=True)
class Turns:
    """Candidates, and memory that is read in turn with them.

    Args:
        opened: candidates by name, with what they read.
        memory: to measure the bandwidth.
        rounds: at most.
        budget_s: no fourth round of a row begins after it.
        console: on a terminal, who is measured.
    """

    opened: Mapping[str, tuple[Candidate, Weights]]
    memory: Memory
    rounds: int
    budget_s: float
    console: Console

    def rows(
        self, texts: list[list[int]], tokens: int, experts: float | None
    ) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Yield each name and the function that gives its row; the first one measures all.

        Args:
            texts: to read, or to continue.
            tokens: of each to write; 0 for the time of reading.
            experts: distinct ones that a call chooses in a layer.
        """
        taken: dict[str, list[float]] = {}
        for name in self.opened:
            yield name, partial(self._row, name, texts, tokens, experts, taken)

    def _row(
        self, name: str, texts: list[list[int]], tokens: int, experts: float | None, taken: dict[str, list[float]]
    ) -> dict[str, Any]:
        if not taken:
            taken |= self._measured(texts, tokens)
        median, least = statistics.median(taken[name]), min(taken[name])
        memory_median, memory_least = statistics.median(taken[_MEMORY]), min(taken[_MEMORY])
        work = len(texts) * (tokens or len(texts[0]))
        row: dict[str, Any] = {
            "candidate": name,
            "work": "decode" if tokens else "prompt",
            "texts": len(texts),
            "tokens_per_s": work / median,
            "best": work / least,
            "bandwidth_gb": self.memory.nbytes / memory_median / 1e9,
            "best_bandwidth_gb": self.memory.nbytes / memory_least / 1e9,
            "experts": None,
            "mb_per_call": None,
            "bound": None,
            "share": None,
            "best_share": None,
            "rounds": len(taken[name]),
        }
        if tokens and experts is not None:
            size = self.opened[name][1].of_call(experts)
            call_per_read = size / self.memory.nbytes
            row |= {
                "experts": experts,
                "mb_per_call": size / 1e6,
                "bound": len(texts) / (call_per_read * memory_median),
                "share": tokens * call_per_read * memory_median / median,
                "best_share": tokens * call_per_read * memory_least / least,
            }
        return row

    def _measured(self, texts: list[list[int]], tokens: int) -> dict[str, list[float]]:
        def seconds(name: str, candidate: Candidate) -> float:
            what = f"{len(texts)} texts" if tokens else "the prompt"
            print_coming(f"{what}, {name:<30}", self.console)
            answer = candidate.answer(texts, tokens, fresh=not tokens)
            return answer.decode_s if tokens else answer.prompt_s

        runs = {name: partial(seconds, name, candidate) for name, (candidate, _) in self.opened.items()}
        for run in runs.values():  # reads the texts, and compiles
            run()
        return seconds_in_turn({_MEMORY: self.memory.seconds} | runs, self.rounds, self.budget_s)


def summary(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Tokens per second of each candidate, in brackets the share of the bound."""
    table = plain_table()
    works = list(dict.fromkeys((row["work"], row["texts"]) for row in rows))
    table.add_column("tokens/s (share of the bound)")
    for work, batch in works:
        table.add_column(work if work == "prompt" else f"{batch} text{'s' * (batch > 1)}", justify="right")
    for name in dict.fromkeys(row["candidate"] for row in rows):
        own = {(row["work"], row["texts"]): row for row in rows if row["candidate"] == name}
        table.add_row(name, *(_told(own.get(work)) for work in works))
    return table


def _told(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    speed = f"{row['tokens_per_s']:.3g}" if row["tokens_per_s"] < 100 else f"{row['tokens_per_s']:.0f}"
    return speed if row["share"] is None else f"{speed} ({row['share']:.0%})"
