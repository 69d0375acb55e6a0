"""Bubblewrap: namespaces of its own for a process, where Landlock is missing. https://github.com/containers/bubblewrap"""

import shutil
import subprocess
import sys
import tempfile
from functools import cache

from . import linux


def prefix(folder: str) -> list[str]:
    """What to put before a command: everything read-only but ``folder``, no network, no other processes."""
    view = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", folder, folder, "--chdir", folder]
    return ["bwrap", *view, "--unshare-all", "--die-with-parent"]


@cache
def works() -> bool:
    """Whether it is installed, this user may make namespaces, and Python runs in them."""
    if not linux.LINUX or shutil.which("bwrap") is None:
        return False
    try:
        command = [*prefix(tempfile.gettempdir()), sys.executable, "-I", "-S", "-c", ""]
        done = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
