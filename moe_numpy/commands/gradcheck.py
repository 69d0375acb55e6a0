"""``python -m moe_numpy gradcheck``: finite differences for every Function of the package."""

import json as json_format
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..autodiff import Function
from ..gradcheck import Report, cases
from .processes import over_all_cores
from .text_progress import text_progress

_PIPE_WIDTH = 120
_FEW = 8  # cases; they take less time than processes take to start


@dataclass(frozen=True)
class _Check:
    """What one row of the table reports: a case, or a Function that has none."""

    functions: tuple[type[Function], ...]
    case: cases.Case | None

    @property
    def function_names(self) -> str:
        return ", ".join(f.__name__ for f in self.functions)

    @property
    def case_name(self) -> str:
        return self.case.name if self.case else "(none)"

    @property
    def modules(self) -> list[str]:
        """The modules of the Functions, without the name of the package."""
        return [f.__module__.partition(".")[2] for f in self.functions]

    def names(self) -> list[str]:
        """The names that a pattern is matched against."""
        return [
            *([self.case.name] if self.case else []),
            *(f.__name__ for f in self.functions),
            *self.modules,
        ]


@dataclass(frozen=True)
class _Row:
    """A check and its outcome: one row of the table."""

    check: _Check
    report: Report
    seconds: float

    def as_json(self) -> dict[str, Any]:
        error = self.report.max_error
        return {
            "functions": [f.__name__ for f in self.check.functions],
            "modules": [f.__module__ for f in self.check.functions],
            "case": self.check.case.name if self.check.case else None,
            "passed": self.report.passed,
            "compared": self.report.compared,
            "moved": self.report.moved,
            "skipped": self.report.skipped,
            "max_relative_error": error if math.isfinite(error) else None,
            "seconds": round(self.seconds, 4),
            "failures": self.report.failures(),
            "notes": self.report.notes,
        }


def gradcheck(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Only cases, Functions or modules whose name contains or matches this (softmax*)."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the inputs and cotangents.")] = 0,
) -> None:
    """Check every hand-written derivative against finite differences in float64.

    A Function without a case fails. The exit code is 0 only if everything passes.
    """
    checks, began = _select(pattern), time.perf_counter()
    console, rows = _console(), []
    with closing(_run(checks, seed)) as done, _shown(console, json, len(checks)) as show:
        for row in done:
            rows.append(row)
            show(rows)
    summary = _summary(rows, time.perf_counter() - began)
    if json:
        print(json_format.dumps({"rows": [row.as_json() for row in rows], "summary": summary}, indent=2))
    else:
        console.print(_table(rows, console))
        _print_failures(rows, console)
        _print_summary(summary, console)
    if summary["failed"]:
        raise typer.Exit(1)


@contextmanager
def _shown(console: Console, json: bool, total: int) -> Iterator[Callable[[list[_Row]], None]]:
    """Yield a function to call with the rows so far: a table that grows on a terminal; on stderr, where stdout is for
    the outcome, how many are done."""
    if console.is_terminal and not json:
        with Live(console=console, transient=True) as live:
            room = max(console.height - 6, 1)
            yield lambda rows: live.update(_table(rows[-room:], console, title=f"{len(rows)} of {total}"))
        return
    with text_progress(Console(stderr=True), total, "Checking derivatives", "checked", "cases") as done:
        yield lambda rows: done(len(rows))


def _console() -> Console:
    """A console of fixed width in a pipe, which has no width of its own."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=_PIPE_WIDTH)


def _select(pattern: str | None) -> list[_Check]:
    checks = [_Check(case.functions, case) for case in cases.all_cases()]
    checks += [_Check((function,), None) for function in cases.functions_without_case()]
    if pattern is None:
        return checks
    chosen = [check for check in checks if any(_matches(name, pattern) for name in check.names())]
    if not chosen:
        names = {name.lower(): name for check in checks for name in check.names()}
        near = [names[key] for key in get_close_matches(pattern.lower(), names, n=5, cutoff=0.5)]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise typer.BadParameter(f"no case, Function or module matches {pattern!r}{hint}", param_hint="PATTERN")
    return chosen


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    return pattern in name or fnmatch(name, pattern)


def _run(checks: list[_Check], seed: int) -> Generator[_Row, None, None]:
    """In order; more than a few over all cores."""
    cases_to_run = [check.case for check in checks if check.case]
    if len(cases_to_run) > _FEW:
        outcomes = over_all_cores(_named, [(case.name, seed) for case in cases_to_run])
    else:
        outcomes = (_timed(case, seed) for case in cases_to_run)
    for check in checks:
        if check.case:
            yield _Row(check, *next(outcomes))
        else:
            advice = "write one in moe_numpy/gradcheck/cases/"
            yield _Row(check, Report(problems=[f"{check.function_names} has no gradient case; {advice}"]), 0.0)


def _named(case: tuple[str, int]) -> tuple[Report, float]:
    """The outcome of the case of this name with this seed, in a process that has to find it."""
    name, seed = case
    return _timed(next(c for c in cases.all_cases() if c.name == name), seed)


def _timed(case: cases.Case, seed: int) -> tuple[Report, float]:
    start = time.perf_counter()
    return cases.run_case(case, seed), time.perf_counter() - start


def _summary(rows: list[_Row], seconds: float) -> dict[str, Any]:
    passed = [row for row in rows if row.report.passed]
    return {
        "checks": len(rows),
        "passed": len(passed),
        "failed": len(rows) - len(passed),
        "functions": len({f for row in rows for f in row.check.functions}),
        "compared": sum(row.report.compared for row in rows),
        "moved": sum(row.report.moved for row in rows),
        "skipped": sum(row.report.skipped for row in rows),
        "max_relative_error": max((row.report.max_error for row in passed), default=0.0),
        "seconds": round(seconds, 3),
    }


def _table(rows: list[_Row], console: Console, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Function", overflow="fold")
    table.add_column("case", overflow="fold")
    for column in ("compared", "moved", "skipped", "max error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for row in rows:
        report = row.report
        table.add_row(
            row.check.functions[0].__name__ + (f" +{len(row.check.functions) - 1}" * (len(row.check.functions) > 1)),
            row.check.case_name,
            str(report.compared),
            str(report.moved),
            str(report.skipped),
            f"{report.max_error:.1e}" if report.compared else "-",
            _verdict(report.passed, console),
            f"{row.seconds:.1f}",
        )
    return table


def _verdict(passed: bool, console: Console) -> str:
    marks = ("✓ ", "✗ ") if console.encoding.startswith("utf") else ("", "")
    return f"[green]{marks[0]}ok[/]" if passed else f"[bold red]{marks[1]}FAIL[/]"


def _print_failures(rows: list[_Row], console: Console) -> None:
    for row in rows:
        if not row.report.passed:
            console.print(f"\n[bold red]{row.check.function_names}[/], case {row.check.case_name}")
            console.print(str(row.report), markup=False, highlight=False, soft_wrap=True)


def _print_summary(summary: dict[str, Any], console: Console) -> None:
    verdict = f"{summary['failed']} failed" if summary["failed"] else "all passed"
    error, seconds = summary["max_relative_error"], summary["seconds"]
    console.print(
        f"\n{summary['checks']} checks of {summary['functions']} Functions, {verdict}: "
        f"{summary['compared']} derivatives compared, {summary['moved']} of them moved, "
        f"{summary['skipped']} skipped, max relative error {error:.1e}, {seconds:.1f} s",
        soft_wrap=True,
    )
