"""Whether training has the same bits on 1, 2 and 4 processes: python -m benchmarks.same_bits [RECIPE ...].

The demo's model in the deterministic mode of ``train``, with 4 parts: losses, gradient norms and loads of every step,
and the weights at the end, compared bit for bit; then the largest difference between the losses and those of one
process without parts. Each number of processes is one MPI job, which trains recipe after recipe.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moe_numpy.commands.starting_ranks import mpiexec
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.parallel import Alone, Communicator
from moe_numpy.parallel.collectives import gather
from moe_numpy.parallel.mpi import Mpi
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import Trainer, default_corpus, presets
from moe_numpy.training.ranks import Ranks

PARTS = 4


def train(name: str, steps: int, batch_size: int, communicator: Communicator) -> dict[str, Any]:
    """The records of a run, and a digest of the weights of all ranks."""
    model, _ = presets.demo()
    config = presets.training(steps=steps, batch_size=batch_size)
    trainer = Trainer(replace(model, recipe=name), config, default_corpus(), ranks=Ranks(communicator))
    records = [trainer.step() for _ in range(steps)]
    digest = hashlib.sha256()
    for array in trainer.model.state_dict().values():
        digest.update(np.ascontiguousarray(array).tobytes())
    own = np.frombuffer(digest.digest(), np.uint8)
    digests = gather(communicator, own, [len(own)] * communicator.size, "digest").tobytes().hex()
    return {
        "losses": [r.loss for r in records],
        "norms": [r.gradient_norm for r in records],
        "loads": [r.expert_load for r in records],
        "weights": digests,
    }


def job(arguments: argparse.Namespace) -> None:
    """What one process of a job does: train every recipe; the first writes the records, one file for each."""
    world = Mpi()
    for name in arguments.recipes:
        size = arguments.steps, arguments.batch_size
        record = run_parts(world, PARTS, lambda communicator, name=name, size=size: train(name, *size, communicator))
        if world.rank == 0:
            (arguments.into / f"{name}.json").write_text(json.dumps(record))
            print(f"{world.size} processes: {name}", file=sys.stderr, flush=True)


def main() -> None:
    """Train on each number of processes, and print a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into is not None:
        job(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        for num in arguments.processes:
            (Path(folder) / str(num)).mkdir()
            sizes = ["--steps", str(arguments.steps), "--batch-size", str(arguments.batch_size)]
            into = ["--into", str(Path(folder) / str(num))]
            program = [sys.executable, "-m", "benchmarks.same_bits", *arguments.recipes, *sizes, *into]
            subprocess.run([mpiexec(), "-n", str(num), *program], check=True)
        print(f"{'recipe':18} {'steps':>5}  {'same bits':9}  {'last loss':>9}  {'from one process without parts':>30}")
        for name in arguments.recipes:
            found = [json.loads((Path(folder) / str(n) / f"{name}.json").read_text()) for n in arguments.processes]
            same = all(each == found[0] for each in found)
            plain = train(name, arguments.steps, arguments.batch_size, Alone())
            apart = max(abs(a - b) for a, b in zip(found[0]["losses"], plain["losses"], strict=True))
            words = "yes" if same else "NO"
            print(f"{name:18} {arguments.steps:>5}  {words:9}  {plain['losses'][-1]:9.4f}  {apart:30.1e}", flush=True)


if __name__ == "__main__":
    main()
