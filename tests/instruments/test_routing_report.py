from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.instruments.routing_report import (
    by_byte_class,
    most_separating,
    route_sentence,
    separation,
)
from moe_numpy.models import ModelConfig, Transformer

SPARSE = ModelConfig(
    d_model=8, num_layers=3, num_heads=2, num_kv_heads=1, context=12, d_ff=4, num_experts=4, moe_every=2
)


def counts(**of_byte):
    """V × 2 counts; the keys are characters."""
    table = np.zeros((256, 2), np.int64)
    for character, row in of_byte.items():
        table[ord(character)] = row
    return table


def test_separation_is_0_for_equal_and_1_for_disjoint_domains():
    shares = np.array([[[0.5, 0.5], [0.5, 0.5]], [[1, 0], [0, 1]], [[0.75, 0.25], [0.25, 0.75]]])
    np.testing.assert_allclose(separation(shares), [0, 1, 0.5])
    assert most_separating(shares) == 1


def test_separation_is_that_of_the_two_most_similar_domains():
    assert separation(np.array([[[1.0, 0], [0.75, 0.25], [0, 1]]]))[0] == pytest.approx(0.25)


def test_one_domain_is_not_apart_and_a_tie_goes_to_the_first_layer():
    shares = np.array([[[0.1, 0.9]], [[0.5, 0.5]]])
    np.testing.assert_array_equal(separation(shares), [0, 0])
    assert most_separating(shares) == 0


def test_byte_classes_that_occur_each_with_rows_of_1():
    names, shares = by_byte_class(np.stack([counts(a=[3, 0], b=[0, 1], é=[1, 1]), counts(a=[1, 1], é=[0, 2])]))
    assert names == ["lower case", "other"]
    np.testing.assert_allclose(shares[0], [[0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(shares[1], [[0.5, 0.5], [0, 1]])


def test_every_byte_is_in_exactly_one_class():
    _, shares = by_byte_class(np.ones((1, 256, 2), np.int64))
    assert shares.shape == (1, 10, 2)
    for byte in range(256):
        one = np.zeros((1, 256, 2), np.int64)
        one[0, byte] = 1
        assert len(by_byte_class(one)[0]) == 1


def test_a_sentence_is_routed_as_the_model_routes_it():
    model = Transformer(SPARSE, rng=np.random.default_rng(0))
    routed = route_sentence(model, b"abc abc")
    assert routed.layers == (0, 2)
    assert routed.gate.shape == (2, 7, 4)
    np.testing.assert_array_equal(routed.asked.sum(axis=2), 2)
    np.testing.assert_allclose(routed.gate.sum(axis=2), 1, rtol=1e-6)  # renormalised over two experts
    np.testing.assert_array_equal(routed.asked, routed.gate > 0)
    np.testing.assert_array_equal(routed.first_choice, routed.gate.argmax(axis=2))
    assert not routed.dropped.any()
    assert model.training
    np.testing.assert_array_equal(routed.first_choice[0, :1], route_sentence(model, b"a").first_choice[0])


def test_a_dropped_byte_shows_the_expert_that_it_asked_for():
    config = replace(SPARSE, recipe_settings={"top_k": 1, "capacity_factor": 0.3})
    model = Transformer(config, rng=np.random.default_rng(0))
    routed = route_sentence(model, b"aaaaaaaa")
    assert routed.dropped[0].any()
    assert not routed.dropped[0].all()
    assert len(set(routed.first_choice[0])) == 1  # equal bytes ask for the same expert in the first layer
    assert (routed.gate[routed.dropped] == 0).all()


def test_some_layers_of_a_sentence():
    routed = route_sentence(Transformer(SPARSE, rng=np.random.default_rng(0)), b"abc")
    last = routed.of_layers([2])
    assert (last.ids, last.layers) == ((97, 98, 99), (2,))
    np.testing.assert_array_equal(last.gate, routed.gate[1:])
    np.testing.assert_array_equal(last.first_choice, routed.first_choice[1:])


def test_refusals():
    model = Transformer(SPARSE, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="1 to context=12 tokens, got 0"):
        route_sentence(model, b"")
    with pytest.raises(ValueError, match="got 13"):
        route_sentence(model, b"x" * 13)
    with pytest.raises(ValueError, match="dense"):
        route_sentence(Transformer(SPARSE.dense_twin(), rng=np.random.default_rng(0)), b"x")
