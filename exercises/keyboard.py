"""Single keys on a learner's terminal, and the editor."""

import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WINDOWS = os.name == "nt"


class Keys:
    """Keys as they are pressed. Without a terminal there are none.

    Attributes:
        available: whether there is a terminal to press them on.
    """

    def __init__(self) -> None:
        self.available = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        self._usual: Any = None  # how the terminal was

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """In this block keys arrive without Enter, and are not shown; Ctrl-C stays what it is."""
        if not self.available or _WINDOWS:
            yield
            return
        import termios
        import tty

        self._usual = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin, termios.TCSADRAIN)  # what was typed already stays
        try:
            yield
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._usual)

    @contextmanager
    def as_usual(self) -> Iterator[None]:
        """In this block, inside of :meth:`one_by_one`, the terminal is as another program expects it."""
        if self._usual is None:
            yield
            return
        import termios

        ours = termios.tcgetattr(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._usual)
        try:
            yield
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, ours)

    def pressed(self, seconds: float) -> str:
        """The key that is pressed within this time; empty if none is."""
        if not self.available or _WINDOWS:
            time.sleep(seconds)
            return _on_windows() if self.available else ""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return os.read(sys.stdin.fileno(), 1).decode(errors="ignore") if ready else ""


def _on_windows() -> str:
    import msvcrt

    return str(msvcrt.getwch()) if msvcrt.kbhit() else ""  # type: ignore[attr-defined]


def edit(path: Path) -> str:
    """Open a file in the learner's editor and wait for its end. Why that is not possible; empty if it was."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        return "the environment variable EDITOR names no editor"
    try:
        subprocess.run([*shlex.split(editor, posix=not _WINDOWS), str(path)], check=False)
    except (OSError, ValueError) as error:
        return f"the editor {editor!r} does not start: {error}"
    return ""
