"""``python -m benchmarks.fewer_experts``: what dropping and merging experts costs the demo's model.

    python -m benchmarks.fewer_experts [RUN] [--counts 1 4 8]

Per number of experts that each layer loses: how much the loss on held-out text rises, in nats per byte. Experts are
dropped by load, by gate mass or by contribution; or those with the least gate mass are merged into the one most like
them, by outputs or by weights, with hidden units aligned first or not.
"""

import argparse
from pathlib import Path

from rich.console import Console

from moe_numpy.commands.output import plain_table
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.moe.merging import weight_similarity
from moe_numpy.training.changing_experts import (
    Changed,
    least_into_nearest,
    least_used,
    with_merged,
    without_experts,
)
from moe_numpy.training.evaluation import WINDOWS_PER_DOMAIN, evaluate
from moe_numpy.training.expert_patterns import moe_layers
from moe_numpy.training.expert_use import expert_use

from .held_out import open_or_train


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="run folder; without it the demo's model is trained first")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 8])
    arguments = parser.parse_args()
    console = Console(highlight=False)
    model, corpus = open_or_train(arguments.run, console)
    config = model.config
    assert isinstance(config, ModelConfig)
    windows = corpus.validation_windows(model.context, limit=WINDOWS_PER_DOMAIN)

    def loss(of: Transformer) -> float:
        return evaluate(of, windows, len(corpus.domains)).loss

    used, before = expert_use(model, corpus), loss(model)
    measures = ("load", "gate_mass", "contribution")
    load, mass, contribution = ({i: getattr(use, name) for i, use in used.items()} for name in measures)
    alike = {
        "outputs": {i: use.similarity for i, use in used.items()},
        "weights": {i: weight_similarity(layer) for i, layer in moe_layers(model).items()},
    }

    def merged(by: str, count: int, align: bool) -> Changed:
        return with_merged(config, model, least_into_nearest(mass, alike[by], count), mass, align=align)

    ways = {
        "drop by load": lambda n: without_experts(config, model, least_used(load, n)),
        "drop by gate mass": lambda n: without_experts(config, model, least_used(mass, n)),
        "drop by contribution": lambda n: without_experts(config, model, least_used(contribution, n)),
        "merge by outputs": lambda n: merged("outputs", n, True),
        "merge by outputs, not aligned": lambda n: merged("outputs", n, False),
        "merge by weights": lambda n: merged("weights", n, True),
        "merge by weights, not aligned": lambda n: merged("weights", n, False),
    }
    table = plain_table()
    table.add_column(f"of {config.num_experts} experts")
    for count in arguments.counts:
        table.add_column(f"-{count}", justify="right")
    for name, way in ways.items():
        with console.status(f"{name} ..."):
            table.add_row(name, *(f"{loss(way(count).model) - before:+.4f}" for count in arguments.counts))
    console.print(f"Loss with all experts: {before:.4f} nats/byte; change with fewer in each layer:")
    console.print(table)


if __name__ == "__main__":
    main()
