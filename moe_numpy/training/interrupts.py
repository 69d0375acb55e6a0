"""Signals that end training, which wait for the end of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupt:
    """``received`` is the signal that came; None as long as none did."""

    received: signal.Signals | None = None


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Inside the block Ctrl-C, SIGTERM and SIGHUP are only noted, so that no weight is half updated.

    A second one stops at once. SIGHUP stays ignored under nohup.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield interrupt
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    before = {n: handler for n, handler in before.items() if handler != signal.SIG_IGN or n == signal.SIGINT}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(signum: int, frame: Any) -> None:
        interrupt.received = signal.Signals(signum)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        restore()
