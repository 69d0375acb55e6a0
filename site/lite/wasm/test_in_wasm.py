"""The library, its gradients, the graders and a notebook in a WebAssembly Python, as in a browser but for the browser.

The first run compiles the interpreter and keeps it, which takes a minute or two.
"""

import pytest
from guest import answer

RIGHT = "01 05 11 12 18 27 33 34 35 36 37 41"  # the quick ones; 32 needs numba


def test_the_packages_import_without_numba():
    assert answer("importing") == {"platform": "wasi", "numba": False, "version": "0.1.0"}


def test_the_gradients_are_right():
    told = answer("gradients")
    assert told["wrong"] == {}
    assert told["cases"] > 90


def test_the_librarys_own_code_passes_the_graders():
    told = answer("grading", RIGHT)
    assert [(each["exercise"], each["checks"]) for each in told if not each["passed"]] == []
    assert len(told) == len(RIGHT.split())


def test_a_file_that_does_not_run_is_told_of():
    (told,) = answer("grading", "01", "def broken(:")
    assert not told["passed"]
    assert "the file does not run: SyntaxError" in told["checks"][0]["problem"]["message"]


@pytest.mark.parametrize(
    ("notebook", "left_out"),
    [("03_top_k", ["30"])],  # compares with numba's kernels
)
def test_the_cells_of_a_notebook_run(notebook, left_out):
    assert answer("cells", notebook, *left_out)["failed"] == {}
