"""How far losses on a GPU are from those on the CPU: python -m benchmarks.loss_curve.

The demo's model, the first 50 steps, float32. With 2 of 16 experts for each byte, rounding sooner or later decides a
near tie the other way; from then on two runs are two runs. With all experts for each byte nothing is decided.
"""

import sys
from dataclasses import replace

from moe_numpy.commands.demo import preset
from moe_numpy.training.loop import StepRecord, Trainer
from moe_numpy.training.runs import read_text

STEPS = 50


def main(device: str) -> None:
    """Train on both, print the largest differences of the loss in nats."""
    for top_k in (2, 16):
        model, training = preset()
        model = replace(model, recipe_settings={"top_k": top_k})
        corpus = read_text((), model.context)
        runs: list[list[StepRecord]] = []
        for where in ("cpu", device):
            trainer = Trainer(model, replace(training, device=where), corpus)
            runs.append([trainer.step() for _ in range(STEPS)])
        host, other = runs
        apart = [abs(a.loss - b.loss) for a, b in zip(host, other, strict=True)]
        moved = [a.step for a, b in zip(host, other, strict=True) if a.expert_load != b.expert_load]
        first = f"the first load that differs is in step {moved[0]}" if moved else "no load differs"
        steps = ", ".join(f"{n}: {max(apart[:n]):.1e}" for n in (1, 5, 10, 20, 30, 40, 50))
        print(f"{top_k} of {model.num_experts} experts: largest difference up to step {steps}; {first}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda")
