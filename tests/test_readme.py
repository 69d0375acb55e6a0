"""The code of the README and of the page on the library's use runs, and prints what stands below it."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from exercises.catalog import all_exercises

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n((?:    [^\n]*\n)+))?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/using.md"])
def test_the_code_prints_what_the_page_says(page):
    blocks = _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    for code, below in blocks:
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, page, "exec"), {"__name__": page})
        if below:
            assert printed.getvalue() == re.sub(r"^    ", "", below, flags=re.MULTILINE)


def test_the_hours_are_those_that_the_notebooks_and_exercises_state():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    minutes = [
        int(re.search(r"\*\*Time\*\* (?:about )?(\d+) min", path.read_text(encoding="utf-8"))[1]) for path in notebooks
    ]
    reading = f"About {sum(minutes) / 60:.0f} hours for the {len(notebooks)} notebooks"
    each = f"{min(minutes)} to {max(minutes)} minutes each"
    exercises = all_exercises()
    hours = sum(exercise.minutes for exercise in exercises) / 60
    assert f"{reading}, {each}, and {hours:.0f} hours for the {len(exercises)} exercises." in readme
    assert each in " ".join((ROOT / "docs" / "paths.md").read_text(encoding="utf-8").split())


def test_the_readme_is_read_in_a_few_minutes():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
