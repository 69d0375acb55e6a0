"""Rows of measurements, printed as they come, and their means."""

import math
from typing import Any

from rich.console import Console

_FIRST = 32  # width of the first column
_HIDDEN = (  # in the JSON only
    "eager_ms", "grouped_mm_ms", "gemm_gflops", "device", "dtype", "in_turn", "rounds", "best_bandwidth_gb",
    "best_share",
)  # fmt: skip


def geometric_means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the columns that are ratios, over the rows that have one."""
    found = {
        name: [math.log(row[name]) for row in rows if row.get(name) is not None]
        for name in ("ratio", "gemm_ratio", "gemm_efficiency", "speedup")
    }
    return {name: math.exp(sum(logs) / len(logs)) for name, logs in found.items() if logs}


def print_coming(what: object, console: Console) -> None:
    """On a terminal, until the row replaces it; no live display, whose thread would disturb the measurement."""
    if console.is_terminal:
        console.print(f"measuring {what} ...", end="\r", highlight=False, soft_wrap=True)


def print_row(row: dict[str, Any], console: Console, first: bool) -> None:
    """Print a row; above the first one, the names of the columns."""
    columns = [name for name in row if name not in _HIDDEN]
    names = [name.removeprefix("max_").replace("gemm_efficiency", "share").replace("_", " ") for name in columns]
    widths = [_FIRST if i == 0 else max(len(name), 9) for i, name in enumerate(names)]
    cells = [_cell(name, row[name]) for name in columns]
    for line in (names, cells) if first else (cells,):
        aligned = [f"{x:<{w}}" if i == 0 else f"{x:>{w}}" for i, (x, w) in enumerate(zip(line, widths, strict=True))]
        console.print(" ".join(aligned), highlight=False, soft_wrap=True, markup=False)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("max_abs_error", "max_rel_error"):
        return f"{value:.0e}"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
