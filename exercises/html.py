"""What a learner reads in a notebook: HTML without scripts or style sheets, for light pages and dark ones.

Text has the page's own colour. Where a colour says something, a word says it too, and brings its own background.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from moe_numpy.commands.output import printable

from .actions import Hint
from .exercise import Exercise
from .grading.compare import Problem
from .grading.grade import Result
from .grading.in_process import NO_PROCESSES, SAID
from .progress_file import Progress
from .report import ALIKE, LEVELS, OUTPUT_LINES, index_text
from .workspace import Workspace

_GREEN, _RED, _GREY, _AMBER = "#1a7f37", "#cf222e", "#57606a", "#9a6700"  # white on each: at least 4.9 to 1
_BADGES = {
    "passed": ("✓ passed", _GREEN),
    "edited": ("~ edited", _AMBER),
    "begun": ("· begun", _GREY),
    "new": ("new", _GREY),
}
_BLUE, _WHITE, _BRICK = (33, 102, 172), (247, 247, 247), (178, 24, 43)  # -1, 0 and 1 of a heat map
_ROWS, _COLUMNS = 12, 16  # of a heat map; of a larger array it shows the part around the worst entry
_NUMBERED = 6  # columns that leave room for numbers in the cells


def of_result(result: Result, failing_call: str = "") -> str:
    """The report on one exercise, with a picture of the first failure and a failing call to paste."""
    e = result.exercise
    parts = [_title(e, result.passed, f"{result.earned} of {e.points} points, {result.seconds:.1f} s")]
    seen: set[Any] = set()
    first = True
    for check in result.checks:
        p = check.problem
        mark = _badge("✓", _GREEN) if check.passed else _badge("✗", _RED)
        points = f"{check.points if check.passed else 0}/{check.points}"
        again = p is not None and (p.message, p.line) in seen and p.kind in ALIKE
        parts.append(_line(f"{mark} {_dim(points)} {_text(check.name)}{_dim(' (the same)') if again else ''}"))
        if p is not None and not again:
            told = _problem(p, whole=first, explained=p.recognised in seen)
            parts.append(told if first else _folded("why", told))
            seen |= {p.recognised, (p.message, p.line)}
            first = False
    warnings = dict.fromkeys(w for check in result.checks for w in check.warnings)
    parts += [_line(_dim(f"warning, costs nothing: {printable(w)}")) for w in warnings]
    if NO_PROCESSES:
        parts.append(_line(_dim(SAID)))
    if result.note:
        parts.append(_line(f"{_badge('note', _AMBER)} {_text(result.note)}: nothing was rebuilt"))
    printed = next((check.output for check in result.checks if check.output.strip()), "")
    if printed:
        parts += [_line(_dim("printed by your code:")), _pre("\n".join(printed.splitlines()[:OUTPUT_LINES]))]
    smallest = result.smallest_failure
    if smallest is not None and failing_call:
        title = f"the smallest failing input, as code to paste into a cell: {_code(smallest.problem.case)}"
        parts.append(_folded(title, _pre(failing_call)))
    call = "solution" if result.passed else "hint"
    parts.append(_line(_dim(f"{result.file}, {call}: exercises.{call}({e.label!r})")))
    return _box(parts)


def of_untouched(exercise: Exercise, file: str) -> str:
    """The report on an exercise that has not been begun."""
    return _box(
        [
            _title(exercise, False, f"0 of {exercise.points} points, about {exercise.minutes} minutes"),
            _line(
                f"next: run {_code(f'exercises.open({exercise.label!r})')}, or edit {_code(file)} and run this again"
            ),
        ]
    )


def of_hint(hint: Hint) -> str:
    """What the last check asks for, and the hints so far."""
    e = hint.exercise
    parts = [_line(f"<b>{_text(f'{e.label} {e.title}')}</b>")]
    if hint.next_step:
        parts.append(_line(f"{_badge('✗', _RED)} {_text(hint.failing)} → {_text(hint.next_step)}"))
    for i, text in enumerate(hint.shown, 1):
        said = _text(text) if i == len(hint.shown) else _dim(text)
        parts.append(_line(f"{_badge(f'{i} of {len(e.hints)}', _GREY)} {said}"))
    return _box(parts)


def of_code(title: str, code: str) -> str:
    """Code that can be copied, coloured where pygments is there."""
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer
    except ImportError:
        return _box([_line(_text(title)), _pre(code)])
    light = "background:#f8f8f8;color:#24292f;padding:8px;overflow-x:auto;line-height:1.35"
    formatter = HtmlFormatter(noclasses=True, prestyles=light)
    return _box([_line(_text(title)), highlight(printable(code), PythonLexer(), formatter)])


def of_progress(exercises: Sequence[Exercise], workspace: Workspace) -> str:
    """All exercises, and how far the learner is."""
    progress = workspace.progress()
    heads = ("", "exercise", "level", "minutes", "points", "attempts", "hints", "state")
    rows, done = [], 0
    for e in exercises:
        known, state = progress.get(e.label, Progress()), workspace.status(e, progress)
        done += state == "passed"
        badge = _badge(*_BADGES[state]) + (" solution seen" if known.gave_up else "")
        points = f"{known.best}/{e.points}" if known.attempts else str(e.points)
        cells = [e.label, _text(e.title), LEVELS[e.difficulty], e.minutes, points, known.attempts, known.hints, badge]
        rows.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _box([_line(f"<b>{done} of {len(exercises)} passed</b>"), table])


def of_note(text: str) -> str:
    """A sentence."""
    return _box([_line(_text(text))])


def heat_maps(p: Problem) -> str:
    """Expected, yours and their difference as an SVG; empty where there are no arrays of numbers with entries."""
    if p.pair is None:
        return ""
    yours, expected = (np.asarray(a, np.float64) for a in p.pair)
    if not yours.size or not expected.size or max(yours.ndim, expected.ndim) == 0:
        return ""
    names = ("analytic", "numeric") if p.numeric else ("yours", "expected")
    grids = [(names[1], _window(expected, p.index)), (names[0], _window(yours, p.index))]
    top = max(_largest(grid) for _, grid in grids)
    scaled = [(name, grid, top) for name, grid in grids]
    if yours.shape == expected.shape:
        with np.errstate(all="ignore"):
            difference = _window(yours - expected, p.index)
        scaled.append((f"{names[0]} - {names[1]}", difference, _largest(difference)))
    part = "" if expected.size == grids[0][1].size else ", the part around the worst entry"
    maps, x, height = [], 0.0, 0.0
    for name, grid, largest in scaled:
        drawn, width, tall = _heat_map(f"{name} (a part)" if part else name, grid, largest, x)
        maps.append(drawn)
        x, height = x + width + 24, max(height, tall)
    width = x - 24
    said = f"Heat maps of {names[1]} and {names[0]}, {_by(expected.shape)}{part}: {p.message}"
    if p.index is not None:
        said += f"; worst at {index_text(p.index)}: {names[0]} {p.yours}, {names[1]} {p.expected}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{_text(said)}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:100%;width:{width:.0f}px;height:auto;display:block;margin:4px 0">'
    )
    return head + "".join(maps) + "</svg>"


def _heat_map(name: str, grid: Any, largest: float, left: float) -> tuple[str, float, float]:
    """One map with its name above and its scale below; what it takes in width and height."""
    rows, columns = grid.shape
    numbers = columns <= _NUMBERED
    wide, tall = (56, 20) if numbers else (16, 16)
    words = 'font-family="sans-serif" fill="currentColor"'
    parts = [f'<text x="{left:.0f}" y="12" font-size="12" {words}>{_text(name)}</text>']
    for i in range(rows):
        for j in range(columns):
            value = float(grid[i, j])
            fill, ink = _colours(value, largest)
            x, y = left + j * wide, 18 + i * tall
            cell = f'<rect x="{x:.0f}" y="{y}" width="{wide}" height="{tall}" fill="{fill}" stroke="#8c959f"/>'
            if numbers or not np.isfinite(value):
                said = f"{value:.3g}" if numbers else "·"
                middle = f'x="{x + wide / 2:.0f}" y="{y + tall / 2 + 4:.0f}" text-anchor="middle"'
                cell += f'<text {middle} font-family="monospace" font-size="10" fill="{ink}">{said}</text>'
            parts.append(cell)
    below = 18 + rows * tall + 14
    parts.append(f'<text x="{left:.0f}" y="{below}" font-size="10" {words}>±{largest:.3g}</text>')
    return "".join(parts), max(columns * wide, 7 * len(name)), below + 4


def _colours(value: float, largest: float) -> tuple[str, str]:
    """Of a cell, and of what is written on it. What is not finite is grey."""
    if not np.isfinite(value):
        return "#57606a", "#ffffff"
    part = min(abs(value) / largest, 1.0) if largest else 0.0
    end = _BRICK if value > 0 else _BLUE
    mixed = [round(w + part * (c - w)) for w, c in zip(_WHITE, end, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})", "#ffffff" if part > 0.6 else "#1f2328"


def _window(array: Any, index: tuple[int, ...] | None) -> Any:
    """The array as a matrix, its leading axes in the rows; of a large one the part around an entry."""
    width = array.shape[-1] if array.ndim else 1
    matrix = array.reshape(-1, width)
    row, column = (divmod(int(np.ravel_multi_index(index, array.shape)), width)) if index and array.ndim else (0, 0)
    first_row = max(0, min(row - _ROWS // 2, len(matrix) - _ROWS))
    first_column = max(0, min(column - _COLUMNS // 2, width - _COLUMNS))
    return matrix[first_row : first_row + _ROWS, first_column : first_column + _COLUMNS]


def _largest(grid: Any) -> float:
    return float(np.abs(grid[np.isfinite(grid)]).max(initial=0.0))


def _problem(p: Problem, *, whole: bool, explained: bool) -> str:
    """One failed check: the first whole, further ones without arrays, a known mistake explained once."""
    parts = []
    if p.case:
        parts.append(_line(f"{_code(p.case)} {_dim(f'seed {p.seed}')}"))
    parts.append(_line(_text(f"{p.where}: {p.message}" if p.where else p.message)))
    if p.line is not None:
        parts.append(_line(f"line {p.line}: {_code(p.code)}"))
    mine, other = ("analytic", "numeric") if p.numeric else ("yours", "expected")
    if p.yours or p.expected:
        where = f"worst at {index_text(p.index)}: " if p.index is not None else ""
        parts.append(_line(f"{_text(where)}{mine} <b>{_text(p.yours)}</b>, {other} <b>{_text(p.expected)}</b>"))
    if whole:
        parts.append(heat_maps(p))
        parts += [_pre(f"{name} = {value}") for name, value in p.arrays.items() if name not in ("yours", "expected")]
    if p.recognised:
        what = "again" if explained else p.explanation
        code = f" As with this code: {_code(p.mistake)}" if p.mistake and not explained else ""
        parts.append(_line(f"{_badge('a known mistake', _AMBER)} “{_text(p.recognised)}”: {_text(what)}{code}"))
    if p.next_step:
        parts.append(_line(f"→ next: {_text(p.next_step)}"))
    return f'<div style="margin:2px 0 6px 12px;padding-left:10px;border-left:3px solid {_RED}">{"".join(parts)}</div>'


def _title(e: Exercise, passed: bool, rest: str) -> str:
    verdict = _badge("✓ passed", _GREEN) if passed else _badge("✗ not yet", _RED)
    return _line(f"<b>{_text(f'{e.label} {e.title}')}</b> {verdict} {_dim(rest)}")


def _box(parts: Sequence[str]) -> str:
    return f'<div style="max-width:62em;line-height:1.5">{"".join(parts)}</div>'


def _line(html: str) -> str:
    return f'<div style="margin:2px 0">{html}</div>'


def _badge(text: str, background: str) -> str:
    style = f"background:{background};color:#ffffff;border-radius:4px;padding:0 6px;white-space:nowrap"
    return f'<span style="{style}">{_text(text)}</span>'


def _dim(text: str) -> str:
    return f'<span style="opacity:.8">{_text(text)}</span>'


def _code(text: str) -> str:
    return f'<code style="color:inherit;background:transparent">{_text(text)}</code>'


def _pre(text: str) -> str:
    style = "color:inherit;background:transparent;white-space:pre;overflow-x:auto;margin:2px 0"
    return f'<pre style="{style}">{_text(text)}</pre>'


def _folded(title: str, html: str) -> str:
    return f'<details style="margin-left:12px"><summary>{title}</summary>{html}</details>'


def _by(shape: tuple[int, ...]) -> str:
    return " by ".join(map(str, shape)) if len(shape) > 1 else f"{shape[0] if shape else 1} long"


def _text(text: object) -> str:
    return escape(printable(str(text)))
