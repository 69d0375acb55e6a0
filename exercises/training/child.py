"""The process that trains: the demo's model, with a learner's functions in the place of the library's."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..exercise import resolve
from ..grading import child, outcome
from .swap import counted, swapped


class Training:
    """Answers ``{"steps": n}`` with the losses of the next n steps and the calls so far.

    The setup lists ``functions``: each a setup as for a check, with ``target`` and ``label``; ``reference`` is the
    target itself where the library's own function is to run.
    """

    def __init__(self, setup: dict[str, Any]):
        from moe_numpy.training import Trainer, load_corpus, presets

        self.functions = setup["functions"]
        for function in self.functions:
            child.prepare_for(function)
        self.calls: Counter[str] = Counter()
        self.stack: ExitStack | None = None
        model, config = presets.demo(steps=setup["steps"], seed=setup["seed"])
        model = replace(model, recipe=setup["recipe"])
        self.trainer = Trainer(model, config, load_corpus((), model.context))

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a little; an exception is described, with the learner's own line."""
        losses: list[float] = []
        files = [function["file"] for function in self.functions if function["file"]]
        try:
            if self.stack is None:
                self._swap()
            for _ in range(request["steps"]):
                losses.append(self.trainer.step().loss)
        except BaseException as error:
            described = [outcome.describe_error(error, file) | {"file": file} for file in files]
            return {"error": next((d for d in described if d["line"]), described[0] if described else {})}
        return {"losses": losses, "calls": dict(self.calls)}

    def _swap(self) -> None:
        """Load and swap in; it stays so for the life of this process."""
        self.stack = ExitStack()
        for function in self.functions:
            solution = child.load(function) if function["source"] else resolve(function["target"])
            self.stack.enter_context(swapped(function["target"], counted(solution, self._note(function["label"]))))

    def _note(self, label: str) -> Any:
        def note() -> None:
            self.calls[label] += 1

        return note
