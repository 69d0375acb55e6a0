"""Is a dense model better trained on as it is, or as a Mixture of Experts? python -m benchmarks.upcycling

A small dense model is trained on the built-in text. From its weights, and from scratch, training goes on with equal
compute:

    dense               the dense model
    renormalised        upcycled to 8 experts, top-2, gate weights that add up to 1
    raw                 the same with the probabilities of the softmax as gate weights
    granular            upcycled to 8 copies in 4 parts, 32 experts, 4 per token, raw: the FLOPs of the dense model
    scratch             the model of ``renormalised`` with random weights; it also gets the compute that the dense model
                        was trained with before

Compute is 3 times the FLOPs of a forward pass (:func:`moe_numpy.accounting.flops_per_token`, with half the context and
the router) times the tokens. Every continuation has the same peak learning rate as before and warms up anew, on batches
that the dense model has not seen in this order. Losses are those of held-out text. Results are written after each
model; a second call measures only what is missing.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from moe_numpy.accounting import architecture_of, flops_per_token
from moe_numpy.commands.progress import training_progress
from moe_numpy.files import write_json_atomically
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.models.upcycling import upcycled, upcycled_config
from moe_numpy.moe.upcycling import plan
from moe_numpy.plots import save
from moe_numpy.plots.upcycling import DENSE_BEFORE, Continued, continued_training
from moe_numpy.training import Corpus, StepRecord, Trainer, TrainingConfig, default_corpus, presets
from moe_numpy.training.evaluation import evaluate

DENSE = ModelConfig(d_model=64, num_layers=2, d_ff=192, context=64, num_experts=0)
ARMS: dict[str, dict[str, Any] | None] = {
    "dense": None,
    "renormalised": {"weights": "renormalised", "copies": 8, "top_k": 2},
    "raw": {"weights": "raw", "copies": 8, "top_k": 2},
    "granular": {"weights": "raw", "copies": 8, "top_k": 1, "granularity": 4},
    "scratch": {"weights": "renormalised", "copies": 8, "top_k": 2},
}
BEFORE = "before"
LABELS = {
    BEFORE: DENSE_BEFORE,
    "dense": "dense, trained on",
    "renormalised": "upcycled, top-2 renormalised",
    "raw": "upcycled, top-2 raw",
    "granular": "upcycled, 8 × 4 parts, top-4 raw",
    "scratch": "sparse from scratch, top-2",
}
_MARKS = 8  # measurements on the way
_WINDOWS = 24  # of each domain
_RESULTS = Path(__file__).parent / "results" / "upcycling.json"
_FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "upcycling.png"


def flops_per_step(model: ModelConfig, training: TrainingConfig) -> int:
    """Of forward and backward passes."""
    tokens = training.batch_size * training.accumulate * model.context
    flops = flops_per_token(architecture_of(model), (model.context + 1) // 2)
    return (flops.forward + flops.backward) * tokens


def arm_config(arm: str) -> ModelConfig:
    """The model of an arm."""
    settings = ARMS[arm]
    return DENSE if settings is None else upcycled_config(DENSE, **settings)


def train(
    model: ModelConfig,
    training: TrainingConfig,
    corpus: Corpus,
    first: Transformer | None,
    label: str,
    console: Console,
) -> tuple[Transformer, dict[int, float]]:
    """The trained model, and its held-out loss in bits per byte after some steps."""
    trainer = Trainer(model, training, corpus)
    if first is not None:
        trainer.model.load_state_dict(first.state_dict())
    windows = corpus.validation_windows(model.context, limit=_WINDOWS)
    marks = {round(training.steps * i / _MARKS) for i in range(1, _MARKS + 1)}

    def measure() -> float:
        return evaluate(trainer.model, windows, len(corpus.domains)).bits_per_byte

    losses = {0: measure()}
    with training_progress(console, label, trainer) as show:

        def after_step(record: StepRecord) -> None:
            show(record)
            if record.step in marks:
                losses[record.step] = measure()

        if not trainer.train(after_step):
            raise KeyboardInterrupt
    return trainer.model, losses


def first_weights(arm: str, dense: Transformer, seed: int) -> Transformer | None:
    """What an arm begins with; None for random weights."""
    settings = ARMS[arm]
    if arm == "scratch" or settings is None:
        return None if arm == "scratch" else dense
    config = arm_config(arm)
    how = plan(config.layer_recipe, settings["copies"], settings.get("granularity", 1))
    return upcycled(dense, config, how, rng=np.random.default_rng(seed))


def run_seed(
    seed: int, before: int, after: int, missing: list[str], corpus: Corpus, console: Console
) -> Iterator[tuple[str, dict[str, float]]]:
    """The dense model before, then each missing arm: bits per byte by FLOPs."""
    training = presets.training(steps=before, seed=seed, checkpoint_every=before)
    dense, losses = train(DENSE, training, corpus, None, f"seed {seed} {BEFORE}", console)
    each = flops_per_step(DENSE, training)
    spent, budget = before * each, after * each
    yield BEFORE, {str(step * each): loss for step, loss in losses.items()}
    for arm in missing:
        model = arm_config(arm)
        of_step = flops_per_step(model, training)
        start = 0 if arm == "scratch" else spent
        steps = max(1, round((budget + spent - start) / of_step))
        longer = presets.training(steps=steps, seed=seed + 1000, checkpoint_every=steps)
        _, losses = train(model, longer, corpus, first_weights(arm, dense, seed), f"seed {seed} {arm}", console)
        yield arm, {str(start + step * of_step): loss for step, loss in losses.items()}


def read(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Earlier results with these settings."""
    if path.exists():
        stored: dict[str, Any] = json.loads(path.read_bytes())
        if stored["settings"] == settings:
            return stored
    return {"settings": settings, "seeds": {}}


def curves(results: dict[str, Any]) -> dict[str, list[Continued]]:
    """The results by label, for the figure."""
    found: dict[str, list[Continued]] = {}
    for of_seed in results["seeds"].values():
        for arm, losses in of_seed.items():
            points = sorted((float(flops), loss) for flops, loss in losses.items())
            found.setdefault(LABELS[arm], []).append(Continued(*map(np.array, zip(*points, strict=True))))
    return found


def table(results: dict[str, Any]) -> str:
    """Per arm: parameters, steps, and bits per byte at the beginning and the end, mean and range over seeds."""
    lines = ["| | parameters | active | TFLOPs | bits per byte, first | last (seeds) |", "|---|---|---|---|---|---|"]
    for arm in ARMS:
        seeds = [of_seed[arm] for of_seed in results["seeds"].values() if arm in of_seed]
        if not seeds:
            continue
        model = Transformer(arm_config(arm), rng=np.random.default_rng(0))
        ends = [list(losses.values())[-1] for losses in seeds]
        first = np.mean([next(iter(losses.values())) for losses in seeds])
        flops = [float(key) for key in seeds[0]]
        lines.append(
            f"| {LABELS[arm]} | {model.num_parameters():,} | {model.active_parameters():,} | "
            f"{(max(flops) - min(flops)) / 1e12:.2f} | {first:.3f} | {np.mean(ends):.3f} "
            f"({', '.join(f'{end:.3f}' for end in ends)}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, draw, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--before", type=int, default=300, help="steps of the dense model before")
    parser.add_argument("--after", type=int, default=300, help="steps of the dense model after; the others' follow")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--figure", type=Path, default=_FIGURE)
    arguments = parser.parse_args()
    console, corpus = Console(stderr=True, highlight=False), default_corpus()
    settings = {"dense": DENSE.to_json(), "arms": ARMS, "before": arguments.before, "after": arguments.after}
    results = read(arguments.results, settings)
    for seed in range(arguments.seeds):
        of_seed = results["seeds"].setdefault(str(seed), {})
        missing = [arm for arm in ARMS if arm not in of_seed]
        if missing:
            for arm, losses in run_seed(seed, arguments.before, arguments.after, missing, corpus, console):
                of_seed[arm] = losses
                write_json_atomically(arguments.results, results)
    save(continued_training(curves(results)), arguments.figure)
    print(table(results))


if __name__ == "__main__":
    main()
