"""Every notebook runs from a clean kernel, quietly and within its limits, and keeps to the rules.

`make notebooks` runs this; `make test` does not.
"""

import re

import pytest
from PIL import Image

from execution import execute
from rules import HERE, NAMES, PICTURES, PROJECT, noise, objections

THREADS, SECONDS, BYTES = 2, 60, 2**30
MEASURE_TIME = ("00_why_sparse", "04_experts_and_dispatch", "10_speed", "12_inference")
RUNS = [
    pytest.param(name, marks=pytest.mark.alone if name in MEASURE_TIME else ()) for name in NAMES
]


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_keeps_to_the_rules(name):
    assert objections(name) == []


def test_the_notebooks_are_numbered_without_a_gap():
    assert [path.stem[:2] for path in sorted(HERE.glob("*.ipynb"))] == [
        f"{i:02}" for i in range(len(NAMES))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_links_it_and_shows_a_small_picture(name):
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    picture = f"docs/notebooks/{name[:2]}.png"
    assert re.search(rf"\(notebooks/{name}\.ipynb\)", readme)
    assert re.search(
        rf'<img src="{picture}" [^>]*alt="[^"]{{10,}}"|!\[[^\]]{{10,}}\]\({picture}\)', readme
    )
    with Image.open(PICTURES / f"{name[:2]}.png") as image:
        assert image.width == 320


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_from_a_clean_kernel(name, record_property):
    done = execute(HERE / f"{name}.ipynb", threads=THREADS)
    record_property("seconds", round(done.seconds, 1))
    record_property("processor_seconds", round(done.processor_seconds, 1))
    assert list(noise(done.notebook)) == []
    assert (
        min(done.seconds, done.processor_seconds / THREADS) <= SECONDS
    )  # the second where the machine is busy
    assert done.peak_bytes <= BYTES
