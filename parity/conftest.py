"""Collects what the comparisons measured and prints it as a table at the end."""

import os
from collections import defaultdict

import pytest

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
MEASURED: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))


@pytest.fixture
def check(record_property):
    """``check(name, dtype, differences, tolerance)`` notes the differences and fails if one is above the tolerance."""

    def note_and_assert(name: str, dtype: str, differences: dict[str, float], tolerance: float) -> None:
        record_property("measured", [name, dtype, {what: float(value) for what, value in differences.items()}])
        too_far = {what: value for what, value in differences.items() if not value <= tolerance}
        assert not too_far, f"{name} in {dtype}: more than {tolerance:g} apart: {too_far}"

    return note_and_assert


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect what each test noted, in whichever process it ran."""
    for key, measured in report.user_properties if report.when == "call" else ():
        if key == "measured":
            name, dtype, differences = measured
            row = MEASURED[name, dtype]
            for what, value in differences.items():
                column = what.split()[0]
                row[column] = max(row[column], value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Largest difference of each kind, over all shapes and seeds."""
    if not MEASURED:
        return
    columns = ("logits", "y", "dx", "dw", "dW", "loss", "dh")
    terminalreporter.section("largest differences")
    terminalreporter.write_line(f"{'':49}" + "".join(f"{column:>9}" for column in columns))
    for (name, dtype), row in sorted(MEASURED.items()):
        cells = "".join(f"{row[column]:9.0e}" if column in row else f"{'':9}" for column in columns)
        terminalreporter.write_line(f"{name:40}{dtype:9}{cells}")
