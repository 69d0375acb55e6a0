"""Runs that begin with a published model: what is trained, on which losses, and that nothing is lost on the way."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from published_models import DEEPSEEK, FAMILIES, LLAMA, MINIMAX, MIXTRAL, make_published

from moe_numpy.models import Transformer, generate
from moe_numpy.pretrained import PretrainedError, PublishedConfig, PublishedTokenizer, TensorFiles, save_pretrained
from moe_numpy.training import CheckpointError, Run, RunError, Trainer, TrainingConfig, load_corpus, memory, run_model
from moe_numpy.training.checkpoints import load_checkpoint
from moe_numpy.training.evaluation import evaluate

pytestmark = pytest.mark.no_cover

pytest.importorskip("tokenizers")
TRAINING = TrainingConfig(steps=4, warmup=1, batch_size=2, checkpoint_every=2, learning_rate=0.003)
TEXT = "the cat sat on the mat, and the dog did not. é 日本\n" * 90


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Published models, one a family."""
    base = tmp_path_factory.mktemp("published")
    return {name: make_published(base / name, values) for name, values in FAMILIES.items()}


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return (str(tmp_path / "text.txt"),)


def settings_of(folder, window=16):
    return replace(PublishedConfig.read(folder, TensorFiles.open(folder)), window=window)


def start(folder, to, text, training=TRAINING):
    """A run and its trainer, before the first step."""
    config = settings_of(folder)
    corpus = load_corpus(text, config.context, PublishedTokenizer.open(folder).encode_plain)
    trainer = Trainer(config, training, corpus, folder)
    return Run.start(to, config, training, text, str(folder)), trainer


def nothing(record):
    pass


@pytest.mark.parametrize("family", FAMILIES)
def test_stopped_and_resumed_without_the_folder_equals_uninterrupted(family, folders, text, tmp_path):
    folder = shutil.copytree(folders[family], tmp_path / "model")
    whole, trainer = start(folder, tmp_path / "whole", text)
    assert trainer.train(nothing, whole)
    halves, trainer = start(folder, tmp_path / "halves", text)
    trainer.config = replace(TRAINING, steps=2)
    assert trainer.train(nothing, halves)
    shutil.rmtree(folder)

    again = Run.open(halves.folder)
    assert (again.source, again.training_config) == (str(folder), TRAINING)
    trainer = Trainer(again.model_config, again.training_config, again.corpus())
    trainer.resume(again)
    assert trainer.train(nothing, again)
    ours, theirs = load_checkpoint(again.folder), load_checkpoint(whole.folder)
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in theirs.arrays.items():
        assert array.dtype == ours.arrays[name].dtype
        np.testing.assert_array_equal(ours.arrays[name], array, err_msg=name)
    losses = [[(r["loss"], r["auxiliary_loss"], r["expert_load"]) for r in run.history()] for run in (again, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_with_the_published_model_and_becomes_one(family, folders, text, tmp_path):
    run, trainer = start(folders[family], tmp_path / "run", text)
    published = Transformer.from_pretrained(folders[family])
    ids = np.random.default_rng(0).integers(0, 300, (2, 16))
    np.testing.assert_array_equal(trainer.model.eval()(ids).logits.data, published(ids).logits.data)
    trainer.model.train()
    trainer.train(nothing, run)
    model, step = run.model()
    assert (step, model.context, trainer.model.context) == (4, 64, 16)
    save_pretrained(model, tmp_path / "out")
    settings = [json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", folders[family])]
    assert settings[0] == settings[1]
    written = Transformer.from_pretrained(tmp_path / "out")
    new = [list(generate(m, ids[0], 8, rng=np.random.default_rng(0))) for m in (model, written)]
    assert new[0] == new[1]
    assert not np.array_equal(written(ids).logits.data, published(ids).logits.data)


@pytest.mark.parametrize("values", [MIXTRAL, MINIMAX], ids=["mixtral", "minimax_m2"])
def test_the_balance_loss_is_that_over_all_layers(values):
    """E Σ f P with f and P over both layers together; P a softmax, f its k largest, whichever experts ran."""
    model = Transformer(PublishedConfig(values), rng=np.random.default_rng(0))
    for _, bias in model.named_buffers():
        bias.data[...] = [9, 9, 0, 0]
    output = model(np.random.default_rng(0).integers(0, 300, (2, 16)))
    logits = np.concatenate([r.trace.logits.data for r in output.routings]).astype(float)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = np.argsort(-logits, axis=1)[:, :2]
    f = np.bincount(chosen.reshape(-1), minlength=4) / len(logits)
    expected = 0.02 * 4 * (f * p.mean(axis=0)).sum()
    assert output.auxiliary_loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_balance_loss_is_trained_on(folders, text, tmp_path):
    _, trainer = start(folders["mixtral"], tmp_path / "run", text)
    assert 0.02 < trainer.step().auxiliary_loss < 0.16  # 0.02 times k = 2 at balance, at most times E too


@pytest.mark.parametrize(
    "values", [LLAMA, DEEPSEEK | {"router_aux_loss_coef": 0.1}, MIXTRAL | {"router_aux_loss_coef": 0}]
)
def test_no_balance_loss_where_the_family_or_the_file_has_none(values):
    config = PublishedConfig(values)
    assert config.transformer.balance_coefficient == 0
    model = Transformer(config, rng=np.random.default_rng(0))
    assert model(np.zeros((1, 4), int)).auxiliary_loss is None


def test_a_negative_balance_coefficient_is_refused():
    with pytest.raises(PretrainedError, match=r"router_aux_loss_coef must be at least 0, got -0.1"):
        _ = PublishedConfig(MIXTRAL | {"router_aux_loss_coef": -0.1}).transformer


def test_loss_free_bias_moves(folders, text, tmp_path):
    _, trainer = start(folders["deepseek_v3"], tmp_path / "run", text)
    bias = dict(trainer.model.named_buffers())["layers.1.feed_forward.router.balancer_state"]
    before = bias.data.copy()
    trainer.step()
    moved = np.abs(bias.data - before)
    assert bias.dtype == np.float32
    assert (np.isclose(moved, 0.001, rtol=1e-2) | (moved == 0)).all()
    assert moved.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_parameters_stay_bit_for_bit(family, folders, text, tmp_path):
    frozen = ("layers.*.attention.*", "layers.1.feed_forward.router.*", "embedding.weight")
    frozen = frozen[::2] if family == "llama" else frozen
    training = replace(TRAINING, steps=100, checkpoint_every=50, freeze=frozen)
    run, trainer = start(folders[family], tmp_path / "run", text, training)
    before = {name: array.copy() for name, array in trainer.model.state_dict().items()}
    assert trainer.train(nothing, run)
    after = trainer.model.state_dict()
    stays = {n for n in before if ".attention." in n or n == "embedding.weight" or "layers.1.feed_forward.router." in n}
    assert {name for name in before if np.array_equal(before[name], after[name])} == stays
    arrays = load_checkpoint(run.folder).arrays
    with_moments = {name.removeprefix("optimizer.first.") for name in arrays if name.startswith("optimizer.first.")}
    parameters = {name for name, _ in trainer.model.named_parameters()}
    assert with_moments == parameters - stays

    again = Run.open(run.folder)
    resumed = Trainer(again.model_config, again.training_config, again.corpus())
    resumed.resume(again, 50)
    assert resumed.train(nothing, again)
    for name, array in resumed.model.state_dict().items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def test_a_pattern_that_matches_nothing_lists_the_names(folders, text, tmp_path):
    with pytest.raises(ValueError, match=r"--freeze 'layers\.\*\.atention\.\*' matches no parameter") as error:
        start(folders["mixtral"], tmp_path / "run", text, replace(TRAINING, freeze=("norm.*", "layers.*.atention.*")))
    assert "embedding.weight, layers.*.attention_norm.weight (2), layers.*.attention.query.weight (2)" in str(
        error.value
    )
    assert "layers.*.feed_forward.experts." in str(error.value)
    with pytest.raises(ValueError, match=r"--freeze 'l\*' '\[!l\]\*' leaves no parameter to train"):
        start(folders["mixtral"], tmp_path / "run", text, replace(TRAINING, freeze=("l*", "[!l]*")))


def test_a_pattern_changed_by_hand_is_refused(folders, text, tmp_path):
    run, trainer = start(folders["mixtral"], tmp_path / "run", text, replace(TRAINING, freeze=("norm.*",)))
    trainer.train(nothing, run)
    configure(run.folder, lambda config: config["training"].update(freeze=["embedding.*"]))
    with pytest.raises(CheckpointError, match=r"freeze \('embedding\.\*',\) \(the checkpoint has \('norm\.\*',\)\)"):
        Run.open(run.folder).model()


def configure(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(context=65), r"context must be between 1 and 64, for which the model was"),
        (lambda c: c["model"].update(context=0), r"context must be between 1 and 64"),
        (lambda c: c["model"].update(context="16"), r"Expected `int`, got `str`"),
        (lambda c: c["model"].pop("context"), "missing required field `context`"),
        (lambda c: c["model"].update(more=1), "unknown field `more`"),
        (lambda c: c["model"].update(published=[]), r"Expected `object`, got `array`"),
        (lambda c: c["model"]["published"].update(hidden_size=-16), "hidden_size must be at least 1, got -16"),
        (lambda c: c["model"]["published"].update(sliding="x"), "sets 'sliding', not understood"),
        (lambda c: c["model"]["published"].update(model_type="unheard"), "model_type 'unheard' is none of"),
        (lambda c: c["model"]["published"].update(num_hidden_layers=10**9), "num_hidden_layers"),
        (lambda c: c.pop("from"), 'a published model comes with "from"'),
        (lambda c: c.update({"from": 3}), r"Expected `str \| null`, got `int`"),
        (lambda c: c["training"].update(freeze="x"), r"Expected `array`, got `str`"),
    ],
)
def test_a_damaged_configuration_is_one_line(folders, text, tmp_path, change, message):
    run, _ = start(folders["mixtral"], tmp_path / "run", text)
    configure(run.folder, change)
    with pytest.raises(RunError, match=message) as error:
        Run.open(run.folder)
    assert str(run.folder / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update(context=8), r"context 8 \(the checkpoint has 16\)"),
        (
            lambda c: c["model"]["published"].update(rope_theta=5.0),
            r"published\.rope_theta 5\.0 \(the .* has 10000\.0\)",
        ),
        (lambda c: c["model"]["published"].update(vocab_size=2**40), r"published\.vocab_size"),
        (lambda c: c["model"]["published"].pop("eos_token_id"), r"published\.eos_token_id None"),
    ],
)
def test_settings_changed_by_hand_are_refused_before_a_model_is_built(
    folders, text, tmp_path, change, message, monkeypatch
):
    run, trainer = start(folders["mixtral"], tmp_path / "run", text)
    trainer.train(nothing, run)
    configure(run.folder, change)
    monkeypatch.setattr("moe_numpy.training.run_model.Transformer", None)
    with pytest.raises(CheckpointError, match=message):
        Run.open(run.folder).model()


def test_the_tokenizer_comes_along_and_is_missed_by_name(folders, text, tmp_path):
    run, trainer = start(folders["mixtral"], tmp_path / "run", text)
    names = sorted(path.name for path in run.tokenizer_folder.iterdir())
    assert names == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert run.tokenizer().end_ids == {1}  # of the published config.json
    trainer.train(nothing, run)
    corpus = Run.open(run.folder).corpus()
    assert corpus.fingerprint == trainer.corpus.fingerprint
    (run.tokenizer_folder / "tokenizer.json").write_text('{"version": 1')
    with pytest.raises(PretrainedError, match=r"tokenizer\.json is damaged"):
        run.corpus()
    (run.tokenizer_folder / "tokenizer.json").unlink()
    with pytest.raises(PretrainedError, match=r"run/tokenizer has no tokenizer\.json"):
        run.tokenizer()


def test_another_tokenizer_is_another_text(folders, text, tmp_path):
    run, trainer = start(folders["mixtral"], tmp_path / "run", text)
    trainer.train(nothing, run)
    path = run.tokenizer_folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = content["model"]["merges"][:-3]
    path.write_text(json.dumps(content))
    again = Trainer(run.model_config, TRAINING, run.corpus())
    with pytest.raises(ValueError, match="the text has changed since"):
        again.resume(run)


def test_nothing_of_a_run_without_a_step_stays(folders, text, tmp_path):
    run, _ = start(folders["mixtral"], tmp_path / "run", text)
    (run.folder / "mine.txt").write_text("mine")
    run.discard_if_untrained()
    assert [path.name for path in run.folder.iterdir()] == ["mine.txt"]
    (run.folder / "tokenizer").mkdir()
    with pytest.raises(FileExistsError, match=r"run/tokenizer is in the way"):
        start(folders["mixtral"], run.folder, text)


def test_a_full_disk_at_the_start_leaves_nothing(folders, text, tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moe_numpy.training.runs.write_json_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        start(folders["mixtral"], tmp_path / "run", text)
    assert list((tmp_path / "run").iterdir()) == []


def test_weights_that_changed_their_settings_are_refused(folders, text, tmp_path):
    folder = shutil.copytree(folders["mixtral"], tmp_path / "model")
    run, _ = start(folder, tmp_path / "run", text)
    configure(folder, lambda config: config.update(rope_theta=500.0))
    with pytest.raises(PretrainedError, match=r"model/config\.json has other settings than the run began with"):
        Trainer(run.model_config, TRAINING, run.corpus(), folder)


def test_memory_is_asked_for_before_any_weight_is_read(folders, text, tmp_path, monkeypatch):
    monkeypatch.setattr(run_model, "from_pretrained", None)
    sizes = Transformer.from_pretrained(folders["mixtral"], dtype=np.float32).num_parameters()
    monkeypatch.setattr(memory, "_memory", lambda: 28 * sizes - 1)
    with pytest.raises(ValueError, match=rf"training needs at least 0\.0 GiB of memory.*{sizes:,} parameters or more"):
        start(folders["mixtral"], tmp_path / "run", text)
    monkeypatch.setattr(memory, "_memory", lambda: 28 * sizes)
    with pytest.raises(TypeError):  # from_pretrained is called
        start(folders["mixtral"], tmp_path / "run", text)
    monkeypatch.setattr(memory, "_memory", lambda: 16 * sizes)
    with pytest.raises(TypeError):  # frozen weights have neither gradients nor moments
        start(folders["mixtral"], tmp_path / "run", text, replace(TRAINING, freeze=("layers.*", "embedding.*")))


@pytest.mark.parametrize("values", FAMILIES.values(), ids=FAMILIES)
def test_no_published_model_has_fewer_parameters_than_the_least(values):
    config = PublishedConfig(values)
    sizes = Transformer(config, rng=np.random.default_rng(0)).num_parameters()
    assert 0.4 * sizes < memory.least_parameters(config) <= sizes


@pytest.mark.parametrize("values", FAMILIES.values(), ids=FAMILIES)
def test_what_a_run_asks_of_settings_is_what_the_model_has(values):
    config = PublishedConfig(values)
    model = Transformer(config, rng=np.random.default_rng(0))
    for name in ("vocab_size", "context", "routed_layers", "num_routes"):
        assert getattr(config, name) == getattr(model, name)
    assert config.num_experts == {"mixtral": 4, "llama": 0, "deepseek_v3": 8}[config.model_type]


def test_a_window_changes_no_number():
    yarn = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}  # whose original length is the published context
    whole = PublishedConfig(MIXTRAL | yarn)
    short = PublishedConfig.from_json(json.loads(json.dumps(replace(whole, window=8).to_json())), whole.file)
    ids = np.random.default_rng(0).integers(0, 300, (1, 8))
    logits = [Transformer(c, rng=np.random.default_rng(0))(ids).logits.data for c in (whole, short)]
    np.testing.assert_array_equal(*logits)
    assert (short.context, replace(short, window=None).context) == (8, 64)


def test_large_vocabularies_are_not_tabled(folders, text, tmp_path, monkeypatch):
    _, trainer = start(folders["mixtral"], tmp_path / "run", text)
    windows = trainer.corpus.validation_windows(16)
    tabled = evaluate(trainer.model, windows, 1)
    monkeypatch.setattr("moe_numpy.training.evaluation._LARGEST_TABLE", 2 * 1 * 320 * 4 - 1)
    monkeypatch.setattr("moe_numpy.training.evaluation._LOGITS", 2 * 16 * 320)
    plain = evaluate(trainer.model, windows, 1)
    assert plain.assignments is None
    np.testing.assert_array_equal(tabled.assignments.sum(axis=2), tabled.by_domain)
    for name in ("by_domain", "expert_load", "domain_expert", "dropped_by_layer"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(tabled, name))
    assert plain.loss == pytest.approx(tabled.loss, rel=1e-6)
    assert plain.bits_per_byte == pytest.approx(plain.loss / np.log(2) / trainer.corpus.bytes_per_token)
    assert trainer.corpus.bytes_per_token > 1.5
