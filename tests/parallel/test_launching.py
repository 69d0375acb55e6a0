"""Ranks that are started without MPI: where they are, how they meet, and how all end when one does."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moe_numpy.parallel import launching
from moe_numpy.parallel.launching import Place, run_ranks
from moe_numpy.parallel.mpi import ParallelError

ROOT = Path(launching.__file__).parents[2]


@pytest.fixture(autouse=True)
def _grace(monkeypatch):
    monkeypatch.setattr(launching, "_GRACE", 0.3)


def ranks(code, size=2, *arguments):
    """``code`` on so many ranks, with ``rank`` set."""
    rank = "import os, sys, time\nrank = int(os.environ['MOE_NUMPY_RANK'])\n"
    return run_ranks([sys.executable, "-S", "-c", rank + code, *map(str, arguments)], size)


def test_every_rank_knows_its_place_and_what_the_first_told(tmp_path):
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}\n"
        "from moe_numpy.parallel.launching import Place\n"
        "place = Place.own()\n"
        "text = place.told(lambda: f'from {place.rank}'.encode()).decode()\n"
        f"open(f'{tmp_path}/{{place.rank}}', 'w').write(f'{{place.rank}} of {{place.size}}: {{text}}')"
    )
    assert ranks(code).code == 0
    assert [(tmp_path / str(r)).read_text() for r in (0, 1)] == [f"{r} of 2: from 0" for r in (0, 1)]


def test_without_a_starter_there_is_no_place():
    assert Place.own() is None


def test_a_rank_that_does_not_come_is_named(tmp_path):
    (tmp_path / "rank-2").touch()
    with pytest.raises(ParallelError, match=r"ranks 1, 3 did not come within 0\.1 s"):
        Place(0, 4, tmp_path).told(lambda: b"", within=0.1)
    with pytest.raises(ParallelError, match="rank 0 did not come"):
        Place(1, 4, tmp_path).told(lambda: b"", within=0.1)


def test_all_ends_well():
    end = ranks("")
    assert (end.code, end.failure) == (0, None)


def test_ranks_that_refuse_together_have_said_why():
    end = ranks("sys.exit(2)")
    assert (end.code, end.failure) == (2, None)


def test_a_rank_that_fails_ends_the_others():
    start = time.monotonic()
    end = ranks("rank == 1 and sys.exit(3); time.sleep(60)")
    assert (end.code, end.failure) == (3, "rank 1 ended with exit code 3; the other ranks were ended too")
    assert time.monotonic() - start < 20


def test_a_rank_that_is_killed_ends_the_others():
    end = ranks("rank == 2 and os.kill(os.getpid(), 9); time.sleep(60)", 3)
    assert (end.code, end.failure) == (137, "rank 2 was ended by SIGKILL; the other ranks were ended too")


def test_others_that_end_by_themselves_have_the_time_for_it(tmp_path):
    code = "rank == 1 and sys.exit(1); time.sleep(0.1); open(sys.argv[1], 'w').close()"
    assert ranks(code, 2, tmp_path / "done").code == 1
    assert (tmp_path / "done").exists()


WAITING = """
import signal
def stop(n, frame):
    time.sleep(0.6 * (rank == 0))  # longer than the time that a failure leaves
    open(f"{sys.argv[1]}/{rank}-{signal.Signals(n).name}", "w").close()
    sys.exit(128 + n)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
open(f"{sys.argv[1]}/{rank}-waits", "w").close()
time.sleep(60)
"""


def when_all_wait(folder, act, size=2):
    """Call ``act`` in a thread once all ranks wait."""

    def run():
        while len(list(folder.glob("*-waits"))) < size:
            time.sleep(0.02)
        act()

    threading.Thread(target=run).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_ranks_take_their_time(tmp_path, number):
    before = signal.getsignal(number)
    when_all_wait(tmp_path, lambda: os.kill(os.getpid(), number))
    end = ranks(WAITING, 2, tmp_path)
    assert (end.code, end.failure) == (128 + number, None)
    assert {path.name for path in tmp_path.glob("*-SIG*")} == {f"{rank}-{number.name}" for rank in (0, 1)}
    assert signal.getsignal(number) is before


def test_after_a_second_signal_nobody_waits_for_long(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WAITING.replace(
        "signal.signal(signal.SIGINT, stop)", ""
    )
    when_all_wait(tmp_path, twice)
    end = ranks(stubborn, 2, tmp_path)
    assert end.code == 137


def test_ranks_end_with_whoever_started_them(tmp_path):
    """The starter is killed, so it cannot end them."""
    of_rank = (
        f"import sys, os, time; sys.path[:0] = {[str(ROOT), *sys.path]!r}\n"
        "from moe_numpy.parallel.launching import Place\n"
        "Place.own().end_with_starter()\n"
        f"open(f'{tmp_path}/{{os.getpid()}}', 'w').close(); time.sleep(60)"
    )
    of_starter = (
        f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}\n"
        "from moe_numpy.parallel.launching import run_ranks\n"
        f"run_ranks([sys.executable, '-c', {of_rank!r}], 2)"
    )
    with subprocess.Popen([sys.executable, "-c", of_starter]) as starter:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        starter.kill()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    end = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()
