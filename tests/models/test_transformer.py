from dataclasses import replace

import numpy as np
import pytest
from unchecked_shapes import unchecked_shapes

from moe_numpy.autodiff import Tensor, no_grad
from moe_numpy.gradcheck import gradcheck
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.ops import CrossEntropy

pytestmark = pytest.mark.no_cover

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


@pytest.mark.parametrize("recipe", ["mixtral", "deepseek_v3", "expert_choice", "soft_moe", "hierarchical", "hash"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(recipe, side):
    """Logits, losses and every gradient are those of each sequence by itself."""
    config = replace(TINY, recipe=recipe, num_experts=8, moe_every=2, recipe_settings={})
    lengths = [5, 0, 3, 6]
    tokens, targets = text(4, 6), text(4, 6, seed=1)
    front = np.arange(6) < np.array(lengths)[:, None]
    mask = front if side == "right" else front[:, ::-1]
    padded, alone = make(config), make(config)
    output = padded(np.where(mask, tokens, -100), mask=mask)
    loss = CrossEntropy.apply(output.logits, np.where(mask, targets, -1), ignore_index=-1)
    shares = []
    for b, own in enumerate(mask):
        if own.any():
            one = alone(tokens[b : b + 1, own])
            np.testing.assert_allclose(output.logits.data[b, own], one.logits.data[0], rtol=1e-9, atol=1e-12)
            share = CrossEntropy.apply(one.logits, targets[b : b + 1, own]) * (own.sum() / mask.sum())
            shares.append(share if recipe != "deepseek_v3" else share + one.auxiliary_loss * (1 / 3))
    expected = shares[0] + shares[1] + shares[2]
    if recipe == "deepseek_v3":  # its balance loss is that of each sequence
        loss = loss + output.auxiliary_loss
    assert loss.data == pytest.approx(float(expected.data), rel=1e-12)
    loss.backward()
    expected.backward()
    for (name, p), q in zip(padded.named_parameters(), alone.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-8, atol=1e-12, err_msg=name)


def test_a_mask_of_true_is_no_mask_and_one_of_false_is_finite():
    model, tokens = make(dtype=np.float32), text(2, 4)
    plain = model(tokens)
    masked = model(tokens, mask=np.ones((2, 4), bool))
    np.testing.assert_array_equal(plain.logits.data, masked.logits.data)
    np.testing.assert_array_equal(plain.auxiliary_loss.data, masked.auxiliary_loss.data)
    nothing = model(tokens, mask=np.zeros((2, 4), bool))
    assert np.isfinite(nothing.logits.data).all()
    assert nothing.auxiliary_loss.data == 0


def test_masks_that_do_not_fit():
    model, tokens = make(), text(2, 4)
    with unchecked_shapes():
        with pytest.raises(ValueError, match=r"mask must be .* shape \(2, 4\).* got bool of shape \(4, 2\)"):
            model(tokens, mask=np.ones((4, 2), bool))
        with pytest.raises(TypeError, match=r"mask must be .* shape \(2, 4\).* got int64 of shape \(2, 4\)"):
            model(tokens, mask=np.ones((2, 4), np.int64))
    with no_grad(), pytest.raises(ValueError, match="attention with a cache takes no mask"):
        model(tokens, caches=model.new_caches(2), mask=np.array([[True, False, True, True], [True] * 4]))


def test_ids_as_lists_and_tensors():
    model = make()
    expected = model(text(2, 4)).logits.data
    with unchecked_shapes():
        for ids in (text(2, 4).tolist(), tuple(map(tuple, text(2, 4).tolist())), Tensor(text(2, 4))):
            np.testing.assert_array_equal(model(ids).logits.data, expected)
        assert model([[], []]).logits.shape == (2, 0, 11)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3], r"tokens must be a batch of sequences, of shape \[B, S\], got shape \(3,\); one sequence is"),
        (np.zeros((1, 2, 3), int), r"tokens must be a batch of sequences, of shape \[B, S\], got shape \(1, 2, 3\)$"),
        ([[1, 2], [3]], "rows of one length"),
        ([[0.5]], "ids must be integers, got dtype float32"),
        ([["a"]], "Tensor needs numbers, got list of dtype <U1"),
    ],
)
def test_ids_of_another_kind_are_refused_in_one_line(ids, message):
    with unchecked_shapes(), pytest.raises((TypeError, ValueError), match=message):
        make()(ids)
