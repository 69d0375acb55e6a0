"""The library, its gradients, the graders and the notebooks in a WebAssembly Python: a browser without the browser.

The notebooks are those of the browser's edition: smaller sizes, without the cells that it leaves out. The first run
compiles the interpreter and keeps it, which takes a minute or two.
"""

import json

import pytest
from guest import ROOT, answer

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
EXERCISES = sorted(path.name[2:4] for path in (ROOT / "exercises" / "catalog").glob("ex[0-9][0-9]_*.py"))
CANNOT_RUN = {"32": "needs numba"}
LEFT_OUT = {  # here, not in a browser: what this Python lacks, and what would take too long
    "09_what_experts_learn": {
        "24 evaluations": "ablation-all ablation-assert use-figure use-assert wrong-experts",
        "one more training": "seeds seeds-table",
    },
    "12_inference": {"writing every format's experts": "e9b5f2c3"},
    "14_scaling": {
        "13 more trainings, and fits to 400 resamples": "code-30 code-31 code-35 code-41 code-42 code-43 code-45"
    },
    "16_a_published_model": {
        "ml_dtypes is not there": "code-18 code-26 code-28 code-30 code-32 code-34 code-36 code-38 "
        "code-40 code-41 code-43"
    },
    "18_modalities": {"two more trainings": "shared-code shared-table shared-figure"},
    "19_orchestration": {
        "the query router reads 96,000 prompts": "train-router two-figure calibration reliability by-hand "
        "abstention abstention-figure ask log"
    },
}


def left_out(notebook):
    return [cell for cells in LEFT_OUT.get(notebook, {}).values() for cell in cells.split()]


def test_the_packages_import_without_numba():
    assert answer("importing") == {"platform": "wasi", "numba": False, "version": "0.1.0"}


@pytest.mark.parametrize(("which", "at_least"), [("others", 100), ("layers", 11)])
def test_the_gradients_are_right(which, at_least):
    told = answer("gradients", which)
    assert told["wrong"] == {}
    assert told["cases"] >= at_least


@pytest.mark.parametrize("half", [0, 1])
def test_the_librarys_own_code_passes_the_graders(half):
    labels = [label for label in EXERCISES if label not in CANNOT_RUN][half::2]
    told = answer("grading", " ".join(labels))["results"]
    assert [(each["exercise"], each["checks"]) for each in told if not each["passed"]] == []
    assert len(told) == len(labels)


def test_a_file_that_does_not_run_is_told_of():
    (told,) = answer("grading", "01", "def broken(:")["results"]
    assert not told["passed"]
    assert "the file does not run: SyntaxError" in told["checks"][0]["problem"]["message"]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_cells_of_a_notebook_run(notebook):
    told = answer("cells", notebook, *left_out(notebook))
    assert told["failed"] == {}
    assert told["ran"] > 5


def test_what_is_left_out_is_there():
    for notebook in LEFT_OUT:
        content = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
        assert set(left_out(notebook)) <= {cell["id"] for cell in content["cells"]}
