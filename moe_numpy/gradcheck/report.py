"""What a gradient check found, and how it is printed."""

from dataclasses import dataclass, field

_MOST_SKIPPED = 0.5  # a check that skips a larger fraction of the entries fails: it shows too little


@dataclass
class Mismatch:
    """One input whose gradient is wrong: in how many entries, the worst one, and what it looks like."""

    name: str
    shape: tuple[int, ...]
    tolerance: float
    diagnosis: str
    wrong: int = 0
    index: tuple[int, ...] = ()
    analytic: float = 0.0
    numeric: float = 0.0
    error: float = 0.0

    def __str__(self) -> str:
        entries = "entry" if self.wrong == 1 else "entries"
        return (
            f"gradient of {self.name}, shape {self.shape}: {self.wrong} wrong {entries}\n"
            f"  worst at {self.index}: analytic {self.analytic:.9g}, numeric {self.numeric:.9g}, "
            f"relative error {self.error:.2g}, tolerance {self.tolerance:.0e}\n"
            f"  diagnosis: {self.diagnosis}"
        )


@dataclass
class Report:
    """What a gradient check found.

    Attributes:
        max_error: the largest |analytic - numeric| / scale of all compared entries; see ``gradcheck``.
        compared: how many entries were compared, displaced ones included.
        moved: how many of these were compared at a displaced point, because a decision or kink was too near.
        skipped: how many could not be compared; ``notes`` says why.
        notes: observations that are not errors.
        problems: errors that belong to no single entry (f is random, changes its input ...).
        mismatches: one per input whose gradient is wrong.
    """

    max_error: float = 0.0
    compared: int = 0
    moved: int = 0
    skipped: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether enough was compared and nothing was wrong."""
        return not self.failures()

    def failures(self) -> list[str]:
        """Everything that keeps the check from passing, in words."""
        found = [str(mismatch) for mismatch in self.mismatches] + self.problems
        total = self.compared + self.skipped
        if not found and self.compared == 0:
            found.append("nothing was compared")
        elif self.skipped > _MOST_SKIPPED * total:
            found.append(f"{self.skipped} of {total} entries could not be compared, so the check shows too little")
        return found

    def raise_if_failed(self) -> None:
        """Raise an AssertionError whose text is the report, unless the check passed."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        counts = f"{self.compared} entries compared ({self.moved} of them moved), {self.skipped} skipped"
        head = f"gradcheck {verdict}: {counts}, max relative error {self.max_error:.2g}"
        return "\n".join([head, *self.failures(), *(f"note: {note}" for note in self.notes)])
