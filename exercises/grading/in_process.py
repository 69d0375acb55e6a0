"""Where no process can be started, a solution runs in this one: in a browser, under WebAssembly.

It is judged as in a child, from copies of what goes in and comes out. What a child has besides is missing: no time
limit, no limit of memory, no layer of ``containment``. An endless loop ends with the notebook's kernel.
"""

import contextlib
import io
import sys
from typing import Any

from . import answers, child, wire
from .ended import Ended

NO_PROCESSES = sys.platform in ("emscripten", "wasi")
SAID = "graded without a process of its own and without time limits: an endless loop ends only with the kernel"
_KEPT_OUTPUT = 4000


class InProcess:
    """Answers as :class:`~exercises.grading.process.Child` does; what a solution replaces elsewhere is put back.

    Args:
        setup: what the task must know beforehand; ``preload`` names modules to import.
    """

    def __init__(self, setup: dict[str, Any]):
        self.setup = setup
        self.output = b""

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        sys.modules.pop("learner", None)

    def ask(self, request: dict[str, Any], time_limit: float = 0.0) -> Any:
        """The answer to one request, or Ended. ``time_limit`` is not kept."""
        printed = io.StringIO()
        snapshot = child.Snapshot()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                child.prepare(self.setup["preload"])
                answer = child.Checking(self.setup)(_copied(request))
            except ImportError as error:
                return Ended(f"this needs what is missing here: {error}")
        answer["tampered"] = snapshot.changes()
        snapshot.restore()
        self.output = (self.output + printed.getvalue().encode("utf-8", "replace"))[:_KEPT_OUTPUT]
        try:
            return answers.checked(_copied(answer))
        except wire.BrokenMessageError as error:
            return Ended(f"what came back is no answer: {error}")


def _copied(value: Any) -> Any:
    """The value as it arrives in another process."""
    stream = io.BytesIO()
    wire.write(stream, value)
    stream.seek(0)
    return wire.read(stream)
