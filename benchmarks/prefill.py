"""In which order a prompt should use the experts of a layer: python -m benchmarks.prefill TRACE [--prompt 64]

A trace of ``python -m moe_numpy inspect MODEL --trace TRACE`` has one token per step. Here the first tokens of each
stretch become a prompt, whose experts are used one after the other, and the others follow one by one. Printed are the
bytes read of the whole, over those of the order that the store uses, by memory; and those of the prompts alone.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from moe_numpy.inference import Request, Trace, prefill_order, simulate


def by_number(rows: Mapping[int, int], present: Collection[int]) -> list[int]:
    """As they are numbered."""
    return sorted(rows)


def largest_first(rows: Mapping[int, int], present: Collection[int]) -> list[int]:
    """Whatever is in memory."""
    return sorted(rows, key=lambda e: (-rows[e], e))


def present_then_largest(rows: Mapping[int, int], present: Collection[int]) -> list[int]:
    """Those in memory, then the others by descending number of rows."""
    return sorted(rows, key=lambda e: (e not in present, -rows[e], e))


ORDERS = {
    "by number": by_number,
    "largest first": largest_first,
    "present, then largest first": present_then_largest,
    "present, then smallest first": prefill_order,
}


def main(
    trace: Annotated[Path, typer.Argument()],
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 64,
    answer: Annotated[int, typer.Option(min=0, help="Tokens after it.")] = 64,
) -> None:
    """Print one line per policy and memory."""
    folded = with_prompts(Trace.load(trace), prompt, answer)
    print(f"{'policy':12}{'memory':>8}" + "".join(f"{name:>30}" for name in ORDERS))
    for policy in ("lru", "lfu", "next-layer", "best"):
        for share in (0.15, 0.3, 0.5, 0.75):
            budget = max(int(share * folded.num_experts), folded.at_once) * folded.slot_bytes
            read = [simulate(folded, policy, budget, order=order).total.bytes_read for order in ORDERS.values()]
            cells = "".join(f"{of / read[-1]:>30.3f}" for of in read)
            print(f"{policy:12}{share:>8.0%}{cells}")


def with_prompts(trace: Trace, prompt: int, answer: int) -> Trace:
    """The same requests, with prompts."""
    made: list[Request] = []
    steps = [list(of) for _, of in groupby(trace.requests, key=lambda request: request.step)]
    for start in range(0, len(steps), prompt + answer):
        made += _prompt(steps[start : start + prompt])
        made += [request for of in steps[start + prompt : start + prompt + answer] for request in of]
    return Trace(trace.expert_bytes, trace.slot_bytes, tuple(made))


def _prompt(steps: Sequence[Sequence[Request]]) -> list[Request]:
    """One request per layer for several tokens."""
    rows: dict[int, Counter[int]] = {}
    for request in (request for of in steps for request in of):
        rows.setdefault(request.layer, Counter()).update(request.experts)
    first = steps[0][0].step
    return [Request(first, layer, tuple(of), rows=tuple(of.values())) for layer, of in rows.items()]


if __name__ == "__main__":
    typer.run(main)
