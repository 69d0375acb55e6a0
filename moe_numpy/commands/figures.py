"""The PNGs of a run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..training.runs import Run


def save_run_figures(run: Run, summary: Mapping[str, Any]) -> list[Path]:
    """Draw the learning curves and, for a sparse model, its routing at the end and over training."""
    from .. import plots  # brings matplotlib, which takes longer than the rest of the command line

    figures = {"learning_curves.png": plots.learning_curves(_curves(run))}
    layers = summary["sparse_layers"]
    if layers:
        figures["expert_by_domain.png"] = plots.expert_by_domain(
            np.array(summary["domain_expert_by_layer"]), summary["domains"], layers
        )
        figures["expert_load.png"] = plots.expert_load(
            np.array(summary["expert_load"]), np.array(summary["dropped_fraction_by_layer"]), layers
        )
        steps, load = load_history(run)
        figures["load_over_training.png"] = plots.load_over_training(steps, load, layers)
    for name, figure in figures.items():
        plots.save(figure, run.folder / name)
    return [run.folder / name for name in figures]


def load_history(run: Run) -> tuple[Any, Any]:
    """Steps [N], and the load of every expert at each [N, L, E]."""
    history = run.history()
    return np.array([r["step"] for r in history]), np.array([r["expert_load"] for r in history])


def _curves(run: Run) -> list[Any]:
    """The run's own curve, and that of its dense twin if it has one."""
    from ..plots import Curve

    runs = [run]
    if (run.folder / "dense").is_dir():
        runs.append(Run.open(run.folder / "dense"))
    curves = []
    for each in runs:
        history = each.history()
        steps, losses = (np.array([r[key] for r in history]) for key in ("step", "loss"))
        label = "MoE" if each.model_config.num_experts else "dense"
        curves.append(Curve(label, steps, losses, each.validation()))
    return curves
