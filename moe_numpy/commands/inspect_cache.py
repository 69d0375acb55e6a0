"""Part of ``inspect``: cache policies compared on a trace of requests for experts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..inference import Simulated, Trace, compare
from ..instruments.expert_trace import trace_of
from ..instruments.routed_text import RoutedText
from .inspected import Inspected
from .output import one_line, plain_table, print_title


class ComparedCaches:
    """A trace, and what every policy would have made of it.

    Args:
        path: of the trace.
        trace: its content.
        recorded: whether it was written just now.
    """

    def __init__(self, path: Path, trace: Trace, recorded: bool):
        self.path, self.trace, self.recorded = path, trace, recorded
        self.by_policy: Mapping[str, Sequence[Simulated]] = compare(trace)

    @property
    def steps(self) -> int:
        """How many steps asked for something."""
        return len({request.step for request in self.trace.requests})

    @property
    def budgets(self) -> list[int]:
        """Bytes for experts."""
        return [each.budget for each in next(iter(self.by_policy.values()))]

    @property
    def hit_rates(self) -> dict[str, list[float]]:
        """By policy, at each budget."""
        return {policy: [each.total.hit_rate for each in of] for policy, of in self.by_policy.items()}

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "trace": str(self.path),
            "recorded": self.recorded,
            "steps": self.steps,
            "requests": sum(len(request.experts) for request in self.trace.requests),
            "slot_bytes": self.trace.slot_bytes,
            "budgets": self.budgets,
            "hit_rate_by_policy": self.hit_rates,
            "bytes_read_by_policy": {p: [each.total.bytes_read for each in of] for p, of in self.by_policy.items()},
        }

    def print(self, console: Console) -> None:
        """A table: one row per budget."""
        how = "recorded in" if self.recorded else "read from"
        console.print(
            f"Experts in a limited memory: {self.steps:,} steps, {how} {one_line(self.path)}",
            soft_wrap=True,
            markup=False,
        )
        print_title(console, "Requests found in memory, and what is read per step")
        table = plain_table()
        for name in ("memory", "of all", *self.by_policy, "read"):
            table.add_column(name, justify="right")
        for i, budget in enumerate(self.budgets):
            runs = [of[i] for of in self.by_policy.values()]
            share = runs[0].num_slots / self.trace.num_experts
            least = min(run.total.bytes_read for run in runs[:-1])  # the last one knows the future
            cells = [f"{100 * run.total.hit_rate:.0f} %" for run in runs]
            table.add_row(_size(budget), f"{100 * share:.0f} %", *cells, _size(least / max(self.steps, 1)))
        console.print(table)


def given_trace(path: Path, opened: Inspected) -> Trace | None:
    """The trace in a file; None if there is no such file, and one can be written there.

    Raises:
        ValueError: the file is damaged or of another model, or cannot be written.
        OSError: it cannot be read.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise ValueError(f"--trace: {path} cannot be written: there is no folder {path.parent}")
        return None
    trace = Trace.load(path)
    layers = opened.model.routed_layers
    found = {layer: len(of) for layer, of in trace.expert_bytes.items()}
    most = max(found.values(), default=0)
    if sorted(found) != sorted(layers) or most > opened.model.num_routes:
        raise ValueError(
            f"{path} is of another model: it has layers {sorted(found)} with up to {most} experts, {opened.folder} has "
            f"{layers} with {opened.model.num_routes}"
        )
    return trace


def compare_caches(path: Path, given: Trace | None, opened: Inspected, routed: RoutedText) -> ComparedCaches:
    """Of a given trace, or of that of the text, which is written to ``path``.

    Raises:
        ValueError: a text makes no requests that could be recorded.
        OSError: the trace cannot be written.
    """
    if given is not None:
        return ComparedCaches(path, given, recorded=False)
    trace = trace_of(opened.model, routed)
    trace.save(path)
    return ComparedCaches(path, trace, recorded=True)


def _size(nbytes: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}"
    return f"{nbytes:.0f} B"
