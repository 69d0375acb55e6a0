"""The PNGs of a run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..training import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_run_figures(run: Run, summary: Mapping[str, Any]) -> list[Path]:
    """Draw the learning curves and, for a sparse model, its routing at the end and over training."""
    from .. import plots  # imports matplotlib, which takes longer than the rest of the command line

    figures = {"learning_curves": plots.learning_curves(_curves(run))}
    layers = summary["sparse_layers"]
    if layers:
        domain_expert, load = np.array(summary["domain_expert_by_layer"]), np.array(summary["expert_load"])
        dropped = np.array(summary["dropped_fraction_by_layer"])
        figures["expert_by_domain"] = plots.expert_by_domain(domain_expert, summary["domains"], layers)
        figures["expert_load"] = plots.expert_load(load, dropped, layers)
        figures["load_over_training"] = plots.load_over_training(*load_history(run), layers)
    return save_figures(run, figures)


def save_figures(run: Run, figures: "Mapping[str, Figure]") -> list[Path]:
    """Write figures by name; return their paths."""
    from ..plots import save

    for name, figure in figures.items():
        save(figure, run.figure(name))
    return [run.figure(name) for name in figures]


def load_history(run: Run) -> tuple[Any, Any]:
    """Steps [N], and the load of every expert at each [N, L, E]."""
    history = run.history()
    return np.array([r["step"] for r in history]), np.array([r["expert_load"] for r in history])


def _curves(run: Run) -> list[Any]:
    """The run's own curve, and that of its dense twin if it has one."""
    from ..plots import Curve

    twin = run.dense_twin()
    curves = []
    for each in [run] if twin is None else [run, twin]:
        history = each.history()
        steps, losses = (np.array([r[key] for r in history]) for key in ("step", "loss"))
        label = "MoE" if each.model_config.num_experts else "dense"
        curves.append(Curve(label, steps, losses, each.validation()))
    return curves
