"""Two models side by side: one runs the learner's functions, one the library's. They must agree."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..exercise import Exercise
from ..grading.ended import Ended
from ..grading.process import Child

_STEPS = 5  # between two looks at the clock
_MEMORY = 8 * 2**30
AGREEMENT = 0.02  # nats; float32 sums in another order differ by less after some hundred steps
LONGEST = 60.0


class TrainingError(Exception):
    """The learner's functions ended the training; the message says how."""


@dataclass
class Comparison:
    """Both loss curves in nats per byte, and how often each function was called."""

    mine: list[float] = field(default_factory=list)
    library: list[float] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def difference(self) -> float:
        """The largest, over the steps."""
        return float(np.max(np.abs(np.subtract(self.mine, self.library)), initial=0.0))  # NaN if one of them is

    @property
    def agrees(self) -> bool:
        """Whether the curves are the same but for rounding."""
        return self.difference <= AGREEMENT


def train(
    exercises: Sequence[Exercise],
    sources: dict[int, tuple[str, str]],
    *,
    seconds: float,
    steps: int,
    seed: int,
    recipe: str,
    on_step: Callable[[int, float, float], None],
) -> Comparison:
    """Train with the learner's sources, ``{number: (source, file)}``, and with the library's, in lockstep.

    Raises:
        TrainingError: the learner's code raised, hung or ended its process.
    """
    result = Comparison()
    began = time.perf_counter()
    of_library = [e for e in exercises if e.target.startswith("moe_numpy.")]
    common = {"steps": steps, "seed": seed, "recipe": recipe, "preload": []}
    mine = common | {"functions": [_function(e, *sources.get(e.number, ("", ""))) for e in of_library]}
    library = common | {"functions": []}
    with (
        Child("train", mine, LONGEST, _MEMORY) as a,
        Child("train", library, LONGEST, _MEMORY) as b,
        ThreadPoolExecutor(2) as pool,
    ):
        while len(result.mine) < steps and time.perf_counter() - began < seconds:
            request = {"steps": min(_STEPS, steps - len(result.mine))}
            first, second = pool.map(lambda child, r=request: child.ask(r), (a, b))
            _require_answer(first, request["steps"])
            if isinstance(second, Ended):
                raise TrainingError(f"the library's own training ended: {second.reason}")
            result.mine += first["losses"]
            result.library += second["losses"]
            result.calls = first["calls"]
            on_step(len(result.mine), result.mine[-1], result.library[-1])
    result.seconds = time.perf_counter() - began
    return result


def _function(e: Exercise, source: str, file: str) -> dict[str, Any]:
    return {
        "target": e.target,
        "label": e.label,
        "attribute": e.attribute,
        "source": source,
        "file": file,
        "reference": None,
    }


def _require_answer(answer: Any, steps: int) -> None:
    if isinstance(answer, Ended):
        raise TrainingError(answer.reason)
    if "error" in answer:
        e = answer["error"]
        where = f" ({e.get('file')}, line {e.get('line')}: {e.get('code')})" if e.get("line") else ""
        raise TrainingError(f"{e.get('type')}: {e.get('message')}{where}")
    if answer.get("not_allowed") or answer.get("tampered"):
        raise TrainingError(answer.get("not_allowed") or f"the code replaced {', '.join(answer['tampered'])}")
    if len(answer.get("losses", ())) != steps or "calls" not in answer:
        raise TrainingError("what came back is no answer")
