"""The limits of the operating system, one by one, in a process that enters them."""

import os
import subprocess
import sys

import pytest

resource = pytest.importorskip("resource")

SECONDS, MEMORY = 2.5, 2**31
ENTER = f"from exercises.containment import limits; limits.enter({SECONDS}, {MEMORY})\n"


def after_entering(code):
    """What a process prints that enters the limits and then runs this code; none of root's exemptions."""
    drop = "import os, resource, threading\nif os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    done = subprocess.run([sys.executable, "-c", drop_after_import(drop, code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def drop_after_import(drop, code):
    load, enter = ENTER.split(";")
    return f"{load}\n{drop}{enter.strip()}\n{code}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AS", MEMORY),
        ("CPU", 35),  # ten times the time allowed, and ten
        ("FSIZE", 16 * 2**20),
        ("NOFILE", 256),
        ("CORE", 0),
        ("NPROC", 0),
    ],
)
def test_each_limit_is_set_and_cannot_be_raised(name, value):
    assert after_entering(f"print(*resource.getrlimit(resource.RLIMIT_{name}))") == f"{value} {value}"
    higher = f"resource.setrlimit(resource.RLIMIT_{name}, ({value + 1}, {value + 1}))"
    assert after_entering(f"try: {higher}\nexcept ValueError: print('no')") == "no"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("bytearray(3 * 2**30)", "MemoryError"),
        (
            "import tempfile; f = tempfile.TemporaryFile(buffering=0); f.write(bytes(2**24)); f.write(b'x')",
            "OSError 27",
        ),
        ("files = [open(os.devnull) for _ in range(256)]", "OSError 24"),
        ("os.fork()", "BlockingIOError 11"),
    ],
)
def test_what_exceeds_a_limit_fails(code, error):
    caught = f"try:\n    {code}\nexcept Exception as e:\n    print(type(e).__name__, getattr(e, 'errno', ''))"
    assert after_entering(caught) == error.strip()


def test_a_loop_is_ended_by_the_processor_time():
    code = ENTER + "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode in (-24, -9)  # SIGXCPU, or SIGKILL at the hard limit


def test_a_limit_that_is_lower_already_stays(monkeypatch):
    code = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); {ENTER}"
    code += "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["100", "100"]


def test_a_system_without_a_limit_is_fine(monkeypatch):
    from exercises.containment import limits

    monkeypatch.setattr(resource, "getrlimit", lambda which: (_ for _ in ()).throw(OSError))
    limits.enter(1.0, MEMORY)
    monkeypatch.setitem(sys.modules, "resource", None)
    limits.enter(1.0, MEMORY)
    assert os.getpid()
