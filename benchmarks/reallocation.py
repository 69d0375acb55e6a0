"""``python -m benchmarks.reallocation``: what splitting idle experts and schedules of k and capacity do.

    python -m benchmarks.reallocation [--seeds 3] [--steps 300] [--figure FILE.png] [--json]

Small models on the built-in text, from several seeds. Per way to train: the loss on held-out text, the experts with
less than a tenth of their fair share at the end, and the effective number of experts, exp of the entropy of their
shares, both as means over layers and seeds. The figure has the load of every expert, without a balance loss but with
splits.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from moe_numpy.commands.output import plain_table, print_json
from moe_numpy.models import ModelConfig
from moe_numpy.training import Corpus, StepRecord, Trainer, TrainingConfig, default_corpus
from moe_numpy.training.evaluation import WINDOWS_PER_DOMAIN, evaluate

EXPERTS = 8
IDLE = 0.1  # of the fair share
_MODEL = {"d_model": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "context": 128, "d_ff": 64}
_UNBALANCED = {"balance": 0.0, "capacity_factor": None}
_SPLIT, _COLLAPSED = "no balance loss, idle experts split", "no balance loss"
WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    _COLLAPSED: ("switch", _UNBALANCED, {}),
    _SPLIT: ("switch", _UNBALANCED, {"split_every": 25}),
    "balance loss 0.01": ("switch", {"capacity_factor": None}, {}),
    "balance loss 0.01, idle experts split": ("switch", {"capacity_factor": None}, {"split_every": 25}),
    "capacity factor 1": ("switch", {"capacity_factor": 1.0}, {}),
    "capacity factor 1, from 2": ("switch", {"capacity_factor": 1.0}, {"capacity_from": 2.0}),
    "top-2": ("mixtral", {}, {}),
    "top-2, from top-6": ("mixtral", {}, {"top_k_from": 6}),
}


def trained(way: str, seed: int, steps: int, corpus: Corpus, on_step: Any) -> tuple[list[StepRecord], dict[str, float]]:
    """The records of a run, and what is told of it."""
    recipe, settings, training = WAYS[way]
    model = ModelConfig(**_MODEL, num_experts=EXPERTS, recipe=recipe, recipe_settings=settings)
    config = TrainingConfig(steps=steps, batch_size=8, warmup=steps // 10, seed=seed, **training)
    trainer, records = Trainer(model, config, corpus), []
    for _ in range(steps):
        records.append(trainer.step())
        on_step()
    found = evaluate(trainer.model, corpus.validation_windows(model.context, WINDOWS_PER_DOMAIN), len(corpus.domains))
    share = found.expert_load
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    told = {
        "loss": found.loss,
        "idle": float((share < IDLE / EXPERTS).sum(axis=1).mean()),
        "effective": float(np.exp(entropy).mean()),
        "splits": float(sum(len(record.splits) for record in records)),
    }
    return records, told


def draw(records: Sequence[StepRecord], to: Path) -> None:
    """The load of every expert over training, splits marked."""
    from moe_numpy import plots

    load = np.array([record.expert_load for record in records])
    splits = [(record.step, layer, idle) for record in records for layer, idle, _ in record.splits]
    plots.save(plots.load_over_training(np.arange(1, len(load) + 1), load, splits), to)


def main() -> None:
    """Train every way from every seed, and print a table."""
    parser = argparse.ArgumentParser(description="What splitting idle experts and schedules of k and capacity do.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--figure", type=Path, help="of the run whose idle experts are split")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.json, highlight=False)
    corpus, rows = default_corpus(), []
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=len(WAYS) * arguments.seeds * arguments.steps)
        for way in WAYS:
            told = []
            for seed in range(arguments.seeds):
                records, one = trained(way, seed, arguments.steps, corpus, lambda: progress.advance(task))
                told.append(one)
                if way == _SPLIT and seed == 0 and arguments.figure is not None:
                    draw(records, arguments.figure)
            mean = {name: float(np.mean([one[name] for one in told])) for name in told[0]}
            losses = [one["loss"] for one in told]
            rows.append({"way": way, **mean, "least": min(losses), "most": max(losses)})
    if arguments.json:
        print_json({"steps": arguments.steps, "seeds": arguments.seeds, "experts": EXPERTS, "rows": rows})
        return
    table = plain_table()
    table.add_column("")
    for name in ("nats/byte", "least to most", "idle", "effective", "splits"):
        table.add_column(name, justify="right")
    for row in rows:
        spread = f"{row['least']:.3f} to {row['most']:.3f}"
        counts = f"{row['idle']:.1f}", f"{row['effective']:.1f}", f"{row['splits']:.0f}"
        table.add_row(row["way"], f"{row['loss']:.3f}", spread, *counts)
    console.print(f"{EXPERTS} experts in each of 3 layers, {arguments.steps} steps, {arguments.seeds} seeds")
    console.print(table)


if __name__ == "__main__":
    main()
