"""Frozen experts and rows keep every bit; the others train as if the frozen ones were not there."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_numpy import kernels
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.nn import Parameter
from moe_numpy.parallel import Alone
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import AdamW, Corpus, Domain, Run, Trainer, TrainingConfig
from moe_numpy.training.expert_patterns import experts_of, patterns_of, runs_of
from moe_numpy.training.freezing import all_but_experts, freeze, trained_parameters, trained_runs
from moe_numpy.training.ranks import Ranks

MODEL = ModelConfig(
    d_model=8, num_layers=2, num_heads=2, num_kv_heads=1, context=8, d_ff=4, num_experts=4, recipe="mixtral"
)
TEXT = Corpus(
    [Domain("letters", np.frombuffer(b"abcd efg " * 60, np.uint8), np.frombuffer(b"abcd efg " * 9, np.uint8))]
)


def trainer(model=MODEL, ranks=None, **settings):
    config = {"steps": 6, "batch_size": 4, "warmup": 2, "checkpoint_every": 2, "learning_rate": 0.01} | settings
    return Trainer(model, TrainingConfig(**config), TEXT, ranks=ranks)


@pytest.mark.parametrize("library", ["numpy", "numba"])
def test_frozen_entries_keep_their_bits_over_100_steps_of_adamw(library):
    rng = np.random.default_rng(0)
    frozen, whole = (Parameter(rng.standard_normal((5, 3, 2)).astype(np.float32), decay=True) for _ in range(2))
    whole.data[...] = frozen.data
    optimizers = [AdamW([("w", p)], lr=0.1, weight_decay=0.5) for p in (frozen, whole)]
    with kernels.use(library):
        for step in range(110):
            gradient = rng.standard_normal((5, 3, 2)).astype(np.float32)
            for p, optimizer in zip((frozen, whole), optimizers, strict=True):
                p.grad = gradient
                optimizer.step()
            if step == 9:  # moments are no longer zero
                frozen.frozen = frozenset({0, 3})
                kept = [a[[0, 3]].tobytes() for a in (frozen.data, optimizers[0].first["w"], optimizers[0].second["w"])]
    now = frozen.data, optimizers[0].first["w"], optimizers[0].second["w"]
    assert [a[[0, 3]].tobytes() for a in now] == kept
    as_whole = whole.data, optimizers[1].first["w"], optimizers[1].second["w"]
    for mine, theirs in zip(now, as_whole, strict=True):
        assert mine[[1, 2, 4]].tobytes() == theirs[[1, 2, 4]].tobytes()
        assert not np.array_equal(mine[[0, 3]], theirs[[0, 3]])


def test_a_bfloat16_parameter_and_its_master_are_frozen_together():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    p = Parameter(np.ones((3, 4), ml_dtypes.bfloat16), decay=True)
    p.frozen = frozenset({1})
    optimizer = AdamW([("w", p)], lr=0.1)
    for _ in range(3):
        p.grad = np.ones((3, 4), ml_dtypes.bfloat16)
        optimizer.step()
    assert (optimizer.master["w"][1] == 1).all()
    assert (p.data[1] == 1).all()
    assert (optimizer.master["w"][[0, 2]] < 0.9).all()
    assert (p.data[[0, 2]].astype(np.float32) < 0.9).all()


def test_a_trainer_changes_only_what_is_not_frozen():
    t = trainer(freeze=("*:0-2", "layers.*.attention.*"))
    before = {name: p.data.copy() for name, p in t.model.named_parameters()}
    assert t.train(lambda record: None)
    for name, p in t.model.named_parameters():
        if ".experts." in name or ".router." in name:
            assert p.data[:3].tobytes() == before[name][:3].tobytes(), name
            assert not np.array_equal(p.data[3], before[name][3]), name
        else:
            assert np.array_equal(p.data, before[name]) == (".attention." in name), name


def test_frozen_entries_count_neither_in_the_norm_nor_in_clipping():
    t = trainer(freeze=("0:1", "1:2-3"))
    norm = t.step().gradient_norm
    counted = [p.grad[run] for p in t.model.parameters() if p.requires_grad for run in trained_runs(p)]
    np.testing.assert_allclose(norm, np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in counted)), rtol=1e-12)
    everything = np.sqrt(sum((p.grad.astype(np.float64) ** 2).sum() for p in t.model.parameters()))
    assert norm < everything


def test_a_resumed_run_continues_bit_for_bit_and_stays_frozen(tmp_path):
    settings = {"freeze": ("*:0,2", *all_but_experts(Transformer(MODEL, rng=np.random.default_rng(0))))}
    whole = trainer(**settings)
    initial = whole.model.layers[0].feed_forward.experts.down.data.copy()
    whole.train(lambda record: None)
    run = Run.start(tmp_path / "run", MODEL, whole.config)

    def stop(record):
        if record.step == 3:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        trainer(**settings).train(stop, run)
    second = trainer(**settings)
    second.resume(Run.open(run.folder))
    assert second.completed == 3
    second.train(lambda record: None)
    state = whole.model.state_dict() | whole.optimizer.state_dict()
    for name, array in (second.model.state_dict() | second.optimizer.state_dict()).items():
        assert array.tobytes() == state[name].tobytes(), name
    down = second.model.layers[0].feed_forward.experts.down.data
    assert [np.array_equal(down[e], initial[e]) for e in range(4)] == [True, False, True, False]


def test_the_bias_of_a_frozen_expert_does_not_move():
    t = trainer(replace(MODEL, recipe="deepseek_v3", num_experts=8), freeze=("0:0-3",))
    t.train(lambda record: None)
    states = [layer.feed_forward.router.balancer_state.data for layer in t.model.layers]
    assert (states[0][:4] == 0).all()
    assert (states[0][4:] != 0).any()
    assert (states[1][:4] != 0).any()


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_freeze_what_one_process_freezes(num_ranks):
    settings = {"freeze": ("0:0,3", "1:1-2"), "rebalance_every": 1}
    one = trainer(**settings)
    norms = [one.step().gradient_norm for _ in range(4)]
    initial = trainer().model.state_dict()

    def work(communicator):
        t = trainer(ranks=Ranks(communicator), **settings)
        found = []
        for step in range(4):
            found.append(t.step().gradient_norm)
            if step == 1:
                t.place_by_load([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]], places=3)
        np.testing.assert_allclose(found, norms, rtol=1e-4)
        for i, frozen in enumerate([(0, 3), (1, 2)]):
            layer = t.model.layers[i].feed_forward
            for name in ("gate_up", "down"):
                first = initial[f"layers.{i}.feed_forward.experts.{name}"]
                for place, e in enumerate(layer.holding.held):
                    same = np.array_equal(getattr(layer.experts, name).data[place], first[e])
                    assert same == (e in frozen), (i, name, e)

    run_parts(Alone(), num_ranks, work)


def test_what_is_counted_as_trained():
    model = Transformer(MODEL, rng=np.random.default_rng(0))
    of_expert, row = 3 * 8 * 4, 8
    whole = model.num_parameters()
    freeze(model, ["0:0-1"])
    assert trained_parameters(model) == whole - 2 * (of_expert + row)
    freeze(model, ["*:*"])
    assert not any(p.requires_grad for p in model.layers[1].feed_forward.parameters())
    assert trained_parameters(model) == whole - 8 * (of_expert + row)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("0:4", "experts of layer 0 are 0 to 3, got 4"),
        ("2:0", r"layer 2 has no experts to choose from; layers with some: \[0, 1\]"),
        ("0:", "LAYER:EXPERTS"),
        ("x:0", "LAYER:EXPERTS"),
        ("0:3-1", "ascends, got 3-1"),
    ],
)
def test_wrong_names_of_experts(pattern, message):
    with pytest.raises(ValueError, match=message):
        freeze(Transformer(MODEL, rng=np.random.default_rng(0)), [pattern])


def test_a_model_without_a_stack_of_experts_has_none_to_name():
    with pytest.raises(ValueError, match="no layer of this model has experts"):
        freeze(Transformer(replace(MODEL, recipe="soft_moe"), rng=np.random.default_rng(0)), ["*:0"])


def test_nothing_left_to_train_is_refused():
    model = Transformer(MODEL, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        freeze(model, [*all_but_experts(model), "*:*"])


CHOSEN = st.dictionaries(st.integers(0, 1), st.frozensets(st.integers(0, 3), min_size=1), min_size=1)


@given(CHOSEN)
def test_patterns_name_what_they_were_made_of(chosen):
    model, found = _MODEL, {}
    for pattern in patterns_of(chosen, {0, 1}):
        found |= experts_of(model, pattern)
    assert found == chosen


@given(st.frozensets(st.integers(0, 20)))
def test_runs_cover_entries_once_and_do_not_touch(entries):
    runs = runs_of(entries)
    assert [e for run in runs for e in range(run.start, run.stop)] == sorted(entries)
    assert all(a.stop < b.start for a, b in itertools.pairwise(runs))


_MODEL = Transformer(MODEL, rng=np.random.default_rng(0))
