"""Training on pictures beside text: windows, losses by modality, evaluation, and what is refused."""

import sys
from dataclasses import asdict, replace

import numpy as np
import pytest

from moe_numpy.models import ModelConfig
from moe_numpy.nn.patch_embedding import PATCH
from moe_numpy.parallel import Alone
from moe_numpy.parallel.parts import run_parts
from moe_numpy.training import Corpus, Domain, Run, Trainer, TrainingConfig
from moe_numpy.training.picture_evaluation import evaluate_pictures
from moe_numpy.training.pictures import CAPTION_LENGTH, IGNORED, NAMES, Pictures, PicturesError, captioned, digits
from moe_numpy.training.ranks import Ranks

pytestmark = pytest.mark.no_cover

TINY = ModelConfig(
    d_model=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    context=28,
    d_ff=4,
    num_experts=8,
    recipe="multimodal",
    image_size=4,
)


def bars():
    """A picture of one row or column that is bright, with the label 0 to 7; few labels are enough."""
    images = np.zeros((8, 4, 4), np.float32)
    for i in range(4):
        images[i, i] = images[4 + i, :, i] = 1
    labels = np.arange(8)
    return Pictures(np.tile(images, (4, 1, 1)), np.tile(labels, 4), images, labels)


def corpus(pictures=None):
    rng = np.random.default_rng(0)
    letters = [np.frombuffer(b"abcd" * 50, np.uint8), rng.integers(48, 58, 200).astype(np.uint8)]
    domains = [Domain(name, text, text[:60]) for name, text in zip(("letters", "sums"), letters, strict=True)]
    return Corpus(domains, pictures)


TEXT_ONLY = replace(TINY, num_experts=4, recipe_settings={"image_experts": 0}, image_size=0)


def trainer(model=TINY, pictures=True, **settings):
    config = {"steps": 6, "batch_size": 2, "warmup": 2, "checkpoint_every": 2, "image_batch_size": 3} | settings
    return Trainer(model, TrainingConfig(**config), corpus(bars() if pictures else None))


def test_a_caption_follows_its_picture_and_only_the_caption_is_predicted():
    tokens, targets = captioned(np.array([1, 7]), 4)
    assert tokens.shape == (2, 4 + CAPTION_LENGTH)
    assert (tokens[:, :4] == PATCH).all()
    assert bytes(tokens[0, 4:].tolist()) == b"a one\n\n\n"
    assert bytes(tokens[1, 4:].tolist()) == b"a seven\n"
    for row, caption in ((0, b"a one\n"), (1, b"a seven\n")):
        assert (targets[row, :3] == IGNORED).all()
        predicted = targets[row][targets[row] != IGNORED]
        assert bytes(predicted.tolist()) == caption
        assert targets[row, 3] == ord("a")  # the last patch predicts the first byte


def test_a_model_with_pictures_is_not_trained_on_text_alone_unless_the_rest_is_frozen():
    with pytest.raises(ValueError, match=r"only pictures train .*patch_embedding.*other_routers"):
        trainer(image_batch_size=0)
    frozen = ("patch_embedding.*", "layers.*.feed_forward.other_routers.*")
    assert trainer(image_batch_size=0, freeze=frozen).step().loss > 0


def test_windows_depend_on_seed_and_step_alone_and_hold_the_pictures_in_order():
    pictures, settings = bars(), {"num_windows": 3, "context": 28, "num_patches": 4, "seed": 5}
    one, same, other = (pictures.batch(step, **settings) for step in (7, 7, 8))
    for a, b in zip((one.tokens, one.targets, one.images), (same.tokens, same.targets, same.images), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.images != other.images).any()
    assert one.images.shape == (3, 2, 4, 4)
    assert one.tokens.shape == one.targets.shape == (3, 28)
    for row in range(3):
        for n in range(2):
            (label,) = np.flatnonzero((pictures.held_out_images == one.images[row, n]).all(axis=(1, 2)))
            expected, _ = captioned(np.array([label]), 4)
            np.testing.assert_array_equal(one.tokens[row, 12 * n : 12 * n + 12], expected[0])
    assert (one.targets[:, 24:] == IGNORED).all()
    with pytest.raises(ValueError, match="context must be at least 12, a picture and its caption, got 11"):
        pictures.batch(0, **settings | {"context": 11})


def test_a_record_says_what_each_modality_did():
    record = trainer().step()
    predicted = [2 * 28, int((trainer()._inputs()[4] != IGNORED).sum())]
    assert record.loss == pytest.approx(np.average([record.text_loss, record.caption_loss], weights=predicted))
    assert set(record.auxiliary_losses) == {"text balance", "image balance"}
    load = np.array(record.load_by_modality)
    assert load.shape == (2, 2, 8)
    np.testing.assert_allclose(load.sum(axis=2), 1, atol=1e-4)
    assert not load[:, 0, 4:].any()
    assert not load[:, 1, :4].any()


def test_windows_of_text_are_those_of_training_without_pictures():
    plain = trainer(TEXT_ONLY, pictures=False, image_batch_size=0)
    for with_pictures, without in zip(trainer()._inputs()[1:3], plain._inputs()[1:3], strict=True):
        np.testing.assert_array_equal(with_pictures, without)
    record = plain.step()
    assert (record.text_loss, record.load_by_modality) == (None, None)


def test_two_passes_and_shared_pools():
    model = replace(TINY, recipe_settings={"pools": "shared"})
    record = trainer(model, accumulate=2).step()
    assert {"text local_entropy", "image global_entropy", "balance"} <= set(record.auxiliary_losses)


def test_a_run_resumes_bit_for_bit_and_its_history_has_modalities(tmp_path):
    whole = trainer()
    run = Run.start(tmp_path / "run", TINY, whole.config)
    whole.train(lambda record: None, run)
    history = run.history()
    assert all(row["caption_loss"] > 0 and len(row["load_by_modality"]) == 2 for row in history)
    again = trainer()
    again.resume(run, 4)
    again.train(lambda record: None, run)
    assert [row["loss"] for row in run.history()] == [row["loss"] for row in history]
    for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_a_run_on_text_writes_nothing_about_modalities(tmp_path):
    plain = trainer(TEXT_ONLY, pictures=False, image_batch_size=0)
    run = Run.start(tmp_path / "run", TEXT_ONLY, plain.config)
    plain.train(lambda record: None, run)
    assert "caption" not in (run.folder / "history.jsonl").read_text()
    assert "image_batch" not in (run.folder / "config.json").read_text()


def test_captions_are_learned_and_scored():
    t = trainer(steps=100, learning_rate=0.03, batch_size=1, image_batch_size=4)
    before = evaluate_pictures(t.model, bars(), corpus().validation_windows(28).tokens)
    t.train(lambda record: None)
    counted = []
    after = evaluate_pictures(t.model, bars(), corpus().validation_windows(28).tokens, counted.append)
    assert counted == [8]
    assert after.accuracy > 0.5 > before.accuracy
    assert after.loss < before.loss
    np.testing.assert_array_equal(after.confusion.sum(axis=1), [1] * 8 + [0] * 2)
    np.testing.assert_allclose(after.shares.sum(axis=2), 1)
    document = after.to_json()
    assert list(document["accuracy_by_class"]) == list(NAMES)
    assert document["pictures"] == 8


def test_the_likeliest_caption_is_found_by_hand(monkeypatch):
    t = trainer()
    found = evaluate_pictures(t.model, bars(), corpus().validation_windows(28).tokens)
    t.model.eval()
    nats = []
    for label in range(10):
        tokens, targets = captioned(np.array([label]), 4)
        logits = t.model(tokens, images=bars().held_out_images[:1]).logits.data[0].astype(float)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        at = np.flatnonzero(targets[0] != IGNORED)
        nats.append(log_p[at, targets[0, at]].sum())
    assert found.confusion[0, int(np.argmax(nats))] == 1


def test_what_does_not_go_with_pictures_is_refused():
    with pytest.raises(ValueError, match="image_batch_size needs a corpus with pictures"):
        trainer(pictures=False)
    with pytest.raises(ValueError, match="image_batch_size needs a model with images"):
        trainer(replace(TINY, image_size=0))
    with pytest.raises(ValueError, match="image_batch_size must not be negative, got -1"):
        TrainingConfig(image_batch_size=-1)
    for settings in ({"device": "cuda"}, {"parts": 2}):
        with pytest.raises(ValueError, match="pictures are trained on with device cpu and on one rank"):
            TrainingConfig(image_batch_size=1, **settings)
    with pytest.raises(ValueError, match="split_every=2 needs layers in which one router chooses among all experts"):
        trainer(split_every=2)
    with pytest.raises(ValueError, match="this model was made without images"):
        evaluate_pictures(trainer(TEXT_ONLY, image_batch_size=0).model, bars(), np.zeros((1, 4), int))

    def on_rank(communicator):
        config = trainer().config
        with pytest.raises(ValueError, match="pictures are trained on by one rank, and there are 2"):
            Trainer(TINY, config, corpus(bars()), ranks=Ranks(communicator))

    run_parts(Alone(), 2, on_rank)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits.cache_clear()
    with pytest.raises(PicturesError, match=r"sklearn\.datasets is missing: python -m pip install scikit-learn"):
        digits()


def test_the_digits_are_those_of_scikit_learn_and_a_fifth_is_held_out():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    found, theirs = digits(), load_digits()
    assert (len(found.labels), len(found.held_out_labels)) == (1437, 360)
    images = np.concatenate([found.held_out_images, found.images])
    assert images.max() == 1
    assert len({image.tobytes() for image in images}) == len({image.tobytes() for image in theirs.images})
    np.testing.assert_array_equal(
        np.bincount(np.concatenate([found.labels, found.held_out_labels])), np.bincount(theirs.target)
    )
    assert corpus(found).fingerprint != corpus().fingerprint == Corpus(corpus().domains).fingerprint
    assert asdict(TrainingConfig())["image_batch_size"] == 0
