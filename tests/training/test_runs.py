import json
from dataclasses import asdict

import numpy as np
import pytest

from moe_numpy.models import ModelConfig
from moe_numpy.training import (
    CheckpointError,
    Corpus,
    CorpusError,
    Domain,
    Run,
    RunError,
    Trainer,
    TrainingConfig,
    load_corpus,
    save_checkpoint,
)
from moe_numpy.training.runs import next_free

MODEL = ModelConfig(d_model=8, num_layers=1, num_heads=1, num_kv_heads=1, d_ff=4, num_experts=2, context=8)
TRAINING = TrainingConfig(steps=2, warmup=1, batch_size=1)


@pytest.fixture
def folder(tmp_path):
    return Run.start(tmp_path / "run", MODEL, TRAINING).folder


@pytest.fixture
def trainer(folder):
    text = np.frombuffer(b"some text " * 30, np.uint8)
    trainer = Trainer(MODEL, TRAINING, Corpus([Domain("a", text, text)]))
    trainer.train(lambda record: None, Run.open(folder))
    return trainer


def test_what_was_started_is_opened(folder):
    assert Run.open(folder) == Run(folder, MODEL, TRAINING, ())


def test_the_newest_or_a_given_model_comes_back(folder, trainer):
    run = Run.open(folder)
    save_checkpoint(folder, 3, {f"model.{n}": a + 1 for n, a in trainer.model.state_dict().items()}, {})
    assert run.newest_step() == 3
    old, step = run.model(2)
    assert step == 2
    new, step = run.model()
    assert step == 3
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(old.state_dict()[name], array)
        np.testing.assert_array_equal(new.state_dict()[name], array + 1)


def test_a_run_that_has_not_trained_has_nothing_yet(folder):
    run = Run.open(folder)
    assert run.newest_step() is None
    assert run.history() == []
    assert run.validation() == {}
    assert run.summary() is None
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        run.model()


def test_what_is_written_is_read(folder, trainer):
    run = Run.open(folder)
    assert [record["step"] for record in run.history()] == [1, 2]
    run.write_validation({2: 4.0, 0: 5.5})
    assert json.loads((folder / "validation.json").read_text())["losses"] == [[0, 5.5], [2, 4.0]]
    assert run.validation() == {0: 5.5, 2: 4.0}
    (folder / "validation.json").write_text("[[0, 5.5], [2, 4.0]]")  # as it was written before there was a checksum
    assert run.validation() == {0: 5.5, 2: 4.0}
    for damaged in ("[[2, 4.0], [0, 5.5]]", "[[0, 5.5], [0, 4.0]]", "[[-1, 5.5]]", "[[3, 5.5]]"):
        (folder / "validation.json").write_text(damaged)
        with pytest.raises(RunError, match=r"validation\.json is damaged: its steps should ascend from 0 to 2"):
            run.validation()
    run.write_summary({"steps": 2})
    assert run.summary() == {"steps": 2}


def test_rewinding_discards_what_came_later(folder, trainer):
    run = Run.open(folder)
    run.write_validation({0: 5.5, 1: 5.0, 2: 4.0})
    run.write_summary({"steps": 2})
    run.rewind(2)
    assert (len(run.history()), len(run.validation()), run.summary()) == (2, 3, {"steps": 2})
    run.rewind(1)
    assert [record["step"] for record in run.history()] == [1]
    assert run.validation() == {0: 5.5, 1: 5.0}
    assert run.summary() is None


def test_the_dense_twin_has_a_run_of_its_own(folder):
    run = Run.open(folder)
    assert run.dense_twin() is None
    twin = run.start_dense_twin()
    assert run.dense_twin() == twin
    assert twin.model_config == MODEL.dense_twin()
    assert (twin.training_config, twin.text) == (TRAINING, ())


def test_weights_of_another_model_are_refused(folder, trainer):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["d_ff"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"step 2 of .* is of another model than config\.json"):
        Run.open(folder).model()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "truncated or damaged"),
        ("[]", "missing or malformed"),
        ("{}", "missing or malformed"),
        (json.dumps({"model": [], "training": {}, "text": []}), "missing or malformed"),
        (json.dumps({"model": {}, "training": {}, "text": None}), "missing or malformed"),
        (json.dumps({"model": {"d_model": "wide"}, "training": {}, "text": []}), "missing or malformed"),
        (json.dumps({"model": {"depth": 3}, "training": {}, "text": []}), "unknown settings .*: depth"),
        (json.dumps({"model": {}, "training": {"steps": 0}, "text": []}), "steps must be at least 1"),
    ],
)
def test_a_damaged_configuration_is_refused_by_name(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(RunError, match=message) as caught:
        Run.open(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"GGUF")
    with pytest.raises(RunError, match="file is a file; a run or a published model is a folder"):
        Run.open(tmp_path / "file")
    with pytest.raises(RunError, match="is not a run: there is no"):
        Run.open(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        Run.open(tmp_path)


def test_the_corpus_is_read_anew(tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("words " * 100)
    Run.start(tmp_path / "run", MODEL, TRAINING, [str(text)])
    assert [domain.name for domain in Run.open(tmp_path / "run").corpus().domains] == ["mine"]
    text.write_text("")
    with pytest.raises(CorpusError, match="is empty"):
        Run.open(tmp_path / "run").corpus()


def test_built_in_text_must_fill_a_window():
    assert len(load_corpus((), 128).domains) == 3
    with pytest.raises(ValueError, match="context=1000000 needs"):
        load_corpus((), 1_000_000)


def test_next_free_never_names_what_exists(tmp_path):
    assert next_free(tmp_path / "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").write_text("a file counts too")
    assert next_free(tmp_path / "demo") == tmp_path / "demo-3"


def test_the_training_configuration_survives_the_trip(folder):
    assert asdict(Run.open(folder).training_config) == asdict(TRAINING)
