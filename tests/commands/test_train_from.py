"""train --from: a published model goes through training and comes out as one, and what is wrong is said in a line."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from published_models import DEEPSEEK, LLAMA, MIXTRAL, make_published

from moe_numpy.models import Transformer
from moe_numpy.training import Run, Trainer, list_checkpoints, load_checkpoint

pytest.importorskip("tokenizers")
SHORT = ["--steps", 4, "--batch-size", 2, "--context", 16, "--checkpoint-every", 2]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])


@pytest.fixture
def model(tmp_path):
    return make_published(tmp_path / "model")


@pytest.fixture
def short(model, tmp_path):
    """Arguments of ``train`` that continue a published model for a moment."""
    (tmp_path / "notes.txt").write_text("the cat sat on the mat, and the dog did not. é 日本\n" * 90)
    return ["train", "--from", "model", "--text", "notes.txt", *SHORT]


@pytest.fixture
def interrupted(cli, short, monkeypatch):
    """Train with these options until Ctrl-C in a step."""

    def run(step, *options):
        original = Trainer.step

        def interrupted_step(self):
            if self.completed + 1 == step:
                os.kill(os.getpid(), signal.SIGINT)
            return original(self)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "step", interrupted_step)
            return cli(*short, *options)

    return run


def read(path):
    return json.loads(Path(path).read_text())


def assert_same_state(a, b):
    left, right = load_checkpoint(Path(a)), load_checkpoint(Path(b))
    assert (left.step, left.arrays.keys()) == (right.step, right.arrays.keys())
    for name in left.arrays:
        np.testing.assert_array_equal(left.arrays[name], right.arrays[name], err_msg=name)


def test_from_a_folder_to_a_folder(cli, short, model):
    result = cli(*short, "--freeze", "layers.*.attention.*", "--freeze", "norm.*")
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "domains notes (1,9" in out
    assert "tokens)" in out
    assert "Loss: next-token cross-entropy and 0.02 times the balance loss over all layers" in out
    assert "Frozen: 1,552 of the parameters" in out
    assert "nats/token = " in out
    assert "python -m moe_numpy generate runs/model 'The '\n  python -m moe_numpy convert runs/model" in out
    config = read("runs/model/config.json")
    assert config["from"] == os.path.realpath("model")
    assert config["model"] == {"published": read("model/config.json"), "context": 16}
    assert config["training"]["learning_rate"] == 1e-4
    assert config["training"]["freeze"] == ["layers.*.attention.*", "norm.*"]
    summary = read("runs/model/summary.json")
    assert summary["unit"] == "token"
    assert summary["tokens"] == 4 * 2 * 16
    run = Run.open(Path("runs/model"))
    per_token = run.corpus().bytes_per_token
    assert 1.5 < per_token < 4
    assert summary["val_bits_per_byte"] == pytest.approx(summary["val_loss"] / np.log(2) / per_token)

    shutil.rmtree(model)
    assert cli("convert", "runs/model", "out").exit_code == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    options = ["the cat", "--tokens", 12]
    assert cli("generate", "runs/model", *options).stdout == cli("generate", "out", *options).stdout
    assert cli("generate", "runs/model", *options, "--chat").stdout == cli("generate", "out", *options, "--chat").stdout
    ours, _ = run.model()
    ids = np.arange(40)[None]
    np.testing.assert_array_equal(ours.eval()(ids).logits.data, Transformer.from_pretrained("out")(ids).logits.data)
    counts = [json.loads(cli("count", path, "--json").stdout)["total"] for path in ("runs/model", "out")]
    assert counts == [ours.num_parameters()] * 2

    assert cli("train", "--from", "out", *short[3:], "--out", "again").exit_code == 0  # and so on


def test_json_prints_the_summary_and_nothing_else(cli, short):
    result = cli(*short, "--json")
    assert json.loads(result.stdout) == read("runs/model/summary.json")
    assert "step 4/4" in result.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (MIXTRAL | {"router_aux_loss_coef": None}, "next-token cross-entropy and no balance loss"),
        (DEEPSEEK, "no balance loss, as config.json and transformers have it; the bias that each expert is chosen with "
         "moves by 0.001 a step"),
    ],
    ids=["mixtral", "deepseek_v3"],
)  # fmt: skip
def test_how_it_is_balanced_is_told(cli, short, values, words):
    shutil.rmtree("model")
    make_published(Path("model"), values)
    assert words in cli(*short).stdout
    assert "moves by" not in cli(*short, "--freeze", "*.router.*").stdout


def test_a_dense_model_has_no_experts_to_report(cli, short):
    shutil.rmtree("model")
    make_published(Path("model"), LLAMA)
    result = cli(*short)
    assert "Loss:" not in result.stdout
    assert "dense  step 4/4" in result.stdout
    assert read("runs/model/summary.json")["expert_load"] == []


@pytest.mark.parametrize("step", [1, 2, 3])
def test_interrupted_and_resumed_equals_uninterrupted(cli, short, interrupted, model, step):
    assert cli(*short, "--out", "whole").exit_code == 0
    result = interrupted(step, "--out", "run")
    assert result.exit_code == 130
    assert list_checkpoints(Path("run"))[-1] == step
    shutil.rmtree(model)
    result = cli("train", "--resume", "--out", "run")
    assert result.exit_code == 0, result.output
    assert f"Continuing after step {step} of 4" in result.stdout
    assert_same_state("run", "whole")
    ours, theirs = read("run/summary.json"), read("whole/summary.json")
    timed = {"seconds", "tokens_per_second"}
    assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}


def test_more_steps(cli, short):
    cli(*short, "--out", "run")
    assert cli("train", "--resume", "--out", "run", "--steps", 6).exit_code == 0
    assert (list_checkpoints(Path("run"))[-1], read("run/summary.json")["steps"]) == (6, 6)


def test_before_the_first_checkpoint_the_folder_is_read_again(cli, refused, short, model):
    cli(*short, "--out", "run")
    whole = shutil.copytree("run", "whole")
    for path in Path("run").glob("checkpoint-*"):
        path.unlink()
    assert cli("train", "--resume", "--out", "run").exit_code == 0
    assert_same_state("run", whole)

    for path in Path("run").glob("checkpoint-*"):
        path.unlink()
    settings = read("model/config.json")
    (model / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.1}))
    assert "model/config.json has other settings than the run began with" in refused(
        "train", "--resume", "--out", "run"
    )
    shutil.rmtree(model)
    assert f"{os.path.realpath('model')} does not exist" in refused("train", "--resume", "--out", "run")


def test_a_run_without_a_step_leaves_nothing(cli, short, monkeypatch):
    def interrupted(*arguments, **settings):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("moe_numpy.training.complete.evaluate", interrupted)
    assert cli(*short, "--out", "deep/run").exit_code != 0
    assert not Path("deep").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "olmoe"], "--recipe: with --from, the model is the one that is published"),
        (["--num-layers", 2, "--d-model", 16], "--num-layers, --d-model: with --from"),
        (["--num-experts", 2], "--num-experts: with --from"),
        (["--dense"], "--dense: with --from"),
        (["--top-k", 2], "--top-k: with --from"),
        (["--d-ff", 2], "--d-ff: with --from"),
        (["--capacity-factor", 1, "--eval-capacity-factor", 1], "--capacity-factor, --eval-capacity-factor: with"),
        (["--context", 65], "context must be between 1 and 64, that of "),
        (["--context", 0], "context must be between 1 and 64"),
        (["--freeze", "nothing.*"], "--freeze 'nothing.*' matches no parameter; there are embedding.weight, layers.*."),
        (["--freeze", "*"], "--freeze '*' leaves no parameter to train"),
        (["--learning-rate", -1], "learning_rate must be positive"),
        (["--text", "missing.txt"], "missing.txt: does not exist"),
        (["--text", "short.txt"], "domain 'short' has"),
        (["--out", "model"], "already holds a run"),
        (["--device", "gpu"], "device must be one of"),
    ],
)  # fmt: skip
def test_refused_by_name_before_anything_is_written(refused, short, options, message):
    Path("short.txt").write_text("short")
    before = sorted(Path().rglob("*"))
    said = refused(*short, *options)
    assert message in said
    assert len(said.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


def test_what_cannot_be_continued_is_refused_by_name(cli, refused, short, model, tiny):
    start = lambda folder: refused("train", "--from", folder, *short[3:])  # noqa: E731
    cli(*short, "--out", "run")
    assert "--resume --out" in start("run")
    assert "missing is neither a run nor a published model: it has no config.json" in start("missing")
    assert "notes.txt is neither a run nor a published model" in start("notes.txt")
    (model / "tokenizer.json").rename("tokenizer.json")
    assert "model has no tokenizer.json" in start("model")
    (model / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is damaged" in start("model")
    Path("tokenizer.json").replace(model / "tokenizer.json")
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:-10])
    assert "model.safetensors" in start("model")
    (model / "model.safetensors").write_bytes(content)
    small = make_published(Path("small"), vocab_size=260)
    assert "the text has a token 2" in start(small)
    assert not Path("runs").exists()


def test_resume_refuses_options_that_contradict(cli, refused, short, tiny, trained):
    cli(*short, "--out", "run", "--freeze", "norm.*")
    resume = ["train", "--resume", "--out", "run"]
    assert cli(*resume, "--from", "model", "--freeze", "norm.*", "--context", 16).exit_code == 0
    said = refused(
        *resume, "--from", "other", "--freeze", "layers.*", "--freeze", "x", "--context", 8, "--recipe", "olmoe"
    )
    assert "--from other (the run began with " in said
    assert "--freeze 'layers.*' 'x' (the run has 'norm.*')" in said
    assert "--context 8 (the run has 16)" in said
    assert "--recipe olmoe (the run has None)" in said
    shutil.copytree(trained, "plain")
    said = refused("train", "--resume", "--out", "plain", "--from", "model", "--freeze", "norm.*")
    assert "--from model (the run began with random weights)" in said
    assert "--freeze 'norm.*' (the run has nothing)" in said


def test_convert_and_chat_of_runs(cli, refused, short, trained):
    cli(*short, "--out", "run")
    assert "--to llama: run began with a mixtral model and stays one" in refused(
        "convert", "run", "out", "--to", "llama"
    )
    assert cli("convert", "run", "out", "--to", "mixtral", "--dtype", "bfloat16").exit_code == 0
    assert "is a run that reads bytes, which has no chat template" in refused("generate", trained, "x", "--chat")
    assert cli("inspect", "run", "--tokens", 64).exit_code == 0
    (Path("run") / "tokenizer" / "tokenizer.json").unlink()
    for command in (["generate", "run", "x"], ["train", "--resume", "--out", "run", "--steps", 6]):
        assert "run/tokenizer has no tokenizer.json" in refused(*command)


def test_parameters_of_a_new_model_can_be_frozen_too(cli, refused, tiny):
    assert cli(*tiny, "--freeze", "layers.*.attention.*", "--out", "run").exit_code == 0
    start, end = (Run.open(Path("run")).model(step)[0].state_dict() for step in (4, 6))
    same = {name for name in start if np.array_equal(start[name], end[name])}
    assert same == {name for name in start if ".attention." in name}
    assert "leaves no parameter to train" in refused(*tiny, "--freeze", "*", "--out", "other")


@pytest.mark.parametrize("odd", ["loop", "pipe", "/dev/null", "folder", "a/b", "\x1b[2J", "a\nb", "notes.txt"])
def test_an_odd_folder_is_one_line(refused, short, odd):
    os.symlink("loop", "loop")
    os.mkfifo("pipe")
    Path("folder").mkdir()
    os.mkfifo("folder/config.json")
    said = refused("train", "--from", odd, *short[3:])
    assert "is neither a run nor a published model: it has no config.json" in said
    assert len(said.splitlines()) == 1
    assert "\x1b" not in said
    assert not Path("runs").exists()


def test_from_a_run_of_ours(cli, refused, tmp_path):
    (tmp_path / "notes.txt").write_text("the cat sat on the mat, and the dog did not. " * 90)
    sizes = ["--num-layers", 1, "--d-model", 16, "--num-experts", 4, "--d-ff", 8]
    cli("train", *sizes, "--text", "notes.txt", *SHORT, "--learning-rate", 0.02, "--out", "first")
    result = cli("train", "--from", "first", "--steps", 2, "--batch-size", 2, "--out", "second")
    assert result.exit_code == 0, result.output
    first, second = read("first/config.json"), read("second/config.json")
    assert second["model"] == first["model"]
    assert second["from"] == os.path.realpath("first")
    assert second["training"]["learning_rate"] == 0.02
    assert second["text"] == first["text"]
    begun, ended = Run.open(Path("second")).validation()[0], Run.open(Path("first")).summary()["val_loss"]
    assert begun == ended
    assert cli("train", "--resume", "--out", "second", "--steps", 3).exit_code == 0
    assert Run.open(Path("second")).newest_step() == 3
    assert cli("generate", "second", "the ", "--tokens", 3).exit_code == 0
    assert "--d-ff: with --from, the model is the one that is in" in refused("train", "--from", "first", *sizes)
    assert "context must be between 1 and 16" in refused("train", "--from", "first", "--context", 17)
