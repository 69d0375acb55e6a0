"""Wrong usage in one line on stderr, instead of typer's box; and signals that end a command in order."""

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..kernels import asked_for_cpu
from .output import one_line, reason, short_line

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's, or that of a typer that contains click
_PAUSE = 0.05  # seconds
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _OneLine:
    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **settings: Any) -> Any:
        """Run, and exit as click does: 2 for wrong usage, 130 for Ctrl-C."""
        try:
            asked_for_cpu()
        except ValueError as error:
            _end(str(error), 2)
        try:
            code = super().main(args, *rest, standalone_mode=False, **settings)  # type: ignore[misc]
            if sys.stdout is not None:  # closed by the shell
                sys.stdout.flush()
        except _UsageError as error:
            if not standalone_mode:
                raise
            _end(_told(error, sys.argv[1:] if args is None else args), 2)
        except MemoryError as error:
            _end(reason(error), 1)
        except OSError as error:  # stdout on a full disk, or in a pipe that nobody reads any more
            with contextlib.suppress(OSError):  # nothing is printed at the exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _end("" if isinstance(error, BrokenPipeError) else reason(error), 1)
        except typer.Abort:
            if not standalone_mode:
                raise
            sys.exit(130)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


class Group(_OneLine, TyperGroup):
    """Commands, for ``typer.Typer(cls=Group)``."""


class Command(_OneLine, TyperCommand):
    """A command without a group, for ``@app.command(cls=Command)``."""


def exit_on_signals() -> None:
    """SIGTERM and SIGHUP raise SystemExit with 128 + their number, once, so that everything cleans up.

    Ctrl-C is an exception in Python anyway; where nothing catches it, while a command starts, it ends the process
    without a traceback. What is ignored, SIGHUP under nohup, stays ignored.
    """
    leaving = 0  # the signal, once it has come
    report, report_swallowed = sys.excepthook, sys.unraisablehook

    def leave(number: int, frame: Any) -> None:
        nonlocal leaving
        if not leaving:
            leaving = number
            raise SystemExit(128 + number)

    def again(swallowed: Any) -> None:
        """A destructor or a callback swallows what is raised in it. The signal comes again when that is over."""
        nonlocal leaving
        if not (leaving and isinstance(swallowed.exc_value, SystemExit)):
            report_swallowed(swallowed)
            return
        timer = threading.Timer(_PAUSE, os.kill, (os.getpid(), leaving))
        leaving, timer.daemon = 0, True
        timer.start()

    def unless_interrupted(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            report(kind, error, trace)

    sys.excepthook, sys.unraisablehook = unless_interrupted, again
    for each in _ENDING:
        if signal.getsignal(each) == signal.SIG_DFL:
            signal.signal(each, leave)


def _end(told: str, exit_code: int) -> NoReturn:
    """Exit, with the error on stderr unless it is empty."""
    if told:
        typer.echo(f"error: {short_line(told)}", err=True)
    sys.exit(exit_code)


def _told(error: Any, arguments: Sequence[str]) -> str:
    """What is wrong, with the option, its value and where to read on; empty if click has printed the help."""
    options = [name for name in getattr(getattr(error, "param", None), "opts", ()) if name.startswith("-")]
    message = error.format_message()
    if type(error) is typer.BadParameter and options:
        message = f"{options[0]}: {error.message}"
        values = [value for name, value in itertools.pairwise([*arguments, ""]) if name in options]
        values += [value for name, equals, value in (a.partition("=") for a in arguments) if equals and name in options]
        if values and repr(values[-1]) not in message:
            message = f"{message.rstrip('.')}, got {values[-1]!r}"
    if not message:
        return ""
    message = " ".join(one_line(message).split())
    return message if error.ctx is None else f"{message.rstrip('.')}; see {error.ctx.command_path} --help"
