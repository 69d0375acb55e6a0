"""A model with other experts: what it computes, and what becomes of names."""

from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.autodiff import Tensor
from moe_numpy.instruments.layer_inputs import layer_inputs
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.training import Corpus, Domain, load_corpus
from moe_numpy.training.changing_experts import (
    least_into_nearest,
    least_used,
    require_changeable,
    with_experts,
    with_merged,
    with_new_experts,
    without_experts,
)
from moe_numpy.training.evaluation import evaluate
from moe_numpy.training.expert_patterns import chosen_experts
from moe_numpy.training.expert_use import expert_use
from moe_numpy.training.user_text import BUILT_IN

CONFIG = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, context=16, d_ff=8, num_experts=4, recipe="mixtral"
)
RNG = np.random.default_rng(3)
LOWER, UPPER = (RNG.integers(first, first + 26, 2000).astype(np.uint8) for first in (97, 65))
CORPUS = Corpus([Domain("lower", LOWER[:1000], LOWER[1000:]), Domain("digits", LOWER[:900] - 50, LOWER[1000:] - 50)])


def model_of(config=CONFIG):
    return Transformer(config, rng=np.random.default_rng(0)).eval()


def tokens(text, seed, count=8):
    starts = np.random.default_rng(seed).integers(len(text) - 16, size=count)
    return text[starts[:, None] + np.arange(16)].astype(np.int64)


def logits(model, text=LOWER):
    return model.eval()(tokens(text, 1)).logits.data


def test_the_same_experts_in_another_order_compute_the_same():
    model = model_of()
    changed = with_experts(CONFIG, model, {0: [2, 0, 3, 1], 1: [1, 0, 3, 2]}, 4)
    np.testing.assert_allclose(logits(changed.model), logits(model), rtol=1e-4, atol=1e-6)
    changed.model.layers[0].feed_forward.experts.down.data[...] = 0
    assert model.layers[0].feed_forward.experts.down.data.any()  # copies


@pytest.mark.parametrize("recipe", ["mixtral", "olmoe", "switch", "remoe", "shazeer_2017", "longcat"])
def test_without_some_experts(recipe):
    config = replace(CONFIG, recipe=recipe)
    changed = without_experts(config, model_of(config), {0: frozenset({1}), 1: frozenset({3})})
    assert changed.config.num_experts == 3
    assert np.isfinite(logits(changed.model)).all()
    assert dict(changed.entries) == {0: [0, 2, 3], 1: [0, 1, 2]}


@pytest.mark.parametrize("top_k", [1, 2])
def test_twins_with_equal_rows_take_both_places(top_k):
    config = replace(CONFIG, recipe_settings={"top_k": top_k})
    model = model_of(config)
    twins = with_experts(config, model, {0: [0, 1, 2, 3, 1], 1: [0, 1, 2, 3, 2]}, 4)
    same = np.allclose(logits(twins.model), logits(model), rtol=1e-4, atol=1e-6)
    assert same == (top_k == 1)


def test_names_follow_the_experts():
    model = model_of()
    changed = without_experts(CONFIG, model, {0: frozenset({1}), 1: frozenset({0})})
    assert changed.renamed(model, ["*:0-1", "embedding.*", "0:1", "1:3"]) == ["*:0", "embedding.*", "1:2"]
    alike = without_experts(CONFIG, model, {0: frozenset({1}), 1: frozenset({1})})
    assert alike.renamed(model, ["*:2-3"]) == ["*:1-2"]


def test_groups_and_layers_name_experts():
    model, groups = model_of(), {"law": ("*:3", "0:2")}
    assert chosen_experts(model, groups, ["law", "1:0"]) == {0: {2, 3}, 1: {0, 3}}
    with pytest.raises(
        ValueError, match="'tax' is neither LAYER:EXPERTS, such as 0:3, nor a group of experts; groups: law"
    ):
        chosen_experts(model, groups, ["tax"])


def test_layers_keep_the_same_number():
    with pytest.raises(ValueError, match="layer 0 would have 3, layer 1 would have 4; name as many in each layer"):
        without_experts(CONFIG, model_of(), {0: frozenset({1})})


def test_fewer_experts_than_a_token_chooses_are_refused():
    with pytest.raises(ValueError, match="top_k must be between 1 and num_experts=1, got 2"):
        without_experts(CONFIG, model_of(), dict.fromkeys((0, 1), frozenset({0, 1, 2})))


def test_dense_models_have_no_experts():
    config = replace(CONFIG, num_experts=0)
    with pytest.raises(ValueError, match="the model is dense"):
        require_changeable(config, model_of(config))


@pytest.mark.parametrize("moe_every", [1, 2])
def test_new_experts_leave_old_text_alone_and_are_chosen_by_the_new(moe_every):
    config = replace(CONFIG, moe_every=moe_every)
    model = model_of(config)
    for case in (slice(97, 123), slice(65, 91)):  # around two means, as vectors after a norm do
        model.embedding.weight.data[case] += 2 * np.sign(np.random.default_rng(case.start).standard_normal(16))
    changed = with_new_experts(
        config, model, 2, tokens(LOWER, 2, 60), tokens(UPPER, 3, 60), unused=0.0, rng=np.random.default_rng(0)
    )
    assert changed.config.num_experts == 6
    assert changed.config.recipe_settings == {"balance": 0.0}
    windows = Corpus([*CORPUS.domains[:1], Domain("upper", UPPER[:1000], UPPER[1000:])]).validation_windows(16)
    share = evaluate(changed.model, windows, 2).domain_expert[:, :, 4:].sum(axis=2)
    assert (share[:, 0] < 0.1).all()
    assert (share[:, 1] > 0.2).all()
    for i, layer in enumerate(model.layers):
        if not hasattr(layer.feed_forward, "router"):
            continue
        now, originals = changed.model.layers[i].feed_forward, changed.entries[i][4:]
        assert len(set(originals)) == 2
        assert np.array_equal(now.experts.down.data[4:], layer.feed_forward.experts.down.data[originals])
        assert np.array_equal(now.router.weight.data[:4], layer.feed_forward.router.weight.data)
    back = without_experts(changed.config, changed.model, dict.fromkeys(changed.entries, frozenset({4, 5})))
    np.testing.assert_array_equal(logits(back.model, UPPER), logits(model, UPPER))


def test_new_experts_need_a_choice_of_k_by_logits():
    for recipe, words in (("remoe", "adaptive L1"), ("jacobs_1991", "chooses all")):
        config = replace(CONFIG, recipe=recipe)
        with pytest.raises(ValueError, match=words):
            with_new_experts(config, model_of(config), 1, tokens(LOWER, 2), tokens(UPPER, 3), rng=RNG)
    with pytest.raises(ValueError, match="count must be between 1 and the 4 experts there are, got 5"):
        with_new_experts(CONFIG, model_of(), 5, tokens(LOWER, 2), tokens(UPPER, 3), rng=RNG)


def test_merging_equal_experts_only_doubles_their_gate():
    model = model_of()
    for layer in model.layers:
        moe = layer.feed_forward
        moe.router.weight.data[3] = -50 * np.sign(moe.router.weight.data[3])  # hardly chosen
        for p in moe.experts.parameters():
            p.data[3] = p.data[2]
    merged = with_merged(CONFIG, model, {0: [(2, 3)], 1: [(2, 3)]}, dict.fromkeys((0, 1), np.ones(4)))
    down = [m.layers[0].feed_forward.experts.down.data for m in (merged.model, model)]
    np.testing.assert_allclose(down[0], down[1][:3], rtol=1e-6)
    assert merged.config.num_experts == 3


def test_the_least_used_go_into_the_most_similar_that_is_left():
    mass = {0: np.array([0.4, 0.1, 0.3, 0.2])}
    alike = {0: np.array([[1, 0.2, 0.1, 0.9], [0.2, 1, 0.8, 0.9], [0.1, 0.8, 1, 0.7], [0.9, 0.9, 0.7, 1]])}
    assert least_used(mass, 2) == {0: {1, 3}}
    assert least_into_nearest(mass, alike, 1) == {0: [(3, 1)]}
    assert least_into_nearest(mass, alike, 2) == {0: [(2, 1), (0, 3)]}
    with pytest.raises(ValueError, match="3 pairs need 6 experts, layer 0 has 4"):
        least_into_nearest(mass, alike, 3)


def test_use_of_experts_by_hand():
    model = model_of()
    used = expert_use(model, CORPUS)
    evaluation = evaluate(model, CORPUS.validation_windows(16, limit=8), 2)
    for i, use in used.items():
        np.testing.assert_allclose(use.load, evaluation.expert_load[i])
        assert use.gate_mass.sum() == pytest.approx(1)
        nearest, cosine = use.nearest(0)
        assert cosine == max(use.similarity[0, 1:])
        assert use.similarity[0, nearest] == cosine
        x, routing = layer_inputs(model, CORPUS.validation_windows(16, limit=8).tokens)[i]
        chosen = routing.only_kept()
        mine = chosen.expert == 2
        answers = model.layers[i].feed_forward.experts.one(2, Tensor(x[chosen.token[mine]])).data
        sizes = chosen.gate.data[mine] * np.linalg.norm(answers, axis=1)
        assert use.contribution[2] == pytest.approx(sizes.mean(), rel=1e-4)


def test_the_built_in_text_can_stand_beside_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("moe_numpy.training.user_text.default_corpus", lambda encode: CORPUS)
    (tmp_path / "law.txt").write_text("whereas " * 100)
    names = [domain.name for domain in load_corpus([BUILT_IN, tmp_path / "law.txt"], 16).domains]
    assert names == ["lower", "digits", "law"]
    assert [domain.name for domain in load_corpus([BUILT_IN], 16).domains] == ["lower", "digits"]
