import errno
import os
import signal
import subprocess
import sys

import pytest

from moe_numpy.training import lock
from moe_numpy.training.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from moe_numpy.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_no_file_left(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="is in use: another process trains this run"), locked(tmp_path):
            pass
        os.kill(other.pid, signal.SIGKILL)  # however it ends, its lock ends
    with locked(tmp_path):
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_locks_nothing(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "missing"):
        pass
