"""The table of grades: a CSV file with a line for each student and exercise. It is written while grades come in."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from moe_numpy.files import read_regular, write_atomically

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a cell begins that a spreadsheet runs


@dataclass(frozen=True)
class Row:
    """One student's grade in one exercise.

    Attributes:
        student, exercise, name: who and what.
        points, of: earned, and possible.
        seconds: that grading took.
        attempts, hints, gave_up: from the student's progress file; None where there is none.
        failed: the checks that failed.
        note: what an instructor should know.
        seed: of the inputs.
        sha256: of the file; empty if there was none, or if it could not be graded.
    """

    student: str
    exercise: str
    name: str
    points: int
    of: int
    seconds: float
    attempts: int | None
    hints: int | None
    gave_up: bool | None
    failed: str
    note: str
    seed: int
    sha256: str

    @property
    def key(self) -> tuple[str, str]:
        """What there is one row of."""
        return self.student, self.exercise

    @property
    def passed(self) -> bool:
        """Whether all points were earned."""
        return self.points == self.of


_COLUMNS = [f.name for f in fields(Row)]


class Gradebook:
    """The rows of a file, by student and exercise.

    Args:
        path: the file, which may not exist yet. A last line that was cut off is passed over.

    Raises:
        ValueError: the file is something else.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[tuple[str, str], Row] = {}
        if not path.exists():
            return
        text = read_regular(path).decode("utf-8-sig", "replace")  # spreadsheets begin a file with a byte-order mark
        lines = csv.DictReader(io.StringIO(text, newline=""))
        try:
            if lines.fieldnames is not None and list(lines.fieldnames) != _COLUMNS:
                raise ValueError("its columns are others")
            numbered = [(lines.line_num, _read(line)) for line in lines]
            for number, row in numbered[:-1]:
                if row is None:  # edited: writing the table again would lose it
                    raise ValueError(f"line {number} is no grade")
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path} is no table of grades, and is not overwritten: {error}") from None
        self.rows = {row.key: row for _, row in numbered if row is not None}

    @property
    def seed(self) -> int | None:
        """The one that all rows have; None if there is none, or several."""
        seeds = {row.seed for row in self.rows.values()}
        return seeds.pop() if len(seeds) == 1 else None

    def begin(self) -> None:
        """Write what is known, so that rows can be added behind it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_written(self.rows[key]) for key in sorted(self.rows))
        write_atomically({self.path: text.getvalue().encode()})

    def add(self, row: Row) -> None:
        """Add a row, on disk at once."""
        self.rows[row.key] = row
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, _COLUMNS, lineterminator="\n").writerow(_written(row))


def _written(row: Row) -> dict[str, Any]:
    """Cells that no spreadsheet takes for a formula, and without line breaks."""
    cells = {name: "" if value is None else value for name, value in asdict(row).items()}
    for name in ("student", "note"):
        text = "".join(c if c.isprintable() else " " for c in str(cells[name]))
        cells[name] = f"'{text}" if text.startswith(_FORMULA) else text
    return cells | {"seconds": f"{row.seconds:.2f}"}


def _read(line: Mapping[str | None, Any]) -> Row | None:
    """The row of a line; None if it is not whole."""
    try:
        cells = {name: line[name] for name in _COLUMNS}
        for name in ("student", "note"):
            cells[name] = cells[name].removeprefix("'") if cells[name][1:2] in _FORMULA else cells[name]
        for name in ("points", "of", "seed"):
            cells[name] = int(cells[name])
        for name in ("attempts", "hints"):
            cells[name] = int(cells[name]) if cells[name] else None
        cells["gave_up"] = {"true": True, "false": False}.get(cells["gave_up"].lower())  # a spreadsheet writes TRUE
        if len(cells["sha256"]) not in (0, 64) or cells["seed"] < 0:
            return None
        return Row(**cells | {"seconds": float(cells["seconds"])})
    except (TypeError, ValueError, KeyError):
        return None
