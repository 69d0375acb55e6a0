import json

import pytest

from moe_numpy.instruments.batch_dependence import batch_dependence, dependence
from moe_numpy.moe import RouterConfig, recipes
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import TopK

WITH_CAPACITY = {"gshard", "glam", "switch", "st_moe", "vmoe"}
ONLY_IN_TRAINING = {"base", "sinkhorn"}
WITHIN_SEQUENCES = {"expert_choice", "soft_moe", "mixture_of_depths"}


@pytest.mark.parametrize("name", RECIPES)
def test_which_recipes_depend_on_the_batch(name, influence_of):
    training, evaluation = (dependence(influence_of(name, training=mode)) for mode in (True, False))
    coupled, within = name in WITH_CAPACITY, name in WITHIN_SEQUENCES
    coupled_in_training = coupled or name in ONLY_IN_TRAINING
    assert (training.other_sequences is not None) == coupled_in_training
    assert (evaluation.other_sequences is not None) == coupled
    assert (training.own_sequence is not None) == (coupled_in_training or within)
    assert (evaluation.own_sequence is not None) == (coupled or within)


@pytest.mark.parametrize(("name", "independent"), [("mixtral", True), ("sinkhorn", False), ("switch", False)])
def test_independent_means_in_both_modes(name, independent):
    found = batch_dependence(RECIPES[name](), seeds=1)
    assert found.independent == independent
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["independent"] == independent


def test_expert_choice_over_the_batch_couples_sequences():
    found = batch_dependence(recipes.expert_choice(scope="batch"), seeds=1)
    assert found.training.other_sequences
    assert found.evaluation.other_sequences


def test_capacity_within_sequences_does_not_couple_them():
    router = RouterConfig(TopK(1), gates=(), capacity=Capacity(1.0, scope="sequence"))
    found = batch_dependence(router, seeds=1)
    assert found.evaluation.other_sequences is None
    assert found.evaluation.own_sequence is not None


def test_as_text():
    lines = str(batch_dependence(recipes.expert_choice(), seeds=1)).splitlines()
    assert lines[0] == "training    other sequences  no dependence"
    assert lines[1].startswith("training    own sequence     yes: exchanging token ")
    assert len(lines) == 4
