"""How far losses on a GPU are from those on the CPU: python -m benchmarks.loss_curve [RECIPE ...].

The demo's model, the first 50 steps, float32. Rounding can break a near tie between experts the other way; from then on
the two runs diverge. Weights and batches are the same on every device, but noise is not, so recipes without noise are
compared. The first model sends each byte to all experts, so nothing is chosen.
"""

import argparse
from dataclasses import replace
from typing import Any

from moe_numpy.models import ModelConfig
from moe_numpy.training import StepRecord, Trainer, load_corpus, presets

STEPS = 50
MARKS = (1, 10, 20, 30, 40, 50)
RECIPES = (
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "deepseek_moe",
    "deepseek_v3",
    "llama4",
    "expert_choice",
    "soft_moe",
    "remoe",
)


def curve(model: ModelConfig, device: str) -> list[StepRecord]:
    """The records of the first steps."""
    trainer = Trainer(model, presets.training(device=device), load_corpus((), model.context))
    return [trainer.step() for _ in range(STEPS)]


def compare(name: str, model: ModelConfig, device: str) -> dict[str, Any]:
    """The largest difference of the losses, in nats, up to each mark, and the first step with another load."""
    host, other = curve(model, "cpu"), curve(model, device)
    apart = [abs(a.loss - b.loss) for a, b in zip(host, other, strict=True)]
    moved = [a.step for a, b in zip(host, other, strict=True) if a.expert_load != b.expert_load]
    return {"name": name, "apart": [max(apart[:n]) for n in MARKS], "moved": moved[0] if moved else None}


def main() -> None:
    """Train on both devices; print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    model, _ = presets.demo()
    models = {"all experts": replace(model, recipe_settings={"top_k": model.num_experts})}
    models |= {name: replace(model, recipe=name) for name in arguments.recipes}
    print(f"{'largest difference up to step':29} " + " ".join(f"{n:>7}" for n in MARKS) + "   first other load")
    for name, config in models.items():
        row = compare(name, config, arguments.device)
        print(f"{name:29} " + " ".join(f"{x:7.1e}" for x in row["apart"]) + f"   {row['moved'] or '-'}", flush=True)


if __name__ == "__main__":
    main()
