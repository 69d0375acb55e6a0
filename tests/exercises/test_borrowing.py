"""A solution that runs or reads the library's own answer is noted, whatever way leads there, at no cost."""

import inspect
import sys

import numpy as np
import pytest

from exercises.catalog import all_exercises, find
from exercises.exercise import reference_to
from exercises.grading import child, grade
from exercises.grading.borrowing import answer_of
from exercises.grading.grade import grade_source
from exercises.solutions import runnable_solution
from exercises.source import source_of
from moe_numpy import kernels

FOUND = "from importlib import import_module\ntheirs = import_module('{module}').{name}\n"


def seen(exercise, source, checks=2):
    """What is noted in the first checks of values, in this process."""
    setup = vars(grade.Solution(exercise.attribute, source, "mine.py"))
    setup |= {"preload": list(exercise.preload), "answer": answer_of(exercise)}
    checking = child.Checking(setup)
    notes = []
    for check in [c for c in exercise.checks if not c.gradient and not c.time_limit][:checks]:
        default = "forward" if inspect.isclass(exercise.solution) else "call"
        run = reference_to(check.run) if check.run else f"exercises.drivers:{default}"
        cases = list(check.cases(np.random.default_rng(0)))
        answer = checking({"run": run, "cases": cases, "timed": False})
        assert "outcomes" in answer, answer
        notes.append(answer["borrowed"])
    return notes[-1]


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda e: e.label)
def test_the_answer_under_the_required_name_is_seen_and_no_honest_file(exercise):
    module, _, name = exercise.target.partition(":")
    alias = FOUND.format(module=module, name=name) + f"{exercise.attribute} = theirs\n"
    with kernels.use("numpy"):
        assert seen(exercise, alias, 1).startswith("calls the library's own answer: ")
        assert not seen(exercise, runnable_solution(exercise))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (5, "class Softmax(theirs): pass"),
        (5, "class Softmax(theirs):\n    def backward(self, grad): return grad"),
        (5, "class Softmax(m.Function):\n    def forward(self, x, axis=-1): return theirs.apply(x, axis=axis).data"),
        (
            5,
            "class Softmax(m.Function):\n    def forward(self, x, axis=-1):\n"
            "        return vars(theirs)['forward'](theirs(), x, axis=axis)",
        ),
        (11, "def top_k(scores, k): return theirs(scores, k)"),
        (11, "top_k = lambda scores, k: theirs.definition(scores, k)"),
        (11, "from functools import partial\ntop_k = partial(theirs)"),
        (34, "import types\nall_to_all_plan = types.FunctionType(theirs.__code__, vars(m))"),
        (34, "import inspect\nexec(inspect.getsource(theirs), {**vars(m)}, globals())"),
        (11, "from pathlib import Path\nPath(theirs.definition.__code__.co_filename).read_text()\ntop_k = theirs"),
        (11, "top_k = import_module('exercises.catalog').find(11).solution"),
        (11, "top_k = import_module('exercises.catalog').find(11).specification"),
        (
            11,
            "exec(import_module('exercises.solutions').runnable_solution(import_module('exercises.catalog').find(11)))",
        ),
        (24, "def fits(self, *args): return type(self).fits(self, *args)"),
        (24, "fits = lambda *args: getattr(args[0], 'fi' + 'ts')(*args[1:])"),
        (
            26,
            "def batch_priority_queue(candidates, scores):\n"
            "    return getattr(m, '_first' + '_choices_first')(*[candidates.rank] * 2, 9)",
        ),
    ],
)
def test_ways_around_are_seen(number, code):
    exercise = find(number)
    module, _, name = exercise.target.partition(":")
    head = FOUND.format(module=module, name=name) + f"m = import_module('{module}')\n"
    assert seen(exercise, head + code)


def test_a_copy_of_the_source_is_seen_where_no_file_is_opened():
    code = runnable_solution(find(34))
    assert seen(find(34), f"exec({code!r})") == (
        "calls the library's own answer: exercises.reference.all_to_all.all_to_all_plan"
    )
    assert not seen(find(34), code)


def test_what_numba_compiled_is_seen_by_its_source():
    assert seen(find(32), "from exercises.reference.positions_in_numba import position_by_key", 1)


def test_the_file_that_is_read_is_named():
    file = source_of("moe_numpy.kernels.sorting").module.__file__
    note = seen(find(11), f"open({file!r}).close()\ndef top_k(scores, k): return None")
    assert note == "reads the file of the library's own answer: sorting.py"


@pytest.mark.parametrize(
    "code",
    [
        "from moe_numpy.kernels import sum_by_key\ndef top_k(scores, k): return sum_by_key(scores, scores, k)",
        f"open({__file__!r}).close()\ndef top_k(scores, k): return None",
        "import linecache, traceback, moe_numpy.kernels.sorting as s\ntry:\n    linecache.clearcache()\n"
        "    s.offsets_of.definition('x')\nexcept Exception:\n"
        "    traceback.print_exc()\ndef top_k(scores, k): return None",
    ],
)
def test_helpers_other_files_and_tracebacks_are_free(code):
    assert not seen(find(11), code)


def test_a_part_of_the_library_that_calls_the_answer_by_itself_is_free():
    code = "from moe_numpy.ops import Softmax\ny = Softmax.apply(np.zeros(2)).data"
    assert not seen(find(11), f"import numpy as np\n{code}\ndef top_k(scores, k): return y")


def test_a_helper_that_the_stub_names_may_call_what_belongs_to_the_answer():
    code = runnable_solution(find(4)) + "\nfrom moe_numpy.autodiff.graph import _input_gradients\n"
    assert not seen(find(4), code)
    assert seen(find(4), code.replace("import _input", "import _count_consumers, _input"))


def test_the_report_says_so_from_a_process_of_its_own():
    source = "from moe_numpy import kernels\ntop_k = vars(kernels)['top' + '_k']\n"
    result = grade_source(find(11), source, "mine.py")
    assert result.passed
    assert result.note.startswith("calls the library's own answer: moe_numpy.kernels.")


def test_the_profiler_of_the_process_is_left_as_it_was():
    def profiler(*_):
        pass

    sys.setprofile(profiler)
    try:
        seen(find(1), runnable_solution(find(1)), 1)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
