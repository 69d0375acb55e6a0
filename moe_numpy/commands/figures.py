"""Figures as PNGs in a folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..training import Run
from .output import note, reason
from .picture_tables import shares_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_run_figures(run: Run, summary: Mapping[str, Any]) -> list[Path]:
    """Draw the learning curves and, for a sparse model, its routing at the end and over training."""

    def draw(plots: Any) -> "dict[str, Figure]":
        figures = {"learning_curves": plots.learning_curves(_curves(run), summary["unit"])}
        layers = summary["sparse_layers"]
        if layers:
            domain_expert, load = np.array(summary["domain_expert_by_layer"]), np.array(summary["expert_load"])
            dropped = np.array(summary["dropped_fraction_by_layer"])
            figures["expert_by_domain"] = plots.expert_by_domain(domain_expert, summary["domains"], layers)
            figures["expert_load"] = plots.expert_load(load, dropped, layers)
            figures["load_over_training"] = plots.load_over_training(*load_history(run), layers)
            if "pictures" in summary:
                figures["expert_by_modality"] = plots.expert_by_modality(shares_of(summary["pictures"]), layers)
        return figures

    return save_figures(run.folder, draw)


def save_figures(folder: Path, draw: "Callable[[Any], dict[str, Figure]]") -> list[Path]:
    """Draw with :mod:`moe_numpy.plots` and write figures by name into a folder; return their paths.

    What cannot be drawn or written is told on stderr: the numbers are there without it.
    """
    try:
        from .. import plots  # imports matplotlib, which takes longer than the rest of the command line
    except ModuleNotFoundError as error:
        note(f"no figures: {error.name} is missing; python -m pip install {error.name}")
        return []
    except (ImportError, ValueError) as error:  # an unknown MPLBACKEND
        note(f"no figures: {error}")
        return []
    saved = []
    for name, figure in draw(plots).items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.png"
            plots.save(figure, path)
        except OSError as error:
            note(f"a figure was not saved: {reason(error)}")
        else:
            saved.append(path)
    return saved


class LoadHistory(NamedTuple):
    """Steps [N], the load of every expert at each [N, L, E], and after which step which expert of a layer was split."""

    step: Any
    load: Any
    splits: Sequence[tuple[int, int, int]]


NO_HISTORY = LoadHistory((), (), ())


def load_history(run: Run) -> LoadHistory:
    """Of all steps of a run."""
    history = run.history()
    splits = [(r["step"], layer, idle) for r in history for layer, idle, _ in r["splits"]]
    return LoadHistory(np.array([r["step"] for r in history]), np.array([r["expert_load"] for r in history]), splits)


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
