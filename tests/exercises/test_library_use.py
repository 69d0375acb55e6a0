"""A solution that calls the library's own answer is noted, at no cost."""

import json
import sys
from xml.etree import ElementTree

import pytest
from rich.console import Console

from exercises.catalog import all_exercises, find
from exercises.export import gradescope, junit, markdown
from exercises.grading.grade import grade_source
from exercises.library_use import own_answer_in
from exercises.report import print_result
from exercises.stubs import make_stub


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda e: e.label)
def test_every_way_to_the_answer_is_seen_and_no_honest_file(exercise, solve):
    module, _, name = exercise.target.partition(":")
    root, _, rest = name.partition(".")
    rest = rest and f".{rest}"
    call = "(*args, **settings)"
    for code in (
        f"from {module} import {root} as theirs\ndef mine{call}:\n    return theirs{rest}{call}\n",
        f"import {module}\ndef mine{call}:\n    return {module}.{name}{call}\n",
        f"def mine{call}:\n    import {module} as m\n    return m.{name}{call}\n",
        f"from {module} import *\nfrom {module} import {root}\nmine = {name}\n",
    ):
        assert own_answer_in(exercise, code), code
    assert not own_answer_in(exercise, make_stub(exercise))
    assert not own_answer_in(exercise, solve(exercise).read_text())


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (5, "from moe_numpy import ops\ny = ops.Softmax.apply(x)"),
        (5, "from moe_numpy.ops import Softmax as S\nclass Softmax(S): pass"),
        (11, "from moe_numpy import kernels\ny = kernels.top_k(x, 1)"),
        (11, "from moe_numpy.kernels import on_numba\ny = on_numba.top_k(x, 1)"),
        (5, "from moe_numpy.ops.activations import softmax_gradient as g\ny = g(x, x)"),
        (8, "import moe_numpy.ops.normalization as n\ny = n.rms_norm(x, x)"),
        (11, "from exercises.catalog.ex11_top_k import specification\ny = specification(x, 1)"),
        (24, "def fits(self, *args): return self.fits(*args)"),
        (24, "from moe_numpy.moe.capacity import Capacity\ny = Capacity(1.0).fits(x)"),
        (29, "def __call__(self, *args): return self(*args)"),
    ],
)
def test_ways_around_are_seen(number, code):
    assert own_answer_in(find(number), code)


@pytest.mark.parametrize(
    "code",
    ["settings = {}; settings.update(a=1)", "x.top_k(1)", "1 +", "x\0", "from . import top_k\ntop_k(1)", "(" * 5000],
)
def test_what_only_looks_like_it_is_not(code):
    assert not own_answer_in(find(27), code)
    assert not own_answer_in(find(11), code)


def test_nothing_of_a_solution_is_imported(tmp_path, monkeypatch):
    (tmp_path / "moe_numpy_evil.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("exercises.library_use._OURS", ("moe_numpy_evil",))
    assert not own_answer_in(find(11), "import moe_numpy_evil\nfrom moe_numpy_evil import *\nmoe_numpy_evil.x('\\d')")
    assert "moe_numpy_evil" not in sys.modules


def test_it_is_said_in_the_report_and_in_every_export(capsys):
    source = "from moe_numpy import kernels\ndef top_k(scores, k): return kernels.top_k(scores, k)\n"
    result = grade_source(find(11), source, "mine.py")
    assert result.passed
    assert result.to_json()["note"] == "calls the library's own answer: kernels.top_k"
    print_result(Console(), result)
    assert "calls the library's own answer: kernels.top_k" in capsys.readouterr().out
    assert "kernels.top_k" in json.loads(gradescope([result]))["output"]
    assert json.loads(gradescope([result]))["score"] == find(11).points
    assert "kernels.top_k" in ElementTree.fromstring(junit([result])).find("testsuite/system-out").text
    assert "note: 11 Top-k, with ties: calls the library's own answer: kernels.top_k" in markdown([result])
