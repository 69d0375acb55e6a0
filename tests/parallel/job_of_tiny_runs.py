"""What test_mpi.py runs on several processes: tiny deterministic runs of several recipes, and exchanges."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from moe_numpy.models import ModelConfig
from moe_numpy.parallel.collectives import add_up, gather, gather_numbers
from moe_numpy.parallel.mpi import Mpi
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import Corpus, Trainer, TrainingConfig
from moe_numpy.training.corpus import Domain
from moe_numpy.training.ranks import Ranks

RECIPES = ("mixtral", "shazeer_2017", "expert_choice", "soft_moe", "longcat")
MODEL = ModelConfig(d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, context=8, d_ff=8, num_experts=8)
TRAINING = TrainingConfig(steps=3, batch_size=6, accumulate=2, warmup=1)
PARTS = 4


def corpus():
    text = np.random.default_rng(0).integers(0, 256, 2000)
    return Corpus([Domain("noise", text[:1500], text[1500:])])


def train(name, communicator):
    trainer = Trainer(replace(MODEL, recipe=name), TRAINING, corpus(), ranks=Ranks(communicator))
    records = [trainer.step() for _ in range(TRAINING.steps)]
    return [[r.loss, r.auxiliary_loss, r.gradient_norm, r.expert_load] for r in records]


def exchanges(world):
    """Each rank sends the others what shows where it came from, with none to some."""
    found = {}
    for dtype in (np.float32, np.float64, np.int64, np.uint8):
        send = [(world.rank + to) % 3 for to in range(world.size)]
        receive = [(of + world.rank) % 3 for of in range(world.size)]
        rows = np.concatenate([np.full((n, 2), 10 * world.rank + to, dtype) for to, n in enumerate(send)])
        pending = world.begin(rows, send, receive, "rows")
        come = pending.wait()
        expected = np.repeat([10 * of + world.rank for of in range(world.size)], receive)
        assert come.dtype == dtype
        np.testing.assert_array_equal(come, np.stack([expected, expected], axis=1))
        found[np.dtype(dtype).name] = world.ledger.sent["rows"].tolist()
    everything = gather(world, np.full((world.rank + 1, 2), world.rank), list(range(1, world.size + 1)), "rows")
    assert everything[:, 0].tolist() == [r for r in range(world.size) for _ in range(r + 1)]
    (total,) = add_up(world, [np.arange(7.0) * (world.rank + 1)], "sum")
    np.testing.assert_array_equal(total, np.arange(7.0) * sum(range(1, world.size + 1)))
    assert gather_numbers(world, [world.rank], "numbers") == [[r] for r in range(world.size)]
    return found


if __name__ == "__main__":
    world = Mpi()
    results = {"exchanges": exchanges(world)}
    for name in RECIPES:
        results[name] = run_parts(world, PARTS, lambda communicator, name=name: train(name, communicator))
    if world.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
