"""What is in a run folder is bound together: configuration, text, history and checkpoints."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.training import (
    CheckpointError,
    Corpus,
    Domain,
    Run,
    RunError,
    Trainer,
    TrainingConfig,
    memory,
    save_checkpoint,
)
from moe_numpy.training.checkpoints import load_checkpoint

MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=1, num_kv_heads=1, d_ff=4, num_experts=2, context=8)
TEXT = np.frombuffer(b"some text " * 30, np.uint8)


@pytest.fixture
def corpus():
    return Corpus([Domain("a", TEXT, TEXT)])


@pytest.fixture
def trained(tmp_path, corpus):
    """The folder of a run of four steps with checkpoints of step 2 and 4."""
    config = TrainingConfig(steps=4, warmup=1, batch_size=1, checkpoint_every=2)
    run = Run.start(tmp_path / "run", MODEL, config)
    Trainer(MODEL, config, corpus).train(lambda record: None, run)
    run.write_validation({0: 5.5, 4: 5.0})
    run.write_summary({"steps": 4})
    return run.folder


def configure(folder, part, **settings):
    config = json.loads((folder / "config.json").read_text())
    config[part] |= settings
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "context", 4),
        ("model", "num_heads", 2),
        ("model", "recipe", "olmoe"),
        ("model", "recipe_settings", {"top_k": 1}),
        ("training", "seed", 1),
        ("training", "learning_rate", 0.001),
        ("training", "batch_size", 2),
        ("training", "accumulate", 2),
        ("training", "weight_decay", 0.0),
        ("training", "steps", 5),
    ],
)
def test_a_configuration_changed_by_hand_is_refused(trained, part, name, value):
    configure(trained, part, **{name: value})
    run = Run.open(trained)
    expected = rf"step 4 of .* is of another model than config\.json.*: {name} .*the checkpoint has"
    with pytest.raises(CheckpointError, match=expected):
        run.model()
    with pytest.raises(CheckpointError, match=expected):
        run.verified(4)


def test_the_device_may_change(trained):
    configure(trained, "training", device="cuda")
    assert Run.open(trained).model()[1] == 4


def test_more_steps_by_intent(trained, corpus):
    run = Run.open(trained).with_steps(6)
    trainer = Trainer(run.model_config, run.training_config, corpus)
    trainer.resume(run)
    run.write_config()
    assert trainer.train(lambda record: None, run)
    again = Run.open(trained)
    assert (again, again.steps_before) == (run, (4,))
    assert [record["step"] for record in again.history()] == [1, 2, 3, 4, 5, 6]
    assert again.model(4)[1] == 4  # saved when it was to have four
    assert again.model()[1] == 6


@pytest.mark.parametrize("name", ["d_model", "d_ff", "vocab_size"])
def test_absurd_sizes_are_refused_before_anything_is_allocated(trained, corpus, name, monkeypatch):
    checkpoint = load_checkpoint(trained)
    save_checkpoint(trained, 4, checkpoint.arrays, {})  # one of an earlier version: it says nothing of its model
    configure(trained, "model", **{name: 2 * 10**9})
    monkeypatch.setattr("moe_numpy.training.runs.Transformer", None)
    with pytest.raises(CheckpointError, match=r"at least [\d,]+ parameters \(the checkpoint has 4,584\)"):
        Run.open(trained).model()
    with pytest.raises(ValueError, match=r"training needs at least .* GiB of memory, this machine has"):
        Trainer(Run.open(trained).model_config, TrainingConfig(), corpus)


@pytest.mark.parametrize("name", ["num_layers", "num_experts"])
def test_what_is_gone_through_one_by_one_can_be_counted(trained, name):
    configure(trained, "model", **{name: 2 * 10**9})
    with pytest.raises(RunError, match=f"{name} must be at most 100,000, got 2000000000"):
        Run.open(trained).model()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("moe_every", [1, 2])
def test_no_model_has_fewer_parameters_than_the_least(recipe, moe_every):
    config = ModelConfig(
        d_model=8, num_layers=3, num_heads=1, num_kv_heads=1, d_ff=6, num_experts=8, recipe=recipe, moe_every=moe_every
    )
    for each in (config, replace(config, num_experts=0)):
        model = Transformer(each, rng=np.random.default_rng(0))
        assert memory.least_parameters(each) <= model.num_parameters()


def test_a_batch_that_cannot_fit_is_refused():
    with pytest.raises(ValueError, match="batch_size=1000000000 sequences of context=128"):
        memory.require_memory(ModelConfig(), TrainingConfig(batch_size=10**9))
    memory.require_memory(ModelConfig(), TrainingConfig(batch_size=10**9, device="cuda"))


def test_a_system_that_does_not_know_its_memory_refuses_nothing(monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": -1}.get)  # as WebAssembly's does
    monkeypatch.setattr(memory, "_LIMITS", ())
    memory.require_memory(ModelConfig(), TrainingConfig(batch_size=10**9))


WRONG = {int: ["1", 1.5, None, True, [1]], float: ["1", None, True], str: [1, None, [], True], dict: [[], None, "x"]}


@pytest.mark.parametrize("part", ["model", "training"])
def test_every_wrong_type_in_the_configuration_is_one_error(trained, part):
    content = json.loads((trained / "config.json").read_text())
    for name, value in content[part].items():
        for wrong in WRONG.get(type(value), ["x", [], True]):
            (trained / "config.json").write_text(json.dumps(content | {part: content[part] | {name: wrong}}))
            with pytest.raises(RunError, match=rf"config\.json is damaged, .*{name}"):
                Run.open(trained)


@pytest.mark.parametrize("settings", [{"top_k": "2"}, {"balance": [1]}, {"z": True}, {"top_k": 2.5}, {"top_k": None}])
def test_settings_of_a_recipe_have_types_too(trained, settings):
    configure(trained, "model", recipe_settings=settings)
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        Run.open(trained)


@pytest.mark.parametrize("file", ["config.json", "history.jsonl", "validation.json", "summary.json"])
def test_no_flipped_bit_is_more_than_an_error_with_the_name_of_the_file(trained, corpus, file):
    right = (trained / file).read_bytes()
    outcomes = set()
    for position in range(0, len(right), max(len(right) // 60, 1)):
        for bit in range(8):
            damaged = bytearray(right)
            damaged[position] ^= 1 << bit
            (trained / file).write_bytes(damaged)
            try:
                run = Run.open(trained)
                run.verified(), run.history(), run.validation(), run.summary()
                outcomes.add("read")
            except ValueError as error:
                outcomes.add(str(error))
    refused = outcomes - {"read"}
    assert refused
    assert all(file in message or "config.json" in message for message in refused)


def test_a_history_that_ends_before_the_checkpoint_is_refused(trained, corpus):
    lines = (trained / "history.jsonl").read_bytes().splitlines(keepends=True)
    run = Run.open(trained)
    for kept in (lines[:3], []):
        (trained / "history.jsonl").write_bytes(b"".join(kept))
        with pytest.raises(RunError, match=rf"history\.jsonl ends after step {len(kept)}, before the checkpoint 4"):
            Trainer(run.model_config, run.training_config, corpus).resume(run)
    (trained / "history.jsonl").unlink()
    with pytest.raises(RunError, match="ends after step 0"):
        Trainer(run.model_config, run.training_config, corpus).resume(run)
    assert run.model()[1] == 4  # the weights are there


@pytest.mark.parametrize("order", [[0, 0, 1, 2, 3], [1, 2, 3], [0, 2, 1, 3]])
def test_a_history_with_other_steps_than_its_lines_is_refused(trained, order):
    lines = (trained / "history.jsonl").read_bytes().splitlines(keepends=True)
    (trained / "history.jsonl").write_bytes(b"".join(lines[i] for i in order))
    with pytest.raises(RunError, match=r"history\.jsonl, line \d, is damaged: it should be of step"):
        Run.open(trained).history()


def test_a_history_of_another_model_is_refused(trained):
    records = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    (trained / "history.jsonl").unlink()
    for record in records:
        del record["checksum"]
        record["expert_load"][0].append(0.5)
        Run.open(trained).append_history(record)
    with pytest.raises(RunError, match=r"line 1, is damaged: expert_load should have rows of \[2\] numbers"):
        Run.open(trained).history()


@pytest.mark.parametrize("file", ["history.jsonl", "validation.json"])
def test_a_changed_digit_is_noticed(trained, file):
    right, noticed = (trained / file).read_text(), 0
    run = Run.open(trained)
    values = run.history(), run.validation()
    for match in re.finditer(r"\d", right):
        digit = str((int(match[0]) + 1) % 10)
        (trained / file).write_text(right[: match.start()] + digit + right[match.end() :])
        try:
            read = run.history(), run.validation()
        except RunError:
            noticed += 1
        else:
            assert read == values  # the 17th digit of a float may mean nothing
    assert noticed > 0.9 * len(re.findall(r"\d", right))


def test_a_history_without_checksums_is_read(trained):
    run, path = Run.open(trained), trained / "history.jsonl"
    history = run.history()
    path.write_text(re.sub(r', "checksum": \d+', "", path.read_text()))
    assert "checksum" not in path.read_text()
    assert run.history() == history


def test_the_history_is_on_the_disk_before_the_checkpoint(trained, corpus, monkeypatch):
    run, synced = Run.open(trained), []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    trainer = Trainer(run.model_config, run.training_config, corpus)
    trainer.resume(run, 2)
    synced.clear()
    trainer.train(lambda record: None, run)
    files = [name for name in synced if name != trained.name]
    assert files[:3] == ["history.jsonl", "checkpoint-000004.again.safetensors.tmp", "checkpoint-000004.json.tmp"]


def test_other_text_than_the_checkpoint_was_trained_on_is_refused(trained):
    run = Run.open(trained)
    other = Corpus([Domain("a", np.arange(99, dtype=np.uint8), np.arange(9, dtype=np.uint8))])
    with pytest.raises(ValueError, match="the text has changed since"):
        run.require_text(other, run.verified())


def test_a_run_says_what_it_was_made_with(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["versions"]["numpy"] == np.__version__
    assert load_checkpoint(trained).meta["versions"] == config["versions"]


def test_a_path_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"'a\\udcff' is not UTF-8"):
        Run.start(tmp_path / "run", ModelConfig(), TrainingConfig(), ["a\udcff"])
    assert not (tmp_path / "run").exists()


def test_what_a_crash_left_half_written_is_removed_and_nothing_else(trained):
    ours = ["checkpoint-000004.safetensors.tmp", "checkpoint-000006.json.tmp", "config.json.tmp", "summary.json.tmp"]
    theirs = ["notes.tmp", "config.json.bak"]
    for name in ours + theirs:
        (trained / name).write_text("half")
    Run.open(trained).remove_temporaries()
    names = {path.name for path in trained.iterdir()}
    assert not names & set(ours)
    assert names >= set(theirs)


def test_only_an_untrained_run_is_discarded(trained, tmp_path):
    before = {path.name for path in trained.iterdir()}
    Run.open(trained).discard_if_untrained()
    assert {path.name for path in trained.iterdir()} == before
    fresh = Run.start(tmp_path / "fresh", ModelConfig(), TrainingConfig())
    (fresh.folder / "mine").touch()
    fresh.discard_if_untrained()
    assert [path.name for path in fresh.folder.iterdir()] == ["mine"]
