from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.ops import CrossEntropy
from moe_numpy.training.corpus import Windows
from moe_numpy.training.evaluation import evaluate

TINY = ModelConfig(
    d_model=8, num_layers=2, num_heads=2, num_kv_heads=1, context=5, d_ff=4, num_experts=3, recipe="switch"
)


def windows(n, seed=0):
    text = np.random.default_rng(seed).integers(0, 256, (n, 6))
    return Windows(text[:, :-1], text[:, 1:], np.arange(n) % 2)


def test_losses_are_means_over_windows_whatever_the_batch_size():
    model, w = (
        Transformer(replace(TINY, recipe_settings={"capacity_factor": None}), rng=np.random.default_rng(0)),
        windows(7),
    )
    whole, parts = evaluate(model, w, 2, batch_size=7), evaluate(model, w, 2, batch_size=2)
    model.eval()
    assert whole.loss == pytest.approx(CrossEntropy.apply(model(w.tokens).logits, w.targets).item(), rel=1e-6)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert whole.bits_per_byte == pytest.approx(whole.loss / np.log(2))
    assert (4 * whole.domain_loss[0] + 3 * whole.domain_loss[1]) / 7 == pytest.approx(whole.loss)
    np.testing.assert_array_equal(parts.assignments, whole.assignments)


def test_every_assignment_is_counted_for_its_domain_dropped_or_not():
    model = Transformer(replace(TINY, recipe_settings={"eval_capacity_factor": 0.5}), rng=np.random.default_rng(0))
    result = evaluate(model, windows(7), 2)
    assert result.assignments.shape == (2, 2, 256, 3)
    np.testing.assert_array_equal(result.assignments.sum(axis=(2, 3)), [[4 * 5, 3 * 5]] * 2)
    bytes_seen = np.bincount(windows(7).tokens.reshape(-1), minlength=256)
    np.testing.assert_array_equal(result.assignments[0].sum(axis=(0, 2)), bytes_seen)
    assert 0.4 < result.dropped_fraction < 0.9
    assert result.dropped_by_layer.mean() == pytest.approx(result.dropped_fraction)
    assert (result.dropped <= result.assignments.sum(axis=(1, 2))).all()
    np.testing.assert_allclose(result.expert_load.sum(axis=1), 1)
    np.testing.assert_allclose(result.domain_expert.sum(axis=2), 1)


def test_a_dense_model_has_nothing_to_count():
    result = evaluate(Transformer(TINY.dense_twin(), rng=np.random.default_rng(0)), windows(4), 2)
    assert result.assignments.shape == (0, 2, 256, 0)
    assert result.dropped_fraction == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_as_it_was(training):
    model = Transformer(TINY, rng=np.random.default_rng(0)).train(training)
    evaluate(model, windows(2), 2)
    assert model.training is training
