import json

import pytest

from moe_numpy.instruments.batch_dependence import batch_dependence
from moe_numpy.moe import RouterConfig, recipes
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import TopK

WITH_CAPACITY = {"gshard", "glam", "switch", "st_moe", "vmoe"}
ONLY_IN_TRAINING = {"base", "sinkhorn"}
WITHIN_SEQUENCES = {"expert_choice", "soft_moe", "mixture_of_depths"}


@pytest.mark.parametrize("name", RECIPES)
def test_who_depends_on_its_company(name):
    published = RECIPES[name]
    found = batch_dependence(published(**published.small))
    always, training = name in WITH_CAPACITY, name in ONLY_IN_TRAINING
    within = name in WITHIN_SEQUENCES
    assert (found.training.other_sequences is not None) == (always or training)
    assert (found.evaluation.other_sequences is not None) == always
    assert (found.training.own_sequence is not None) == (always or training or within)
    assert (found.evaluation.own_sequence is not None) == (always or within)
    assert found.independent == (name not in WITH_CAPACITY | ONLY_IN_TRAINING | WITHIN_SEQUENCES)
    json.dumps(found.as_json(), allow_nan=False)


def test_expert_choice_over_the_batch_couples_sequences():
    found = batch_dependence(recipes.expert_choice(scope="batch"))
    assert found.training.other_sequences
    assert found.evaluation.other_sequences


def test_capacity_within_sequences_does_not_couple_them():
    router = RouterConfig(TopK(1), weights=(), capacity=Capacity(1.0, scope="sequence"))
    found = batch_dependence(router)
    assert found.evaluation.other_sequences is None
    assert found.evaluation.own_sequence is not None


def test_as_text():
    lines = str(batch_dependence(recipes.expert_choice(), seeds=1)).splitlines()
    assert lines[0] == "training    other sequences  no dependence"
    assert lines[1].startswith("training    own sequence     yes: exchanging token ")
    assert len(lines) == 4
