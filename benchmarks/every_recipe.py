"""Train the default model with every recipe, and see whether its router still learns from the task.

    python -m benchmarks.every_recipe [RECIPE ...] [--steps 200]

Per recipe: validation loss, the load of the least used route, and the norm of the gradient that the task loss
alone, without auxiliary losses, sends to the router's weights after the last step.
"""

import argparse

import numpy as np

from moe_numpy.models import ModelConfig
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.ops import CrossEntropy
from moe_numpy.training import Trainer, default_corpus, presets
from moe_numpy.training.evaluation import evaluate


def task_gradient(trainer: Trainer) -> list[float]:
    """The norm of dL/dW_g of each router, for the next batch and the cross-entropy alone."""
    model, config = trainer.model, trainer.config
    model.zero_grad()
    batch = trainer.corpus.batch(
        trainer.completed, batch_size=config.batch_size, context=model.config.context, seed=config.seed
    )
    output = model(batch.tokens, rng=np.random.default_rng(0))
    CrossEntropy.apply(output.logits, batch.targets).backward()
    routers = [m for _, m in model.named_modules() if type(m).__name__ == "Router"]
    return [float(np.linalg.norm(router.weight.grad)) for router in routers]


def main() -> None:
    """Train and print one line per recipe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    corpus = default_corpus()
    print(
        f"{'recipe':18} {'bits/byte':>9} {'dropped':>8} {'least load':>10} {'router gradient (least, most)':>30}",
        flush=True,
    )
    for name in arguments.recipes:
        trainer = Trainer(ModelConfig(recipe=name), presets.training(steps=arguments.steps), corpus)
        trainer.train(lambda record: None)
        result = evaluate(trainer.model, corpus.validation_windows(trainer.model.config.context, 32), 3)
        load = f"{result.expert_load.min():.1%}" if result.expert_load.size else "-"
        norms = task_gradient(trainer)
        gradient = f"{min(norms):.1e} {max(norms):.1e}" if norms else "no router"
        print(
            f"{name:18} {result.bits_per_byte:9.3f} {result.dropped_fraction:8.1%} {load:>10} {gradient:>30}",
            flush=True,
        )


if __name__ == "__main__":
    main()
