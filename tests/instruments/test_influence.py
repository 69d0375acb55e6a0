import numpy as np

from moe_numpy.instruments.influence import Influence, influence
from moe_numpy.instruments.probe import Probe, as_recipe
from moe_numpy.moe import RouterConfig, recipes
from moe_numpy.moe.selection import TopK


def test_a_probe_repeats_itself():
    probe = Probe(recipes.switch(), seed=3)
    first, again = (probe.run(probe.layer())[0].data for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = Probe(recipes.switch(), seed=4)
    assert np.abs(first - other.run(other.layer())[0].data).max() > 0.1


def test_crowded_tokens_choose_the_same_experts():
    busiest = {}
    for crowded in (False, True):
        probes = [Probe(recipes.mixtral(), seed=seed, crowded=crowded) for seed in range(4)]
        busiest[crowded] = sum(probe.run(probe.layer())[1].statistics.load.max() for probe in probes)
    assert busiest[True] > 1.3 * busiest[False]


def test_ids_are_those_that_a_hash_table_knows():
    probe = Probe(recipes.hash_(vocab_size=3))
    assert set(probe.token_ids.ravel().tolist()) == {0, 1, 2}
    probe.run(probe.layer())


def test_a_router_alone_gets_the_usual_experts():
    assert as_recipe(RouterConfig(TopK(1))).experts == "swiglu"
    assert influence(RouterConfig(TopK(1)), num_experts=4, seeds=1).change.shape == (16, 16)


def test_every_token_moves_its_own_output():
    found = influence(recipes.mixtral(), seeds=1)
    assert (np.diag(found.change) > 0.01).all()
    assert found.probes == 2 * 16


def test_strongest_names_the_pair_by_sequence_and_position():
    change = np.zeros((6, 6))
    change[1, 5], change[2, 4], change[3, 3] = 0.25, 0.1, 1e-12
    found = Influence(change, sequence_length=3, probes=1)
    pair = found.strongest(~found.same_sequence)
    assert (pair.changed, pair.moved, pair.change) == ((0, 1), (1, 2), 0.25)
    assert str(pair) == "exchanging token 1 of sequence 0 moves the output at 2 of sequence 1 by 25 %"
    assert found.strongest(found.same_sequence) is None  # 1e-12 is rounding
    change[4, 3] = 0.5
    assert str(found.strongest(found.same_sequence)) == "exchanging token 1 moves the output at 0 by 50 %"


def test_rounding_stays_far_below_the_threshold(influence_of):
    for name in ("gpt_oss", "deepseek_v3", "shazeer_2017"):
        change = influence_of(name, training=True).change
        assert change[~np.eye(len(change), dtype=bool)].max() < 1e-13
