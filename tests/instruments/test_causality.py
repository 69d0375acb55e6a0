import json

import pytest

from moe_numpy.instruments.causality import causality, future_leak
from moe_numpy.moe import RouterConfig, recipes
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import TopK

ALWAYS = {"expert_choice", "soft_moe", "mixture_of_depths"}
ONLY_IN_TRAINING = {"base", "sinkhorn"}
# All first choices before second choices, or confident tokens first: a later token can take an earlier one's place.
BY_DROPPING = {"gshard", "glam", "st_moe", "vmoe"}


@pytest.mark.parametrize("name", RECIPES)
def test_who_sees_the_future(name, influence_of):
    assert (future_leak(influence_of(name, training=True)) is not None) == (
        name in ALWAYS | ONLY_IN_TRAINING | BY_DROPPING
    )
    in_evaluation = ALWAYS | BY_DROPPING
    assert (future_leak(influence_of(name, training=False)) is not None) == (name in in_evaluation)


@pytest.mark.parametrize("name", ["base", "deepseek_v3", "soft_moe", "mixture_of_depths"])
def test_the_selection_says_the_same_where_it_decides(name):
    published = RECIPES[name]
    found = causality(published(**published.small), seeds=1)
    assert found.selection_says == (None if name == "soft_moe" else found.causal)
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["causal"] == found.causal


@pytest.mark.parametrize(
    ("drop", "k", "causal"),
    [
        ("position", 1, True),
        ("position", 2, False),
        ("probability", 1, False),
        ("batch_priority", 1, False),
    ],
)
def test_dropping_leaks_unless_earlier_tokens_always_go_first(drop, k, causal):
    found = causality(RouterConfig(TopK(k), gates=(), capacity=Capacity(1.0, drop=drop)), seeds=1)
    assert found.selection_says
    assert found.causal == causal
    assert ("who is dropped" in str(found)) != causal


def test_the_evidence_is_a_later_token_and_an_earlier_output():
    found = causality(recipes.expert_choice(), seeds=1)
    for pair in (found.training, found.evaluation):
        assert pair.changed[0] == pair.moved[0]
        assert pair.changed[1] > pair.moved[1]
        assert pair.change > 0.01
    assert str(found).startswith("training    not causal: exchanging token ")


def test_without_a_leak_the_number_of_probes_is_said():
    assert str(causality(recipes.mixtral(), seeds=1)) == (
        "training    causal in 32 exchanges of a token\nevaluation  causal in 32 exchanges of a token"
    )
