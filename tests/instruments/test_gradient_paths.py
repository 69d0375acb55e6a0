import json
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from unchecked_shapes import unchecked_shapes

from moe_numpy.autodiff import substitute
from moe_numpy.instruments.gradient_paths import GradientPaths, Path, Quantity, State, gradient_paths, percent
from moe_numpy.moe import Recipe, RouterConfig, recipes
from moe_numpy.moe.balancers import Balancer
from moe_numpy.moe.gates import Gate, Renormalize, SelectedSoftmax
from moe_numpy.moe.losses import BalanceLoss, Load, SwitchBalance
from moe_numpy.moe.recipes import RECIPES
from moe_numpy.moe.selection import Dense, TopK


@cache
def probe(name):
    """Two random layers, the second with crowded tokens."""
    published = RECIPES[name]
    with unchecked_shapes():
        return gradient_paths(published(**published.small), seeds=2)


def path(found, term, router=""):
    (one,) = [p for p in found.paths if (p.term, p.router) == (term, router)]
    return one


def verdicts(found):
    return {q.name: q.verdict for q in found.quantities}


@pytest.mark.parametrize("name", RECIPES)
def test_every_router_learns_from_the_task_but_that_of_hash(name):
    found = probe(name)
    assert found.task_reaches_router == (name != "hash")
    for one in found.paths:
        assert one.finite_difference_error < 1e-5, one
    if found.quantities:
        constants = {name for name, verdict in verdicts(found).items() if verdict == "constant"}
        assert constants == {"selection", "counts", "positions"}
    json.dumps(found.as_json(), allow_nan=False)


def test_a_renormalised_gate_of_one_expert_leaves_a_dead_router():
    found = gradient_paths(RouterConfig(TopK(1), losses=(SwitchBalance(),)), seeds=2)
    assert path(found, "task").kept == 0
    assert not found.task_reaches_router
    assert verdicts(found)["gate weights"] == "dead"
    assert path(found, "balance").kept == path(found, "balance").not_chosen == 1
    assert path(found, "balance").parameters == {"weight": True}
    assert "dead: gate weights" in str(found)
    assert "learns nothing from the task" in str(found)


def test_softmax_after_top_1_is_the_same_mistake():
    router = RouterConfig(TopK(1), scores=None, gates=(Gate(SelectedSoftmax),))
    assert not gradient_paths(router, seeds=2).task_reaches_router


def test_without_renormalising_the_task_reaches_all_logits_of_a_served_token():
    task = path(probe("olmoe"), "task")
    assert (task.kept, task.dropped, task.not_chosen) == (1, None, 1)


def test_renormalising_confines_the_task_to_the_chosen():
    task = path(probe("mixtral"), "task")
    assert (task.kept, task.not_chosen) == (1, 0)


def test_a_token_that_was_dropped_gives_the_router_nothing():
    task = path(probe("switch"), "task")
    assert task.kept == 1
    assert task.dropped == 0
    assert 0 < task.not_chosen < 1


def test_the_bias_of_deepseek_v3_moves_the_choice_alone():
    found = probe("deepseek_v3")
    assert found.state == State(
        receives_gradient=False, changes_choice=True, changes_output=False, changes_losses=False
    )
    assert "balancing state: receives no gradient; it changes the choice" in str(found)


def test_the_coefficient_of_remoe_moves_the_loss_alone():
    state = probe("remoe").state
    assert (state.changes_choice, state.changes_output, state.changes_losses) == (False, False, True)


@dataclass(frozen=True)
class LeakyBias(Balancer):
    """The mistake: adding the bias in place, so that the gate weights come from biased scores."""

    def shift(self, scores, state):
        scores += state
        return scores


def test_a_bias_that_leaks_into_the_gate_weights_is_seen():
    router = RouterConfig(TopK(2), scores=None, gates=(Gate(SelectedSoftmax),), balancer=LeakyBias())
    found = gradient_paths(router, seeds=2)
    assert found.state.changes_output
    assert "the gate weights of what was chosen" in str(found)


def test_a_wrong_derivative_is_seen_by_finite_differences():
    class Doubled(BalanceLoss):
        def backward(self, grad):
            dp, _ = super().backward(grad)
            return 2 * dp, None

    with substitute(BalanceLoss, Doubled):
        found = gradient_paths(recipes.mixtral(), seeds=2)
    assert path(found, "balance").finite_difference_error == pytest.approx(0.5, abs=1e-3)
    assert path(found, "task").finite_difference_error < 1e-5


def test_shazeer_teaches_the_size_of_the_noise_too():
    found = probe("shazeer_2017")
    assert path(found, "load").parameters == {"weight": True, "noise_weight": True}


def test_a_load_loss_without_noise_is_a_constant():
    found = gradient_paths(RouterConfig(TopK(2), losses=(Load(),)), seeds=2)
    load = path(found, "load")
    assert (load.kept, load.not_chosen, load.parameters) == (0, 0, {"weight": False})


def test_both_levels_of_a_hierarchy_are_reported():
    found = gradient_paths(Recipe(RouterConfig(Dense(), gates=()), groups=(4,)), seeds=2)
    assert path(found, "task", "groups").kept == path(found, "task", "experts").kept == 1
    assert "task (experts)" in str(found)


def test_a_group_with_one_renormalised_expert_is_dead_inside():
    found = gradient_paths(Recipe(RouterConfig(TopK(1), gates=(Gate(Renormalize),)), groups=(4,)), seeds=2)
    assert not found.task_reaches_router


def test_soft_moe_has_no_choice():
    found = probe("soft_moe")
    (task,) = found.paths
    assert (task.kept, task.dropped, task.not_chosen, task.parameters) == (1, None, None, {"phi": True})
    assert found.quantities == ()


@pytest.mark.parametrize(
    ("moves", "carries", "verdict"),
    [
        (True, True, "differentiable"),
        (False, True, "dead"),
        (False, False, "constant"),
        (True, False, "moves without gradient"),
    ],
)
def test_verdicts(moves, carries, verdict):
    assert Quantity("q", moves, carries).verdict == verdict


def test_percent_never_rounds_to_all_or_to_nothing():
    assert [percent(f) for f in (None, 0.0, 1e-6, 0.9999, 1.0, 0.25)] == [
        "-",
        "0 %",
        "0.1 %",
        "99.9 %",
        "100 %",
        "25 %",
    ]


def test_a_step_that_always_changes_a_choice_is_not_compared():
    class Restless(TopK):
        """Chooses anew each time."""

        def __call__(self, scores, batch):
            return super().__call__(np.random.default_rng(next(counter)).random(scores.shape), batch)

    counter = iter(range(1000))
    found = gradient_paths(RouterConfig(Restless(2), balancer=Balancer()), seeds=1)
    assert path(found, "task").finite_difference_error is None
    assert not found.state.changes_output


def test_state_in_words():
    nothing = GradientPaths((), (), State(True, False, False, False), 1)
    assert "receives a gradient; it changes nothing" in str(nothing)


def test_path_of_nothing_says_so():
    only = Path("task", "", 0.0, None, None, {"weight": False}, None)
    assert str(GradientPaths((only,), (), None, 1)).splitlines()[1].split() == ["task", "0", "%", "-", "-", "nothing"]
