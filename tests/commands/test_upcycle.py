"""upcycle: from a folder to a folder, what it prints, and what is wrong is said in a line."""

import json
from pathlib import Path

import pytest
from published_models import LLAMA, make_published

from moe_numpy.files import write_json_atomically
from moe_numpy.training import Run

TINY = ["--num-layers", 2, "--d-model", 16, "--context", 16, "--batch-size", 2, "--steps", 2, "--d-ff", 24]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])


@pytest.fixture
def dense(cli):
    Path("notes.txt").write_text("the cat sat on the mat, and the dog did not. " * 90)
    assert cli("train", "--dense", *TINY, "--text", "notes.txt", "--out", "dense").exit_code == 0
    return Path("dense")


def test_a_run_becomes_a_run_that_trains_on(cli, dense):
    result = cli("upcycle", "dense", "out", "--granularity", 4, "--weights", "raw", "--top-k", 1)
    assert result.exit_code == 0, result.output
    assert "8 copies, each in 4 parts: 32 experts, 4 per token" in result.stdout
    assert "Scale s = 32: up × 4, down × 8" in result.stdout
    assert "Router logits: σ = 1e-06; sums of gate weights equal within 3.1e-06" in result.stdout
    assert "Largest difference of logits over 16 tokens" in result.stdout
    assert "python -m moe_numpy train --from out" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    run = Run.open(Path("out"))
    assert (run.newest_step(), run.text, run.model_config.recipe) == (0, Run.open(dense).text, "olmoe")
    assert cli("generate", "out", "the ", "--tokens", 3).exit_code == 0
    assert cli("train", "--from", "out", "--steps", 2, "--batch-size", 2, "--out", "longer").exit_code == 0
    before, after = Run.open(dense).summary()["val_loss"], Run.open(Path("longer")).validation()[0]
    assert after == pytest.approx(before, abs=1e-5)
    assert cli("train", "--resume", "--out", "out").exit_code == 0
    assert cli("inspect", "out").exit_code == 0


def test_a_published_model_becomes_one(cli):
    pytest.importorskip("tokenizers")
    make_published(Path("llama"), LLAMA)
    result = cli("upcycle", "llama", "out", "--experts", 4, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["largest_difference"] < 1e-5
    assert (told["num_experts"], told["experts_per_token"], told["noise"], told["drift"]) == (4, 2, 1.0, 0.0)
    assert told["upcycled"]["parameters"] > 1.1 * told["dense"]["parameters"]
    assert cli("generate", "out", "the ", "--tokens", 3).exit_code == 0


def test_another_function_is_no_success(cli, dense):
    result = cli("upcycle", "dense", "out", "--weights", "raw", "--noise", 0.5)
    assert result.exit_code == 1
    assert "note: the logits differ by more than 1e-05 of the largest: --noise 0.5 changes the sums" in result.stderr
    assert cli("upcycle", "dense", "anew", "--reinitialise", 0.5).exit_code == 0  # asked for


def test_refusals(refused, cli, dense):
    def out(*options):
        said = refused("upcycle", *options)
        assert not Path("out").exists()
        return said

    assert "recipe soft_moe cannot compute what dense does: experts of Soft MoE" in out(
        "dense", "out", "--weights", "soft_moe"
    )
    assert "granularity must divide d_ff=24, got 5" in out("dense", "out", "--granularity", 5)
    assert "missing is not a run" in out("missing", "out")
    assert "holds no checkpoint of step 1" in out("dense", "out", "--step", 1)
    assert "dense already holds a run" in out("dense", "dense")
    cli("upcycle", "dense", "sparse")
    assert "the model has 8 experts in 2 of 2 layers already" in out("sparse", "out")
    Path("odd").mkdir()
    write_json_atomically(Path("odd/config.json"), {"model_type": "mamba"})
    assert "odd" in out("odd", "out")
