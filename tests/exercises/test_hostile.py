"""Hostile solutions: each costs the check that it strikes, with a clear reason, and the rest is graded."""

import errno
import io
import os
import re
import textwrap
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from exercises import containment
from exercises.containment import bubblewrap, fingerprint
from exercises.exercise import Check, case, one_by_one
from exercises.export import gradescope, junit, markdown
from exercises.grading import grade, process
from exercises.grading.grade import grade_source
from exercises.report import print_result

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


# Further ones, all in one file.
MORE_ATTACKS = {
    "hard link": ("import os, exercises; os.link(exercises.__file__, 'mine')", "make hard links"),
    "truncates by reading": (
        "import os, exercises; os.open(exercises.__file__, os.O_RDONLY | os.O_TRUNC)",
        "write outside its folder",
    ),
    "descriptor of a folder": (
        "import os, exercises\n"
        "folder = os.open(os.path.dirname(exercises.__file__), os.O_RDONLY)\n"
        "os.open('exercise-was-here', os.O_WRONLY | os.O_CREAT, dir_fd=folder)",
        "open a folder",
    ),
    "folder elsewhere": ("import os; os.mkdir('/tmp/exercise-was-here')", "make folders"),
    "moves the grader": ("import os, exercises; os.rename(exercises.__file__, 'mine')", "move files"),
    "rights of the grader": ("import os, exercises; os.chmod(exercises.__file__, 0)", "change rights"),
    "compiled code of the grader": (
        "import exercises; open(exercises.__cached__, 'wb').write(b'')",
        "write outside its folder",
    ),
    "datagram": (
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "use the network",
    ),
    "local socket": ("import socket; socket.socketpair()", "use the network|SIGSYS"),
    "swallowed": (
        "import os\nfor act in (os.fork, lambda: open('/tmp/exercise-was-here', 'w')):\n"
        "  try: act()\n  except BaseException: pass",
        "start a process",
    ),
    "hook switched off": (
        "import gc, os\n"
        "for o in gc.get_objects():\n"
        "  if 'ook' in type(o).__name__ or 'ook' in str(getattr(o, '__name__', '')):\n"
        "    try: o.active = False\n"
        "    except Exception: pass\n"
        "os.mkdir('/tmp/exercise-was-here')",
        "make folders",
    ),
    "hook replaced": (
        "import gc\n"
        "for o in gc.get_objects():\n"
        "  if getattr(o, '__qualname__', '') == '_hook.<locals>.hook':\n"
        "    o.__code__ = (lambda *a, **k: None).__code__",
        "replace the code",
    ),
    "hook emptied": (
        "import gc, os\n"
        "for o in gc.get_objects():\n"
        "  if getattr(o, '__qualname__', '') == '_hook.<locals>.hook':\n"
        "    for kept in (o.__dict__, o.__kwdefaults__ or {}): kept.clear()\n"
        "    for cell in o.__closure__ or (): cell.cell_contents = None\n"
        "    o.__globals__['_CODE'] = ()\n"
        "os.mkdir('/tmp/exercise-was-here')",
        "make folders",
    ),
    "Python replaced": ("import os\nos.path.realpath = lambda path: os.devnull", "posixpath.realpath|ntpath.realpath"),
    "list for a frame": (
        "from exercises.grading import wire\n"
        "for fd in range(3, 20):\n"
        "  try: wire.write(open(fd, 'wb', closefd=False), [1, [2]])\n"
        "  except OSError: pass",
        "it answers no request",
    ),
    "odd frame": (
        "import os, struct\n"
        "for fd in range(3, 20):\n"
        "  try: os.write(fd, struct.pack('<4sQQ', b'MOE1', 10, 0) + b'{\"dict\":3}')\n"
        "  except OSError: pass",
        "no answer",
    ),
    "answer in advance": (
        "from exercises.grading import wire\n"
        "right = {'id': 'ready', 'answer': {'outcomes': [{'value': np.array([9.0, 9.0])}], 'tampered': []}}\n"
        "for fd in range(3, 20):\n"
        "  try: wire.write(open(fd, 'wb', closefd=False), right)\n"
        "  except OSError: pass",
        "it answers no request",
    ),
    "answer as the hook": (
        "from exercises.grading import wire\n"
        "right = {'id': 'not allowed', 'answer': {'outcomes': [{'value': np.array([9.0, 9.0])}], 'tampered': []}}\n"
        "for fd in range(3, 20):\n"
        "  try: wire.write(open(fd, 'wb', closefd=False), right)\n"
        "  except OSError: pass",
        "it answers no request",
    ),
    "array for an id": (
        "from exercises.grading import wire\n"
        "for fd in range(3, 20):\n"
        "  try: wire.write(open(fd, 'wb', closefd=False), {'id': np.zeros(2), 'answer': {}})\n"
        "  except OSError: pass",
        "it answers no request",
    ),
    "signal without a name": (
        "import ctypes; ctypes.CDLL(None)['raise'](40)",
        "signal 40",
    ),
    "giant name": ("raise type('E' * 10**6, (Exception,), {})('m' * 10**6)", "EEEE"),
    "exception without words": (
        "class Mute(Exception):\n    def __str__(self): raise SystemExit(0)\nraise Mute",
        "Mute",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_its_own_check_only(exercise, name):
    attack, reason = ATTACKS[name]
    began = time.perf_counter()
    if "0.7 s" not in reason:  # whatever else the machine does meanwhile
        exercise = replace(exercise, time_limit=5.0)
    result = grade_source(exercise, solution(attack), "ex01.py")
    before, struck, after = result.checks
    assert before.passed
    assert after.passed
    assert not struck.passed
    assert reason in struck.problem.message
    assert time.perf_counter() - began < 12
    assert not os.path.exists("/tmp/exercise-was-here")


def test_further_attacks_cost_their_own_checks_only(exercise):
    result = grade_all(exercise, [code for code, _ in MORE_ATTACKS.values()])
    for check, (name, (_, reason)) in zip(result.checks[1:], MORE_ATTACKS.items(), strict=False):
        assert re.search(reason, check.problem.message), (name, check.problem.message)
        assert len(check.problem.message) < 2000
    assert result.checks[0].passed
    assert result.checks[-1].passed
    assert not os.path.exists("/tmp/exercise-was-here")


def grade_all(exercise, attacks, head=""):
    """Grade a file in which every attack has a check of its own, between two without."""
    exercise = replace(exercise, time_limit=5.0)
    first, *_, last = exercise.checks
    struck = [case(np.array([[9.0, i]]), (1, 2)) for i in range(len(attacks))]
    checks = (first, *(Check(f"attack {i}", 1, one_by_one(c), "-") for i, c in enumerate(struck)), last)
    functions = "".join(f"def attack_{i}(grad, shape):\n{textwrap.indent(a, '    ')}\n" for i, a in enumerate(attacks))
    call = "return globals()[f'attack_{int(grad[0, 1])}'](grad, shape)"
    source = solution(call, "import numpy as np\n" + textwrap.dedent(head) + functions)
    return grade_source(replace(exercise, checks=checks), source, "ex01.py")


@pytest.mark.parametrize("head", ["while True: pass", "import os; os._exit(0)", "raise SystemExit", "1 +", "x = y"])
def test_a_file_that_attacks_when_it_is_loaded_earns_nothing(exercise, head):
    result = grade_source(exercise, head + "\n", "ex01.py")
    assert result.earned == 0
    assert all(check.problem.message for check in result.checks)


def test_a_file_that_never_loads_is_given_up_after_the_second_time(exercise, monkeypatch):
    """A class's table must not wait for as many time limits as there are checks."""
    started = []

    class Counted(process.Child):
        def __enter__(self):
            started.append(self)
            return super().__enter__()

    monkeypatch.setattr(grade, "Child", Counted)
    monkeypatch.setattr(grade, "processors", lambda: 1)
    checks = tuple(replace(exercise.checks[0], name=f"check {i}") for i in range(7))
    result = grade_source(replace(exercise, checks=checks), "while True: pass", "ex01.py")
    assert len(started) == 2
    assert [check.problem.message for check in result.checks] == [result.checks[0].problem.message] * 7
    assert "no answer within 0.7 s" in result.checks[0].problem.message


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


def test_a_busy_machine_gives_more_time(exercise, monkeypatch):
    """Whose processor does other work half of the time has twice the time; who sleeps has not."""
    late = solution("import time; time.sleep(0.45)")  # twice
    monkeypatch.setattr(process, "_processor_seconds", lambda pid: 0.5 * time.monotonic())
    assert grade_source(exercise, late, "ex01.py").checks[1].passed
    monkeypatch.undo()
    assert "no answer within 0.7 s" in grade_source(exercise, late, "ex01.py").checks[1].problem.message


def test_compiled_code_is_graded_within_the_limits(exercise):
    compiled = solution("pass", "from numba import njit").replace("def undo", "@njit(cache=True)\ndef undo")
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


# Past Python, where only the system can refuse: ended by a signal, or an error.
PAST_PYTHON = {
    "fork": ("libc.fork()", "SIGSYS"),
    "daemon": ("libc.fork() == 0 and (libc.setsid(), libc.fork(), time.sleep(60))", "SIGSYS"),
    "exec": ("libc.execv(b'/bin/true', (ctypes.c_char_p * 1)())", "SIGSYS"),
    "datagram": ("libc.socket(2, 2, 0)", "SIGSYS"),
    "signal to the parent": ("libc.kill(os.getppid(), 0)", "SIGSYS"),
    "signal to all": ("libc.kill(-1, 0)", "SIGSYS"),
    "limits of the parent": ("libc.prlimit(os.getppid(), 7, ctypes.byref((ctypes.c_ulong * 2)(1, 1)), None)", ""),
    "memory of the parent": ("libc.open(f'/proc/{os.getppid()}/mem'.encode(), os.O_RDWR)", ""),
    "own memory": ("libc.open(b'/proc/self/mem', os.O_RDWR)", ""),
    "writing": ("libc.open(target, os.O_WRONLY)", ""),
    "truncating": ("libc.open(target, os.O_RDONLY | os.O_TRUNC)", ""),
    "truncating by name": ("libc.truncate(target, 0)", ""),
    "hard link": ("libc.link(target, b'mine')", ""),
    "rights": ("libc.chmod(target, 0)", ""),
    "times": ("libc.utimes(target, None)", ""),
    "deleting": ("libc.unlink(target)", ""),
    "a new file": ("libc.open(target + b'2', os.O_WRONLY | os.O_CREAT, 0o600)", ""),
    "another user": ("libc.setuid(1)", ""),
    "shared memory": ("libc.shmget(0, 4096, 0o1600)", "SIGSYS"),
}
KERNEL = {"Landlock", "seccomp"} <= set(containment.available())


@pytest.mark.skipif(not KERNEL, reason="this system has no Landlock or no seccomp")
def test_the_system_refuses_what_leaves_python(exercise, tmp_path, monkeypatch):
    """All at once: each attack is a check of its own, and must be refused by the kernel, not by chance."""
    monkeypatch.setattr(containment, "available", lambda: ("Landlock", "seccomp", "limits"))
    target = tmp_path / "code.py"
    target.write_text("right")
    before = target.stat()
    head = f"import ctypes, os, time\nlibc = ctypes.CDLL(None, use_errno=True)\ntarget = {os.fsencode(target)!r}\n"
    told = "result = {}\nraise ValueError(f'refused {{result}} {{ctypes.get_errno()}}')"
    result = grade_all(exercise, [told.format(code) for code, _ in PAST_PYTHON.values()], head)
    for check, (name, (_, reason)) in zip(result.checks[1:], PAST_PYTHON.items(), strict=False):
        expected = reason or f"refused -1 {errno.EACCES}|refused -1 {errno.EPERM}|refused -1 {errno.EXDEV}"
        assert re.search(expected, check.problem.message), (name, check.problem.message)
    after = target.stat()
    assert target.read_text() == "right"
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, 1)
    assert os.listdir(tmp_path) == ["code.py"]


def test_signals_to_itself_are_its_own(exercise):
    ended = grade_source(exercise, solution("import os; os.abort()"), "ex01.py").checks[1]
    assert "SIGABRT" in ended.problem.message


@pytest.mark.skipif(not bubblewrap.works(), reason="bubblewrap is not installed, or may not make namespaces")
def test_bubblewrap_stands_in_for_landlock(exercise, tmp_path, monkeypatch):
    monkeypatch.setattr(containment, "available", lambda: ("bubblewrap",))
    attack = f"""
        import os, socket, subprocess
        subprocess.Popen(["sleep", "60"], start_new_session=True)
        seen = [p for p in os.listdir("/proc") if p.isdigit()]
        open("mine", "w").write("x")
        try:
            open({str(tmp_path / "x")!r}, "w")
        except OSError as error:
            raise ValueError(len(seen) < 9, error.strerror, len(socket.if_nameindex()))
    """
    result = grade_source(exercise, solution(attack), "ex01.py")
    assert result.checks[0].passed
    assert result.checks[1].problem.message == "ValueError: (True, 'Read-only file system', 1)"
    assert "SIGSEGV" in grade_source(exercise, solution(ATTACKS["crash"][0]), "ex01.py").checks[1].problem.message


DAEMON = """
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(8)  # holds every pipe of the grader open
        os._exit(0)
    os._exit(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("found", [True, False])
def test_a_daemon_that_holds_the_pipes_does_not_hang_the_grader(exercise, monkeypatch, found):
    """Without any layer. It is found by its environment and killed; where that is impossible it is left behind."""
    monkeypatch.setattr(containment, "available", lambda: ())
    killed = []
    kill = process._kill_marked
    monkeypatch.setattr(process, "_kill_marked", lambda mark: killed.append(mark) or (found and kill(mark)))
    began = time.perf_counter()
    result = grade_source(exercise, solution(DAEMON), "ex01.py")
    assert time.perf_counter() - began < 7
    assert [c.passed for c in result.checks] == [True, False, True]
    if found and os.path.isdir("/proc"):
        assert not [p for p in os.listdir("/proc") if p.isdigit() and _marked(p, killed)]
    for mark in killed:
        kill(mark)


@pytest.mark.parametrize("what", ["changed", "new"])
def test_without_a_read_only_view_changed_code_is_noticed(exercise, tmp_path, monkeypatch, what):
    code = tmp_path / "grader.py"
    code.write_text("right")
    monkeypatch.setattr(containment, "available", lambda: ())
    monkeypatch.setattr(fingerprint, "_own", lambda: map(str, tmp_path.iterdir()))
    fingerprint._first.cache_clear()
    attack = f"open({str(code if what == 'changed' else tmp_path / 'numpy.py')!r}, 'w').write('forged')"
    result = grade_source(exercise, solution(attack), "ex01.py")
    fingerprint._first.cache_clear()
    assert "code changed while it was graded" in result.checks[1].problem.message
    assert result.checks[0].passed or "code changed" in result.checks[0].problem.message


def test_a_second_grading_does_not_trust_changed_code(exercise, tmp_path, monkeypatch):
    code = tmp_path / "grader.py"
    code.write_text("right")
    monkeypatch.setattr(containment, "available", lambda: ())
    monkeypatch.setattr(fingerprint, "_own", lambda: [str(code)])
    fingerprint._first.cache_clear()
    assert grade_source(exercise, solution("pass"), "ex01.py").passed
    code.write_text("forged")
    later = grade_source(exercise, solution("pass"), "ex01.py")
    fingerprint._first.cache_clear()
    assert later.earned == 0


def test_a_child_that_reads_nothing_does_not_block_the_parent(exercise, monkeypatch):
    """It answers by itself and sleeps; the next request is larger than a pipe that nobody reads."""
    monkeypatch.setattr(grade, "processors", lambda: 1)
    large = Check("large", 1, one_by_one(case(np.ones((200, 1000)), (1000,))), "-")
    attack = """
        import sys, time
        from exercises.grading import wire
        frame = sys._getframe()
        while frame.f_code.co_name != "main":
            frame = frame.f_back
        mine = {"outcomes": [{"value": grad}]}
        wire.write(frame.f_locals["answers"], {"id": frame.f_locals["request"]["id"], "answer": mine})
        time.sleep(60)
    """
    began = time.perf_counter()
    result = grade_source(replace(exercise, checks=(exercise.checks[1], large)), solution(attack), "ex01.py")
    assert [c.passed for c in result.checks] == [True, False]
    assert "no answer within" in result.checks[1].problem.message
    assert time.perf_counter() - began < 10


def test_terminal_escapes_do_not_reach_the_report(exercise):
    attack = r"raise type('E\x1b]0;x\x07', (Exception,), {})('\x1b[2J\x9b31m\u202e\nscore: 99')"
    result = grade_source(exercise, solution(attack), "ex01.py")
    console = Console(file=io.StringIO(), width=80)
    print_result(console, result)
    for text in (console.file.getvalue(), gradescope([result]), junit([result]), markdown([result])):
        assert not [c for c in text if c != "\n" and not c.isprintable()]
    assert "\nscore: 99" not in markdown([result])


def _marked(pid, marks):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return False
    return any(mark in environment for mark in marks)
