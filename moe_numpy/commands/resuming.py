"""``python -m moe_numpy train --resume``: the run as it continues."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..models import ModelConfig
from ..moe.recipes import find
from ..training import Run, Trainer
from ..training.ranks import Ranks


def resumed(
    run: Run, given: dict[str, Any], paths: list[str], source: Path | None, from_step: int | None, ranks: Ranks
) -> tuple[Run, Trainer]:
    """The run as it continues, and its trainer. ValueError if it was configured differently from what was given."""
    _require_same(run, given, paths, source)
    step = run.newest_step() if from_step is None else from_step  # None: it ended before its first checkpoint
    if step is not None:
        run.stored(step, ranks)  # before a model of its configuration is allocated
    run = run.with_steps(given.get("steps", run.training_config.steps))
    if run.training_config.steps < (step or 0):
        raise ValueError(f"--steps {run.training_config.steps} is less than the {step} completed in {run.folder}")
    twin = run.dense_twin()
    if twin is not None:
        twin.summary(), twin.history()  # the results contain them; refused now if they are damaged
    config = replace(run.training_config, device=given.get("device", run.training_config.device))
    first_weights = Path(run.source) if run.source is not None and step is None else None
    trainer = Trainer(run.model_config, config, run.corpus(), first_weights, ranks)
    if step is not None:
        trainer.resume(run, step)
    elif ranks.is_first:
        run.rewind(0)
    if ranks.is_first:
        run.write_config()
    return run, trainer


def _require_same(run: Run, given: dict[str, Any], paths: list[str], source: Path | None) -> None:
    stored: dict[str, Any] = {}
    if isinstance(run.model_config, ModelConfig):
        recipe = find(run.model_config.recipe)
        stored = recipe.settings | dict(recipe.small) | dict(run.model_config.recipe_settings)
    stored |= run.model_config.to_json() | asdict(run.training_config)
    if "capacity_factor" in stored:
        stored["capacity_factor"] = stored["capacity_factor"] or 0
    conflicts = [
        f"{option(name)} {_shown(value)} (the run has {_shown(stored.get(name))})"
        for name, value in given.items()
        if value != stored.get(name) and name not in ("device", "steps")
    ]
    if source is not None and os.path.realpath(source) != run.source:
        conflicts.append(f"--from {source} (the run began with {run.source or 'random weights'})")
    if paths and tuple(paths) != run.text:
        has = " ".join(run.text) or "the built-in text"
        conflicts.append(f"--text {' '.join(paths)} (the run has {has})")
    if conflicts:
        raise ValueError(f"{run.folder} was configured differently: {', '.join(conflicts)}; leave that out")


def _shown(value: Any) -> str:
    """A setting as it is given on the command line."""
    return (" ".join(map(repr, value)) or "nothing") if isinstance(value, tuple) else str(value)


def option(name: str) -> str:
    """The option that gives a setting."""
    return f"--{name.replace('_', '-')}"
