from dataclasses import replace

import numpy as np
import pytest
from unchecked_shapes import unchecked_shapes

from moe_numpy.autodiff import no_grad
from moe_numpy.gradcheck import gradcheck
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.ops import CrossEntropy

TINY = ModelConfig(
    vocab_size=11,
    d_model=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    context=6,
    d_ff=6,
    num_experts=3,
)


def make(config=TINY, dtype=np.float64):
    return Transformer(config, rng=np.random.default_rng(0), dtype=dtype)


def text(batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, TINY.vocab_size, (batch, length))


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, moe_every=2, recipe="expert_choice"),
        replace(TINY, moe_every=2, dense_d_ff=5, recipe_settings={"capacity_factor": 0.8}),
        TINY.dense_twin(),
    ],
    ids=["sparse", "alternating", "alternating_dropping", "dense"],
)
def test_every_parameter_has_the_right_gradient(config):
    model = make(config)
    tokens, targets = text(2, 4), text(2, 4, seed=1)
    owners = {}
    for name, _ in model.named_parameters():
        *path, last = name.split(".")
        owner = model
        for part in path:
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        owners[name] = (owner, last)

    def loss(*weights):
        for place, weight in zip(owners.values(), weights, strict=True):
            setattr(*place, weight)
        output = model(tokens)
        total = CrossEntropy.apply(output.logits, targets)
        return total if output.auxiliary_loss is None else total + output.auxiliary_loss

    loss(*model.parameters()).backward()
    with unchecked_shapes():
        report = gradcheck(loss, [p.data for p in model.parameters()], samples=1, names=list(owners))
    report.raise_if_failed()
    assert report.skipped == 0


def test_no_position_sees_the_future():
    model = make()
    tokens = text(1, 6)
    changed = tokens.copy()
    changed[0, 4] = (changed[0, 4] + 1) % TINY.vocab_size
    before, after = model(tokens).logits.data, model(changed).logits.data
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-3


@pytest.mark.parametrize("chunks", [[6], [1] * 6, [3, 1, 2]])
def test_the_cache_gives_the_same_logits(chunks):
    model = make().eval()
    tokens = text(2, 6)
    with no_grad():
        whole = model(tokens).logits.data
        caches = model.new_caches(2)
        parts, start = [], 0
        for n in chunks:
            parts.append(model(tokens[:, start : start + n], caches=caches).logits.data)
            start += n
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-12, atol=1e-13)


def test_a_sequence_longer_than_the_context_is_refused_with_and_without_cache():
    model = make()
    with pytest.raises(ValueError, match="a sequence of 7 tokens does not fit context=6"):
        model(text(1, 7))
    with no_grad():
        caches = model.new_caches(1)
        model(text(1, 4), caches=caches)
        with pytest.raises(ValueError, match="a sequence of 7 tokens does not fit context=6"):
            model(text(1, 3), caches=caches)


def test_the_first_loss_is_near_ln_v():
    model = make(ModelConfig(num_layers=1), np.float32)
    tokens = np.random.default_rng(0).integers(0, 256, (4, 64))
    assert CrossEntropy.apply(model(tokens).logits, tokens).item() == pytest.approx(np.log(256), abs=0.1)


def test_parameters_total_and_active():
    model = make()
    d, f, v = 8, 6, 11
    attention = d * d + 2 * (d * d // 2) + d * d
    shared = 2 * v * d + d + 2 * (attention + 2 * d + 3 * d)
    assert model.num_parameters() == shared + 2 * 3 * (3 * d * f)
    assert model.active_parameters() == shared + 2 * 2 * (3 * d * f)
    dense = make(TINY.dense_twin())
    assert dense.num_parameters() == dense.active_parameters() == model.active_parameters() - 2 * 3 * d


def test_a_dense_model_has_no_routing_and_no_auxiliary_loss():
    output = make(TINY.dense_twin())(text(1, 3))
    assert output.routings == (None, None)
    assert output.auxiliary_loss is None
