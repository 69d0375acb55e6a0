"""Hostile solutions: each costs the check that it strikes, with a clear reason, and the rest is graded."""

import os
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest

from exercises.exercise import Check, case, one_by_one
from exercises.grading import process
from exercises.grading.grade import grade_source

RIGHT = np.array([3.0, 1.0])
STRUCK = case(np.array([[9.0, 9.0]]), (1, 2))  # the only case with a 9 in it
FINE = case(np.array([[1.0, 2.0], [3.0, 4.0]]), (2,))


@pytest.fixture
def exercise():
    from exercises.catalog import find

    model = find(1)
    checks = (
        Check("before", 1, one_by_one(FINE), "-"),
        Check("struck", 1, one_by_one(STRUCK), "-"),
        Check("after", 1, one_by_one(FINE), "-"),
    )
    return replace(model, checks=checks, time_limit=0.7)


def solution(attack, head=""):
    """A right solution that attacks in one of the three checks."""
    return (
        textwrap.dedent(head)
        + """
import numpy as np

def undo_broadcasting(grad, shape):
    if grad.flat[0] == 9:
"""
        + textwrap.indent(textwrap.dedent(attack), " " * 8)
        + """
    return grad.sum(axis=0).reshape(shape)
"""
    )


ATTACKS = {
    "os._exit": ("import os; os._exit(0)", "exit code 0"),
    "sys.exit": ("import sys; sys.exit(0)", "SystemExit"),
    "fork": ("import os\nif os.fork() == 0:\n    os._exit(0)", "start a process"),
    "swallowed fork": ("import os\ntry:\n    os.fork()\nexcept Exception:\n    pass", "start a process"),
    "subprocess": ("import subprocess; subprocess.run(['true'])", "start a process"),
    "endless loop": ("while True: pass", "no answer within 0.7 s"),
    "endless loop in C": ("sum(range(10**15))", "no answer within 0.7 s"),
    "endless wait": ("import time; time.sleep(1000)", "no answer within 0.7 s"),
    "memory bomb": ("bytearray(2**34)", "MemoryError"),
    "growing list": ("x = []\nwhile True: x.append(np.empty(2**24))", "MemoryError"),
    "a gigabyte of prints": ("for _ in range(1024): print('x' * 2**20)", "MiB printed"),
    "a gigabyte past Python": ("import os\nwhile True: os.write(1, b'x' * 2**16)", "MiB printed"),
    "recursion": ("undo_broadcasting(grad, shape)", "RecursionError"),
    "signal": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "send signals"),
    "crash": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "numpy replaced": ("np.allclose = lambda *a, **k: True", "numpy.allclose"),
    "checker replaced": (
        "import sys\nsys.modules['exercises.grading.outcome'].run_case = None",
        "exercises.grading.outcome.run_case",
    ),
    "hidden in the comparison": (
        "class Always:\n    def __eq__(self, o): return True\nreturn Always()",
        "not an array",
    ),
    "pickle": ("class Evil:\n    def __reduce__(self): return (print, ('!',))\nreturn Evil()", "not an array"),
    "object array": ("return np.array([[None, None]], object)", "not an array"),
    "deletes files": ("import os\nfor f in os.listdir('.') or ['x']: os.remove(f)", "delete files"),
    "deletes the folder": ("import shutil; shutil.rmtree('.')", "delete files"),
    "reads the parent": ("import os; open(f'/proc/{os.getppid()}/mem', 'rb').read(1)", "look into other processes"),
    "writes elsewhere": ("open('/tmp/exercise-was-here', 'w').write('x')", "write outside its folder"),
    "closes all files": ("import os; os.closerange(0, 64)\nimport time; time.sleep(1000)", "closed its channel"),
    "forged answer": (
        "import os\nfor fd in range(3, 20):\n  try: os.write(fd, b'passed' * 99)\n  except OSError: pass",
        "no answer",
    ),
    "giant array": ("return np.zeros(10**6)", "wrong shape"),
    "beyond the largest message": ("return np.zeros(10**7)", "bytes"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_its_own_check_only(exercise, name):
    attack, reason = ATTACKS[name]
    began = time.perf_counter()
    result = grade_source(exercise, solution(attack), "ex01.py")
    before, struck, after = result.checks
    assert before.passed
    assert after.passed
    assert not struck.passed
    assert reason in struck.problem.message
    assert time.perf_counter() - began < 12
    assert not os.path.exists("/tmp/exercise-was-here")


@pytest.mark.parametrize("head", ["while True: pass", "import os; os._exit(0)", "raise SystemExit", "1 +", "x = y"])
def test_a_file_that_attacks_when_it_is_loaded_earns_nothing(exercise, head):
    result = grade_source(exercise, head + "\n", "ex01.py")
    assert result.earned == 0
    assert all(check.problem.message for check in result.checks)


def test_an_endless_compiled_loop_costs_its_own_check_only(exercise):
    """Python cannot interrupt compiled code from within; the parent kills it from without."""
    head = """
        from numba import njit

        @njit
        def spin():
            n = 0
            while True:
                n += 1
            return n
    """
    slow = replace(exercise, preload=("numba",), time_limit=4.0)
    before, struck, after = grade_source(slow, solution("spin()", head), "ex01.py").checks
    assert before.passed
    assert after.passed
    assert "no answer within 4 s" in struck.problem.message


def test_compiled_code_is_graded_within_the_limits(exercise):
    compiled = solution("pass", "from numba import njit").replace("def undo", "@njit\ndef undo")
    compiled = compiled.replace("grad.flat[0] == 9", "grad[0, 0] == 9").replace(".reshape(shape)", "")
    result = grade_source(replace(exercise, preload=("numba",), time_limit=20.0), compiled, "ex01.py")
    assert [c.problem for c in result.checks if c.name != "struck"] == [None, None]


def test_nothing_survives_the_grading(exercise):
    grade_source(exercise, solution("while True: pass"), "ex01.py")
    children = [p for p in os.listdir("/proc") if p.isdigit() and _parent(p) == os.getpid()]
    assert not [p for p in children if "exercises.grading" in _command(p)]


def test_the_child_gets_no_secrets(exercise, monkeypatch):
    monkeypatch.setenv("GRADER_TOKEN", "secret")
    result = grade_source(exercise, solution("import os; raise ValueError(os.environ.get('GRADER_TOKEN'))"), "ex01.py")
    assert result.checks[1].problem.message == "ValueError: None"


def test_the_child_knows_no_expected_value(exercise):
    """Every array that the garbage collector or the stack can reach is an input."""
    attack = """
        import gc, sys
        seen = [o for o in gc.get_objects() if type(o).__name__ in ("Prepared", "Outcome", "CheckResult")]
        raise ValueError(len([o for o in seen if getattr(o, "value", None) is not None]))
    """
    result = grade_source(exercise, solution(attack), "ex01.py")
    assert result.checks[1].problem.message == "ValueError: 0"


def test_temporary_folders_are_deleted(exercise, monkeypatch, tmp_path):
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    grade_source(exercise, solution("open('x', 'w').write('x')"), "ex01.py")
    assert list(tmp_path.iterdir()) == []


def _parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _command(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read()
