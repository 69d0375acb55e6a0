"""Training on a GPU against training on the CPU: the same curve, the same checkpoints, the same bits each time."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from moe_numpy.autodiff.arrays import to_host
from moe_numpy.models import ModelConfig
from moe_numpy.training import Corpus, Domain, Run, Trainer, TrainingConfig, load_checkpoint
from moe_numpy.training.evaluation import evaluate

pytestmark = pytest.mark.gpu

MODEL = ModelConfig(num_layers=4, num_experts=8, d_model=128, d_ff=128, context=64)
WORDS = b"the cat sat on the mat and the dog did not see what the cat had seen before it sat there again "


def corpus():
    sums = "".join(f"{a} + {b} = {a + b}\n" for a in range(60) for b in range(60)).encode()
    texts = {"words": WORDS * 100, "sums": sums}
    return Corpus([Domain(n, *np.split(np.frombuffer(t, np.uint8), [len(t) * 9 // 10])) for n, t in texts.items()])


def trainer(device, dtype="float32", model=MODEL, **settings):
    settings = {"steps": 50, "warmup": 5, "batch_size": 8, "learning_rate": 1e-3} | settings
    return Trainer(model, TrainingConfig(device=device, dtype=dtype, **settings), corpus())


def steps(t, n):
    return [t.step() for _ in range(n)]


def losses(records):
    return np.array([r.loss for r in records])


def test_the_loss_curve_is_that_of_the_cpu_where_nothing_is_chosen():
    """Every token meets every expert: rounding can change no choice, and the curves stay together."""
    everyone = replace(MODEL, recipe_settings={"top_k": 8})
    host, other = (losses(steps(trainer(device, model=everyone), 50)) for device in ("cpu", "cuda"))
    assert host[-1] < host[0] - 1
    np.testing.assert_allclose(other, host, atol=1e-4)


def test_the_loss_curve_is_that_of_the_cpu_until_a_near_tie_is_rounded_the_other_way():
    """From the first token that goes to another expert on, two runs are two runs; before that they agree."""
    host, other = (steps(trainer(device), 50) for device in ("cpu", "cuda"))
    same = [a.expert_load == b.expert_load for a, b in zip(host, other, strict=True)]
    together = same.index(False) if False in same else len(same)
    assert together >= 5
    np.testing.assert_allclose(losses(other)[:together], losses(host)[:together], atol=1e-4)
    np.testing.assert_allclose(losses(other), losses(host), atol=3e-2)


def test_bfloat16_learns_as_float32_does():
    wide, narrow = trainer("cpu"), trainer("cuda", "bfloat16")
    expected, found = losses(steps(wide, 50)), losses(steps(narrow, 50))
    assert found[-10:].mean() == pytest.approx(expected[-10:].mean(), rel=2e-2)
    assert {p.dtype.name for p in narrow.model.parameters()} == {"bfloat16"}
    assert {m.dtype.name for m in narrow.optimizer.master.values()} == {"float32"}
    for name, p in narrow.model.named_parameters():
        np.testing.assert_array_equal(to_host(p.data), to_host(narrow.optimizer.master[name].astype(p.dtype)))


@pytest.mark.parametrize(("dtype", "recipe"), [("float32", "switch"), ("bfloat16", "mixtral"), ("bfloat16", "gshard")])
def test_two_runs_give_the_same_bits(dtype, recipe):
    runs = [trainer("cuda", dtype, replace(MODEL, recipe=recipe)) for _ in range(2)]
    records = [[replace(r, seconds=0) for r in steps(t, 5)] for t in runs]
    assert records[0] == records[1]
    for (name, a), (_, b) in zip(*(t.model.named_parameters() for t in runs), strict=True):
        assert to_host(a.data).tobytes() == to_host(b.data).tobytes(), name


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_is_resumed_on_the_other_device(first, second, tmp_path):
    begun = trainer(first)
    run = Run.start(tmp_path, MODEL, begun.config)
    for record in steps(begun, 3):
        run.append_history(asdict(record))
    begun.save(run)
    resumed = trainer(second)
    resumed.resume(run)
    assert resumed.completed == 3
    for (name, a), (_, b) in zip(begun.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        np.testing.assert_array_equal(to_host(a.data), to_host(b.data), err_msg=name)
    np.testing.assert_allclose(losses(steps(resumed, 3)), losses(steps(begun, 3)), atol=1e-4)


def test_a_bfloat16_run_is_resumed_bit_for_bit_and_stored_as_float32(tmp_path):
    straight, begun = trainer("cuda", "bfloat16"), trainer("cuda", "bfloat16")
    run = Run.start(tmp_path, MODEL, begun.config)
    for record in steps(begun, 3):
        run.append_history(asdict(record))
    begun.save(run)
    arrays = load_checkpoint(tmp_path).arrays
    assert {a.dtype.name for name, a in arrays.items() if name.startswith("model.")} == {"float32"}
    resumed = trainer("cuda", "bfloat16")
    resumed.resume(run)
    assert losses(steps(straight, 6))[3:].tolist() == losses(steps(resumed, 3)).tolist()


def test_evaluation_on_the_gpu_is_that_on_the_cpu():
    t = trainer("cuda")
    windows = t.corpus.validation_windows(MODEL.context, limit=8)
    found = evaluate(t.model, windows, 2)
    expected = evaluate(t.model.to("cpu"), windows, 2)
    assert found.loss == pytest.approx(expected.loss, abs=1e-5)
    np.testing.assert_array_equal(found.assignments, expected.assignments)


def test_train_on_the_gpu_and_generate_on_the_cpu(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from moe_numpy.__main__ import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moe_numpy.commands.train.save_run_figures", lambda run, summary: [])
    (tmp_path / "words.txt").write_bytes(WORDS * 40)
    sizes = ["--d-model", "32", "--num-layers", "2", "--d-ff", "16", "--context", "16", "--steps", "4"]
    arguments = ["train", *sizes, "--text", "words.txt", "--device", "cuda", "--dtype", "bfloat16", "--out", "run"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 4
    for command in (["generate", "run", "the", "--tokens", "4"], ["inspect", "run", "--json"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
