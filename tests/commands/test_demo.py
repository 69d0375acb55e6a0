import dataclasses
import functools
import json
from pathlib import Path

import pytest

from moe_numpy.commands import demo as demo_module
from moe_numpy.models import ModelConfig
from moe_numpy.training import presets

real_preset = presets.demo
load_corpus_once = functools.cache(demo_module.load_corpus)


def test_the_preset_takes_settings_of_the_training():
    model, training = real_preset(steps=50, seed=3)
    assert model.num_experts > model.experts_per_token >= 1
    assert (training.steps, training.seed, training.warmup) == (50, 3, 5)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    def preset(**given):
        training = presets.training(**({"steps": 3} | given))
        model = ModelConfig(d_model=16, num_layers=2, num_experts=4, d_ff=8, context=16)
        return model, dataclasses.replace(training, batch_size=2)

    monkeypatch.setattr(presets, "demo", preset)
    monkeypatch.setattr(demo_module, "_SAMPLE_BYTES", 8)
    monkeypatch.setattr(demo_module, "load_corpus", load_corpus_once)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(demo_module, "save_run_figures", lambda run, summary: [])


@pytest.mark.usefixtures("drawn")
def test_demo_shows_all_that_was_learned(cli):
    result = cli("demo")
    assert result.exit_code == 0, result.output
    for part in (
        "MoE    2 layers of 4 experts, 2 per byte", "dense  2 layers without experts",
        "step 3/3", "validation, bits/byte", "before training", "tokens/s", "bits per byte",
        "Generated text (prompts are in [])", "[def ]", "[12 + 7 = ]",
        "Which experts take which domain", "Load of each expert", "dropped", "fair share 25.0",
        "runs/demo/learning_curves.png", "python -m moe_numpy generate runs/demo 'def '",
        "python -m moe_numpy inspect runs/demo", "Total time",
    ):  # fmt: skip
        assert part in result.stdout, part
    assert all(len(line.rstrip()) <= 80 for line in result.stdout.splitlines())
    assert "\x1b" not in result.stdout
    summary = json.loads(Path("runs/demo/summary.json").read_text())
    dense = json.loads(Path("runs/demo/dense/summary.json").read_text())
    assert summary["dense_val_bits_per_byte"] == dense["val_bits_per_byte"]
    assert summary["tokens"] == dense["tokens"]
    assert summary["domains"] == ["prose", "code", "arithmetic"]
    assert dense["expert_load"] == []


@pytest.mark.usefixtures("no_figures")
def test_json_is_the_summary_and_nothing_is_overwritten(cli):
    first = json.loads(cli("demo", "--json", "--no-dense").stdout)
    again = json.loads(cli("demo", "--json", "--no-dense", "--seed", 1, "--steps", 2).stdout)
    assert first == json.loads(Path("runs/demo/summary.json").read_text())
    assert again == json.loads(Path("runs/demo-2/summary.json").read_text())
    assert (first["steps"], again["steps"]) == (3, 2)
    assert first["dense_val_bits_per_byte"] is None
    assert first["val_loss_initial"] != again["val_loss_initial"]


@pytest.mark.usefixtures("no_figures")
def test_without_dense_there_is_one_column(cli):
    result = cli("demo", "--no-dense", "--out", "here")
    assert "dense" not in result.stdout
    assert not Path("here/dense").exists()
    assert Path("here/summary.json").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_resumed_demo_keeps_the_dense_result(cli):
    cli("demo", "--out", "here")
    before = json.loads(Path("here/summary.json").read_text())
    assert cli("train", "--resume", "--out", "here").exit_code == 0
    assert json.loads(Path("here/summary.json").read_text()) == before


def test_an_existing_run_is_refused(cli, refused, trained):
    assert "already holds a run" in refused("demo", "--out", trained)
