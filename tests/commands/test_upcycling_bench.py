"""benchmarks.upcycling: equal compute for all, and a second call trains only what is missing."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import upcycling
from moe_numpy.models import ModelConfig


@pytest.fixture
def measure(monkeypatch, capsys):
    monkeypatch.setattr(upcycling, "DENSE", ModelConfig(d_model=16, num_layers=1, d_ff=16, context=16, num_experts=0))
    monkeypatch.setattr(upcycling, "_WINDOWS", 1)
    monkeypatch.setattr(upcycling, "save", lambda figure, path: path.write_bytes(b""))

    def run(seeds):
        arguments = ["--seeds", seeds, "--before", "2", "--after", "4", "--results", "r.json", "--figure", "f.png"]
        monkeypatch.setattr(sys, "argv", ["upcycling", *map(str, arguments)])
        upcycling.main()
        printed = capsys.readouterr()
        return json.loads(Path("r.json").read_text())["seeds"], printed.out, printed.err

    return run


def test_equal_compute_and_resuming(measure):
    seeds, table, _ = measure(1)
    ends = {arm: max(map(float, losses)) for arm, losses in seeds["0"].items()}
    assert ends.keys() == {"before", *upcycling.ARMS}
    training = upcycling.presets.training(steps=2, checkpoint_every=2)
    for arm in upcycling.ARMS:
        of_step = upcycling.flops_per_step(upcycling.arm_config(arm), training)
        assert abs(ends[arm] - ends["dense"]) <= of_step / 2
        assert min(map(float, seeds["0"][arm])) == (0 if arm == "scratch" else ends["before"])
    begins = {arm: losses[min(losses, key=float)] for arm, losses in seeds["0"].items()}
    for arm in ("renormalised", "raw", "granular"):
        assert begins[arm] == pytest.approx(begins["dense"], abs=1e-5)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        upcycling.LABELS[arm] for arm in upcycling.ARMS
    ]
    del seeds["0"]["raw"]
    stored = json.loads(Path("r.json").read_text())
    Path("r.json").write_text(json.dumps(stored | {"seeds": seeds}))
    again, _, progress = measure(1)
    assert "seed 0 raw" in progress
    assert "seed 0 granular" not in progress
    assert again["0"].keys() == ends.keys()
