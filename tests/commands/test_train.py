import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from moe_numpy.commands.run_training import new_run
from moe_numpy.models import ModelConfig
from moe_numpy.training import Run, Trainer, TrainingConfig, list_checkpoints, load_checkpoint

KEYS = {
    "steps", "tokens", "seconds", "tokens_per_second", "train_loss", "val_loss", "val_loss_initial",
    "val_bits_per_byte", "dense_val_bits_per_byte", "total_parameters", "active_parameters",
    "dropped_fraction", "expert_load", "domain_expert", "domain_expert_layer", "domains",
    "domain_expert_by_layer",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_figures(trained, monkeypatch):
    """Drawing takes longer than all the rest; the run of ``trained`` has drawn."""
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])


@pytest.fixture
def interrupt_after(monkeypatch):
    """Send Ctrl-C while the given step runs."""

    def arm(step):
        original = Trainer.step

        def interrupted_step(self):
            record = original(self)
            if record.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return record

        monkeypatch.setattr(Trainer, "step", interrupted_step)
        return lambda: monkeypatch.setattr(Trainer, "step", original)

    return arm


def read(path):
    return json.loads(Path(path).read_text())


def losses(folder):
    return [(r["step"], r["loss"], r["gradient_norm"], r["expert_load"]) for r in Run.open(Path(folder)).history()]


def assert_same_state(a, b):
    left, right = load_checkpoint(a), load_checkpoint(b)
    assert left.step == right.step
    assert left.arrays.keys() == right.arrays.keys()
    for name in left.arrays:
        np.testing.assert_array_equal(left.arrays[name], right.arrays[name], err_msg=name)


def test_a_run_folder_holds_everything(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "config.json", "history.jsonl", "validation.json", "summary.json",
        "checkpoint-000004.json", "checkpoint-000004.safetensors",
        "checkpoint-000006.json", "checkpoint-000006.safetensors",
        "learning_curves.png", "expert_by_domain.png", "expert_load.png", "load_over_training.png",
    }  # fmt: skip


def test_summary_has_what_programs_rely_on(trained):
    summary = read(trained / "summary.json")
    assert summary.keys() >= KEYS
    assert summary["steps"] == 6
    assert summary["tokens"] == 6 * 2 * 16
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["seconds"])
    assert summary["val_bits_per_byte"] == pytest.approx(summary["val_loss"] / np.log(2))
    assert summary["val_loss"] < summary["val_loss_initial"]
    assert summary["dense_val_bits_per_byte"] is None
    assert summary["domains"] == ["words", "sums"]
    assert summary["active_parameters"] < summary["total_parameters"]
    assert summary["dropped_fraction"] == 0
    assert np.shape(summary["expert_load"]) == (2, 4)
    assert np.shape(summary["domain_expert"]) == (2, 4)
    for shares in (summary["expert_load"], summary["domain_expert"]):
        np.testing.assert_allclose(np.sum(shares, axis=1), 1)
    by_layer = summary["domain_expert_by_layer"]
    assert by_layer[summary["domain_expert_layer"]] == summary["domain_expert"]
    history = Run.open(trained).history()
    assert summary["train_loss"] == pytest.approx(np.mean([r["loss"] for r in history]))
    assert summary["seconds"] == pytest.approx(sum(r["seconds"] for r in history))


def test_validation_is_measured_on_the_way(trained):
    curve = Run.open(trained).validation()
    summary = read(trained / "summary.json")
    assert list(curve) == [0, 1, 2, 3, 4, 5, 6]
    assert (curve[0], curve[6]) == (summary["val_loss_initial"], summary["val_loss"])


@pytest.mark.parametrize("first_time", [True, False])
def test_the_first_run_on_a_machine_says_that_it_compiles(cli, tiny, monkeypatch, first_time):
    monkeypatch.setattr("moe_numpy.kernels.must_compile", lambda: first_time)
    printed = cli(*tiny).stdout
    assert ("Compiling the loops for this processor, once on this machine" in printed) is first_time


def test_json_prints_the_summary_and_nothing_else(cli, tiny):
    result = cli(*tiny, "--json")
    assert json.loads(result.stdout) == read("runs/mixtral/summary.json")
    assert "step 6/6" in result.stderr


def test_without_out_the_next_free_name_is_taken(cli, tiny):
    assert cli(*tiny, "--steps", 1).exit_code == 0
    assert cli(*tiny, "--steps", 1).exit_code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["mixtral", "mixtral-2"]


def test_switch_takes_the_choices_of_its_recipe(cli, tiny):
    assert cli(*tiny, "--recipe", "switch", "--steps", 1).exit_code == 0
    config = Run.open(Path("runs/switch")).model_config
    assert config.experts_per_token == 1
    assert config.layer_recipe.router.capacity.factor == 1.25
    assert cli(*tiny, "--recipe", "switch", "--steps", 1, "--capacity-factor", 0).exit_code == 0
    assert Run.open(Path("runs/switch-2")).model_config.layer_recipe.router.capacity is None


def test_a_recipe_of_ones_own_is_found_again_or_its_file_named(cli, refused, tiny, tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text(
        "from moe_numpy.moe import RouterConfig\n"
        "from moe_numpy.moe.selection import TopK\n"
        "def mine(*, top_k=2): return RouterConfig(TopK(top_k))\n"
    )
    assert cli(*tiny, "--recipe", "own.py:mine", "--top-k", 1).exit_code == 0
    run = tmp_path / "runs" / "mine"
    config = Run.open(run).model_config
    assert (config.recipe, config.experts_per_token) == (f"{own}:mine", 1)

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli("generate", run, "the", "--tokens", 2).exit_code == 0
    assert cli("train", "--resume", "--out", run, "--from-step", 4, "--recipe", "../own.py:mine").exit_code == 0
    assert "was configured differently: --recipe mixtral" in refused(
        "train", "--resume", "--out", run, "--recipe", "mixtral"
    )
    own.rename("own.py")
    expected = f"config.json: there is no file {own}; expected a Python file with a function mine"
    for command in (["train", "--resume", "--out", run], ["generate", run, "the"], ["inspect", run]):
        assert expected in refused(*command)


def test_capacity_drops_and_the_summary_counts_it(cli, tiny):
    cli(*tiny, "--capacity-factor", 0.5, "--out", "run")
    summary = read("run/summary.json")
    assert 0.4 < summary["dropped_fraction"] < 0.8
    assert summary["dropped_fraction"] == pytest.approx(np.mean(summary["dropped_fraction_by_layer"]))
    np.testing.assert_allclose(np.sum(summary["expert_load"], axis=1), 1)


def test_the_capacity_of_evaluation_is_its_own(cli, tiny):
    cli(*tiny, "--capacity-factor", 0.5, "--eval-capacity-factor", 4, "--out", "run")
    assert read("run/summary.json")["dropped_fraction"] == 0
    assert min(record["dropped_fraction"] for record in Run.open(Path("run")).history()) > 0.3


def test_a_dense_model_has_no_experts_to_report(cli, tiny):
    arguments = [a for a in tiny if a not in ("--num-experts", "4", "--d-ff", "8")]
    result = cli(*arguments, "--dense")
    assert result.exit_code == 0, result.output
    summary = read("runs/dense/summary.json")
    assert summary["expert_load"] == summary["domain_expert"] == summary["domain_expert_by_layer"] == []
    assert summary["domain_expert_layer"] is None
    assert summary["total_parameters"] == summary["active_parameters"]
    assert Run.open(Path("runs/dense")).model_config.d_ff == 512  # top_k · d_ff, as for a dense twin
    assert not Path("runs/dense/expert_load.png").exists()


def test_relative_text_is_found_again_from_elsewhere(cli, tiny, monkeypatch, tmp_path):
    arguments = [Path(a).name if a.endswith(".txt") else a for a in tiny]
    assert cli(*arguments, "--out", "run").exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli("train", "--resume", "--out", "../run").exit_code == 0


@pytest.mark.parametrize("step", [1, 3, 4])
def test_interrupted_and_resumed_equals_uninterrupted(cli, tiny, trained, interrupt_after, step):
    restore = interrupt_after(step)
    result = cli(*tiny, "--out", "run")
    assert result.exit_code == 130
    assert "python -m moe_numpy train --resume --out run" in result.stdout
    assert list_checkpoints(Path("run"))[-1] == step
    assert not Path("run/summary.json").exists()
    restore()

    result = cli("train", "--resume", "--out", "run")
    assert result.exit_code == 0, result.output
    assert f"Continuing after step {step} of 6" in result.stdout
    assert losses("run") == losses(trained)
    assert_same_state(Path("run"), trained)
    timed = {"seconds", "tokens_per_second"}
    ours, theirs = read("run/summary.json"), read(trained / "summary.json")
    assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    assert ours["seconds"] == pytest.approx(sum(r["seconds"] for r in Run.open(Path("run")).history()))
    assert Run.open(Path("run")).validation() == Run.open(trained).validation()


def test_resume_from_an_earlier_checkpoint_repeats_the_later_steps(cli, trained):
    shutil.copytree(trained, "run")
    assert cli("train", "--resume", "--from-step", 4, "--out", "run").exit_code == 0
    assert losses("run") == losses(trained)
    assert_same_state(Path("run"), trained)


def test_a_resumed_run_forgets_the_end_that_it_went_back_from(cli, trained, interrupt_after):
    shutil.copytree(trained, "run")
    interrupt_after(5)
    assert cli("train", "--resume", "--from-step", 4, "--out", "run").exit_code == 130
    run = Run.open(Path("run"))
    assert run.summary() is None
    assert list(run.validation()) == [0, 1, 2, 3, 4, 5]
    assert [r["step"] for r in run.history()] == [1, 2, 3, 4, 5]
    assert list_checkpoints(Path("run")) == [4, 5]


def test_resume_of_a_finished_run_changes_nothing(cli, trained):
    shutil.copytree(trained, "run")
    before = read("run/summary.json")
    assert cli("train", "--resume", "--out", "run").exit_code == 0
    assert read("run/summary.json") == before


def test_resume_before_the_first_checkpoint_starts_anew(cli, trained):
    shutil.copytree(trained, "run")
    for path in Path("run").glob("checkpoint-*"):
        path.unlink()
    result = cli("train", "--resume", "--out", "run")
    assert "Continuing after step 0 of 6" in result.stdout
    assert losses("run") == losses(trained)


def test_resume_accepts_options_that_agree(cli, tiny):
    cli(*tiny, "--capacity-factor", 0, "--out", "run")
    assert cli(*tiny, "--capacity-factor", 0, "--out", "run", "--resume").exit_code == 0


def test_resume_refuses_options_that_contradict(refused, trained):
    shutil.copytree(trained, "run")
    Path("other.txt").write_text("other")
    settings = ["--d-model", 32, "--steps", 6, "--capacity-factor", 2.0, "--seed", 1, "--text", "other.txt"]
    message = refused("train", "--resume", "--out", "run", *settings)
    assert "--d-model 32 (the run has 16)" in message
    assert "--seed 1 (the run has 0)" in message
    assert "--capacity-factor 2.0" in message
    assert "--text" in message
    assert "--steps" not in message
    assert "--num-experts 0 (the run has 4)" in refused("train", "--resume", "--out", "run", "--dense")


def configure(folder, **training):
    config = read(folder / "config.json")
    config["training"] |= training
    config["training"] = {name: value for name, value in config["training"].items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_run_from_before_there_were_devices_is_resumed(cli, trained):
    shutil.copytree(trained, "run")
    configure(Path("run"), device=None, dtype=None)
    assert cli("train", "--resume", "--from-step", 4, "--out", "run").exit_code == 0
    assert_same_state(Path("run"), trained)


def test_a_run_is_resumed_on_another_device_but_not_in_another_type(cli, refused, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    shutil.copytree(trained, "run")
    configure(Path("run"), device="cuda")
    assert "CuPy is missing" in refused("train", "--resume", "--from-step", 4, "--out", "run")
    message = refused("train", "--resume", "--out", "run", "--device", "cpu", "--dtype", "bfloat16")
    assert "--dtype bfloat16 (the run has float32)" in message
    assert cli("train", "--resume", "--from-step", 4, "--out", "run", "--device", "cpu").exit_code == 0
    assert_same_state(Path("run"), trained)
    assert cli("generate", "run", "the", "--tokens", 3).exit_code == 0


def test_resume_refuses_text_that_has_changed(cli, refused, tiny, tmp_path):
    cli(*tiny, "--out", "run")
    with open("words.txt", "a") as file:
        file.write("more")
    assert "text" in refused("train", "--resume", "--out", "run")


def test_a_truncated_checkpoint_is_refused_and_the_one_before_it_used_if_asked(cli, refused, trained):
    shutil.copytree(trained, "run")
    newest = Path("run/checkpoint-000006.safetensors")
    newest.write_bytes(newest.read_bytes()[:-100])
    message = refused("train", "--resume", "--out", "run")
    assert "truncated" in message
    assert "step 4 is intact" in message
    assert "truncated" in refused("generate", "run", "the")
    assert cli("generate", "run", "the", "--step", 4, "--tokens", 3).exit_code == 0
    assert cli("train", "--resume", "--from-step", 4, "--out", "run").exit_code == 0
    assert losses("run") == losses(trained)
    assert_same_state(Path("run"), trained)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--d-model", "30"], "d_model=30"),
        (["--top-k", "9"], "top_k must be between 1 and num_experts=4, got 9"),
        (["--recipe", "nonsense"], "no recipe is called 'nonsense'; there are: jacobs_1991, "),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--learning-rate", "-1"], "learning_rate must be positive"),
        (["--capacity-factor", "-1"], "capacity_factor must be positive"),
        (["--capacity-factor", "1", "--eval-capacity-factor", "0"], "eval_capacity_factor must be positive, got 0.0"),
        (["--eval-capacity-factor", "2"], "eval_capacity_factor=2.0 needs a capacity_factor, and mixtral has none"),
        (["--recipe", "olmoe", "--eval-capacity-factor", "2"], "olmoe has no setting eval_capacity_factor"),
        (["--text", "missing.txt"], "missing.txt: does not exist"),
        (["--text", "empty.txt"], "empty.txt: is empty"),
        (["--text", "short.txt"], "short.txt: has 5 bytes"),
        (["--context", "100000000"], "1000000090 are needed"),
        (["--dense"], "--num-experts is 4"),
        (["--from-step", "4"], "--from-step needs --resume"),
        (["--resume"], "--resume needs --out"),
        (["--resume", "--out", "nowhere"], "nowhere is not a run"),
        (["--device", "gpu"], "device must be one of cpu, cuda, got 'gpu'"),
        (["--device", "cuda"], "device cuda: CuPy is missing; python -m pip install"),
        (["--dtype", "float16"], "dtype must be one of float32, bfloat16, got 'float16'"),
        (["--dtype", "bfloat16"], "dtype bfloat16 needs device cuda"),
        (["--out", "empty.txt"], "empty.txt"),
    ],
)
def test_refused_before_anything_is_written(refused, tiny, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "cupy", None)
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("short")
    assert message in refused(*tiny, *arguments)
    assert not Path("runs").exists()


def test_a_context_beyond_the_built_in_text_is_refused(refused):
    assert "context=200000" in refused("train", "--context", 200000, "--d-model", 16)
    assert not Path("runs").exists()


def test_an_existing_run_is_not_overwritten(refused, tiny, trained):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert "already holds a run" in refused(*tiny, "--out", trained)
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_a_negative_seed_is_a_usage_error(cli, tiny):
    result = cli(*tiny, "--seed", -1)
    assert result.exit_code == 2
    assert "--seed" in result.stderr


def test_a_non_finite_loss_names_the_op_and_what_remains(cli, tiny, monkeypatch):
    original = Trainer.step

    def broken_step(self):
        if self.completed == 3:
            self.model.embedding.weight.data[:] = np.nan
        return original(self)

    monkeypatch.setattr(Trainer, "step", broken_step)
    result = cli(*tiny, "--out", "run", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "EmbeddingLookup" in result.stderr or "Embed" in result.stderr
    assert "step 4" in result.stderr
    assert "keeps the checkpoint of step 2" in result.stderr
    assert list_checkpoints(Path("run")) == [2]


def test_a_non_finite_loss_before_any_checkpoint(cli, tiny):
    result = cli(*tiny, "--learning-rate", 1e30, "--checkpoint-every", 100, "--out", "run")
    assert result.exit_code == 1
    assert "there is no checkpoint yet" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.parametrize("existed", [True, False])
def test_a_run_without_a_step_leaves_what_was_there(tmp_path, existed):
    folder = tmp_path / "of mine" / "run"
    if existed:
        folder.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with new_run(folder, ModelConfig(), TrainingConfig()):
        assert (folder / "config.json").exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_why_steps_are_not_recorded_is_said_once(cli, tiny, monkeypatch):
    """A stand-in for a GPU: the second step finds an obstacle."""
    original = Trainer.step

    def step(self):
        if self.completed == 1:
            self.not_recorded = "x[0] has to come to the host"
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)
    result = cli(*tiny)
    assert result.exit_code == 0, result.output
    line = "Steps run launch by launch, not as one CUDA graph: x[0] has to come to the host\n"
    assert result.output.count(line) == 1
    assert result.output.index(line) < result.output.index("step 3/")
