import json
import signal
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from moe_numpy import nn
from moe_numpy.autodiff import NonFiniteError
from moe_numpy.models import ModelConfig
from moe_numpy.ops import RMSNorm
from moe_numpy.training.checkpoints import list_checkpoints, load_checkpoint
from moe_numpy.training.config import TrainingConfig
from moe_numpy.training.corpus import Corpus, Domain
from moe_numpy.training.loop import Trainer
from moe_numpy.training.optimizers import AdamW
from moe_numpy.training.runs import Run

pytestmark = pytest.mark.no_cover

TINY = ModelConfig(
    d_model=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    context=8,
    d_ff=4,
    num_experts=3,
    recipe="switch",
    recipe_settings={"capacity_factor": 1.0},
)


def corpus(seed=0):
    rng = np.random.default_rng(seed)
    letters = [np.frombuffer(b"abcd" * 50, np.uint8), rng.integers(48, 58, 200).astype(np.uint8)]
    return Corpus([Domain(name, text, text[:40]) for name, text in zip(("letters", "digits"), letters, strict=True)])


def trainer(**settings):
    config = {"steps": 6, "batch_size": 4, "warmup": 2, "checkpoint_every": 2, "learning_rate": 0.01} | settings
    return Trainer(TINY, TrainingConfig(**config), corpus())


def nothing(record):
    pass


def started(folder):
    return Run.start(folder, TINY, TrainingConfig())


def losses(run):
    return [row["loss"] for row in run.history()]


def test_the_loss_falls_and_the_record_says_what_happened():
    records = []
    t = trainer(steps=60, warmup=5)
    assert t.train(records.append)
    assert records[-1].loss < 0.7 * records[0].loss
    assert [r.step for r in records] == list(range(1, 61))
    assert records[0].learning_rate < records[4].learning_rate
    assert t.tokens_per_step == 32
    assert 0 < records[0].dropped_fraction < 1
    assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in records[0].expert_load)


def test_accumulation_is_the_mean_over_the_passes():
    """Two passes of one batch each give the mean of their gradients."""
    t = trainer(accumulate=2)
    t._accumulate_gradients(*t._inputs())
    both = {name: p.grad for name, p in t.model.named_parameters()}
    single = []
    for number in (0, 1):
        one = trainer()
        one.completed = number
        one._accumulate_gradients(*one._inputs())
        single.append({name: p.grad for name, p in one.model.named_parameters()})
    for name, grad in both.items():
        np.testing.assert_allclose(grad, (single[0][name] + single[1][name]) / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("stop_at", [2, 3])
def test_an_interrupted_and_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(tmp_path, stop_at):
    whole_run, run = (started(tmp_path / name) for name in ("whole", "parts"))
    whole = trainer()
    assert whole.train(nothing, whole_run)

    def interrupt(record):
        if record.step == stop_at:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    assert not trainer().train(interrupt, run)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = trainer()
    resumed.resume(run)
    assert resumed.completed == stop_at
    assert resumed.train(nothing, run)

    assert losses(run) == losses(whole_run)
    for (name, p), (_, q) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data, err_msg=name)


def test_going_back_to_an_earlier_checkpoint_cuts_the_history(tmp_path):
    run = started(tmp_path)
    trainer().train(nothing, run)
    assert list_checkpoints(tmp_path) == [4, 6]
    before = losses(run)
    again = trainer()
    again.resume(run, 4)
    assert losses(run) == before[:4]
    again.train(nothing, run)
    assert losses(run) == before


def test_other_text_is_refused(tmp_path):
    run = started(tmp_path)
    trainer().train(nothing, run)
    other = Trainer(TINY, TrainingConfig(steps=6, warmup=2), corpus(seed=1))
    with pytest.raises(ValueError, match="the text has changed since"):
        other.resume(run)


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    monkeypatch.setattr(
        signal, "getsignal", lambda number: signal.default_int_handler
    )  # a job in the background has none

    def interrupt_twice(record):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer().train(interrupt_twice)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_that_end_training_wait_for_the_step_and_save(tmp_path, name):
    number = getattr(signal, name)
    run, t, before = started(tmp_path), trainer(), signal.getsignal(number)

    def send(record):
        if record.step == 3:
            signal.raise_signal(number)

    assert not t.train(send, run)
    assert (t.completed, t.stopped_by) == (3, number)
    assert list_checkpoints(tmp_path) == [2, 3]
    assert signal.getsignal(number) is before


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert trainer(steps=3).train(lambda record: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), SystemExit(1)])
def test_a_step_whose_progress_cannot_be_printed_is_saved(tmp_path, error):
    def closed(record):
        if record.step == 3:
            raise error

    with pytest.raises(type(error)):
        trainer().train(closed, started(tmp_path))
    assert list_checkpoints(tmp_path) == [2, 3]


def test_a_layer_without_an_assignment_has_no_load():
    config = replace(TINY, recipe="remoe", recipe_settings={})
    t = Trainer(config, TrainingConfig(steps=2, warmup=1, batch_size=1), corpus())
    for layer in t.model.layers:
        layer.feed_forward.router.weight.data[:] = 0  # relu(0) chooses nobody
    assert t.step().expert_load == [[0, 0, 0]] * 2


def test_training_in_another_thread_leaves_signals_alone():
    t, done = trainer(steps=3), []
    thread = threading.Thread(target=lambda: done.append(t.train(nothing)))
    thread.start()
    thread.join()
    assert done == [True]


def test_a_non_finite_loss_names_the_op_and_keeps_the_last_good_state(tmp_path):
    t = trainer()

    def poison(record):
        if record.step == 2:
            t.model.norm.weight.data[0] = np.inf

    with pytest.raises(NonFiniteError, match=r"RMSNorm\.forward produced a non-finite value") as caught:
        t.train(poison, started(tmp_path))
    assert caught.value.op == "RMSNorm"
    assert caught.value.__notes__[0].startswith("step 3: loss nan")
    assert list_checkpoints(tmp_path) == [2]
    assert t.completed == 2


def test_a_non_finite_gradient_names_the_op(monkeypatch):
    right = RMSNorm.backward

    def wrong(self, grad):
        dx, dweight = right(self, grad)
        return dx, dweight * np.float32("nan")

    monkeypatch.setattr(RMSNorm, "backward", wrong)
    with pytest.raises(NonFiniteError, match=r"RMSNorm\.backward produced a non-finite gradient for input 1"):
        trainer().step()


def test_a_norm_that_overflows_while_every_gradient_is_finite_is_reported(monkeypatch):
    monkeypatch.setattr("moe_numpy.training.ranks.sum_of_squares", lambda gradients: np.array(np.inf))
    with pytest.raises(NonFiniteError, match=r"the gradient norm\.sum produced a non-finite value at step 1: loss 5"):
        trainer().step()


def test_a_run_folder_is_never_started_twice(tmp_path):
    folder = tmp_path / "runs" / "a"
    started(folder)
    config = json.loads((folder / "config.json").read_text())
    assert ModelConfig.from_json(config["model"]) == TINY
    assert TrainingConfig.from_json(config["training"]) == TrainingConfig()
    with pytest.raises(FileExistsError, match="already holds a run; continue it with --resume"):
        started(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"accumulate": 10**30}, "accumulate must be at most 1,000,000,000, got 1000"),
        ({"learning_rate": 1e308}, r"learning_rate must be at most 3.4e\+38, got 1e\+308"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0"),
        ({"max_norm": -1.0}, "max_norm must be positive, got -1"),
        ({"warmup": 300}, "warmup must be at least 0 and below steps=300, got 300"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"device": "tpu"}, "device must be one of cpu, cuda, got 'tpu'"),
        ({"dtype": "float64"}, "dtype must be one of float32, bfloat16, got 'float64'"),
        ({"dtype": "bfloat16"}, "dtype bfloat16 needs device cuda"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


def test_an_unknown_setting_in_a_stored_configuration_is_refused():
    with pytest.raises(ValueError, match="unknown settings in a training configuration: step"):
        TrainingConfig.from_json({"step": 3})


def test_text_with_bytes_that_the_model_has_no_token_for_is_refused():
    with pytest.raises(ValueError, match=r"the text has a byte .*: vocab_size=8 is too small"):
        Trainer(replace(TINY, vocab_size=8), TrainingConfig(steps=2, warmup=1), corpus())


FROZEN = {
    "embedding": lambda name: name.startswith("embedding"),
    "a layer": lambda name: name.startswith("layers.0."),
    "routers": lambda name: ".router." in name,
    "some tensors of the experts": lambda name: name.endswith(("first", "second_bias")),
    "all but a norm": lambda name: name != "norm.weight",
}


@pytest.mark.parametrize("which", FROZEN)
def test_frozen_parameters_are_neither_trained_nor_in_the_way(which, tmp_path):
    def frozen_trainer():
        t = trainer(steps=4)
        for name, p in t.model.named_parameters():
            p.requires_grad = not FROZEN[which](name)
        return t

    run, t = started(tmp_path / "run"), frozen_trainer()
    before = {name: array.copy() for name, array in t.model.state_dict().items()}
    total = trainer().model.num_parameters()
    record = t.step()
    run.append_history(asdict(record))
    gradients = [p.grad for p in t.model.parameters() if p.grad is not None]
    assert record.gradient_norm == pytest.approx(np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients)))
    run.append_history(asdict(t.step()))
    t.save(run)
    assert t.model.num_parameters() == total
    assert t.model.active_parameters() < total
    resumed = frozen_trainer()
    resumed.resume(run)
    t.train(nothing)
    resumed.train(nothing)
    for name, p in t.model.named_parameters():
        assert (p.grad is None) == FROZEN[which](name)
        assert np.array_equal(p.data, before[name]) == FROZEN[which](name), name
        assert p.data.tobytes() == dict(resumed.model.named_parameters())[name].data.tobytes()


def test_tied_parameters_are_normed_trained_and_saved_once(tmp_path):
    def tied_trainer():
        t = trainer(steps=4)
        t.model.output.weight = t.model.embedding.weight
        t.model.layers[1] = t.model.layers[0]
        t.optimizer = AdamW(t.model.named_parameters(), lr=0.01)
        return t

    free, t = trainer(), tied_trainer()
    layer = free.model.layers[0]
    once = layer.num_parameters() + free.model.output.weight.size
    assert t.model.num_parameters() == free.model.num_parameters() - once
    idle = layer.feed_forward.num_parameters() - layer.feed_forward.active_parameters()
    assert t.model.active_parameters() == t.model.num_parameters() - idle
    record = t.step()
    gradients = {id(p): p.grad.astype(float) for _, p in t.model.named_parameters()}
    assert record.gradient_norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in gradients.values())))
    run = started(tmp_path / "run")
    run.append_history(asdict(record))
    t.save(run)
    names = {name for name, _ in t.model.named_parameters()}
    assert "output.weight" not in names
    assert not [name for name in names if "layers.1" in name]
    saved = {f"{of}.{name}" for of in ("model", "optimizer.first", "optimizer.second") for name in names}
    assert load_checkpoint(run.folder).arrays.keys() == saved | {"optimizer.step"}
    resumed = tied_trainer()
    resumed.resume(run)
    assert resumed.model.output.weight is resumed.model.embedding.weight
    np.testing.assert_array_equal(resumed.model.output.weight.data, t.model.embedding.weight.data)
    t.train(nothing)
    resumed.train(nothing)
    for (name, p), (_, q) in zip(t.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert p.data.tobytes() == q.data.tobytes(), name


@pytest.mark.parametrize(("owner", "method"), [(RMSNorm, "backward"), (nn.RMSNorm, "forward")])
def test_a_step_that_failed_is_not_counted_by_the_balancers(owner, method, monkeypatch):
    config = TrainingConfig(steps=3, batch_size=2, accumulate=2, warmup=1)
    straight, failed = (
        Trainer(replace(TINY, recipe="quantile", recipe_settings={}), config, corpus()) for _ in range(2)
    )
    calls, original = [], getattr(owner, method)

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 8:  # of 5 in a pass, so in the second
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            failed.step()
    for t in (straight, failed):
        t.step()
    for (name, b), (_, other) in zip(straight.model.named_buffers(), failed.model.named_buffers(), strict=True):
        assert b.data.any()
        assert b.data.tobytes() == other.data.tobytes(), name


def test_a_resumed_run_freezes_the_same_parameters(tmp_path):
    def frozen(t):
        return [name for name, p in t.model.named_parameters() if not p.requires_grad]

    whole, first, second = trainer(), trainer(), trainer()
    for t in (whole, first):
        t.model.embedding.weight.requires_grad = False
    second.model.norm.weight.requires_grad = False
    run = started(tmp_path / "run")
    whole.train(nothing)
    first.train(lambda record: signal.raise_signal(signal.SIGINT) if record.step == 3 else None, run)
    second.resume(run)
    assert frozen(second) == ["embedding.weight", "norm.weight"]
    second.model.norm.weight.requires_grad = True
    second.train(nothing, run)
    for (name, a), b in zip(whole.model.named_parameters(), second.model.parameters(), strict=True):
        assert np.array_equal(a.data, b.data), name


def test_a_checkpoint_without_a_word_on_frozen_parameters_freezes_none(tmp_path):
    run, t = started(tmp_path / "run"), trainer()
    t.train(nothing, run)
    path = run.folder / "checkpoint-000006.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["meta"]["frozen"]
    path.write_text(json.dumps(content), encoding="utf-8")
    other = trainer()
    other.resume(run)
    assert all(p.requires_grad for p in other.model.parameters())


def test_a_parameter_that_was_added_later_is_not_silently_left_out():
    t = trainer()
    t.step()
    t.model.scale = nn.RMSNorm(8)
    before = [p.data.copy() for p in t.model.parameters()]
    with pytest.raises(RuntimeError, match=r"scale\.weight came into the Transformer after this optimizer was made"):
        t.step()
    assert all(np.array_equal(p.data, b) for p, b in zip(t.model.parameters(), before, strict=True))
    t.model.scale.weight.requires_grad = False
    t.step()
