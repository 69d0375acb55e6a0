"""Every published router: the same result by every dispatch strategy, and what its paper says of it."""

from dataclasses import fields
from inspect import isfunction

import numpy as np
import pytest
from by_hand import combined, expert, sigmoid, softmax

from moe_numpy.autodiff import Tensor
from moe_numpy.moe import Batch, HierarchicalMoE, MoE, Recipe, SoftMoE, make_layer, recipes
from moe_numpy.moe.capacity import Capacity
from moe_numpy.moe.dispatch import STRATEGIES
from moe_numpy.moe.losses import SwitchBalance
from moe_numpy.moe.recipes import RECIPES, find
from moe_numpy.moe.selection import RandomSecond, TopK

pytestmark = pytest.mark.no_cover

D, F, E = 4, 3, 8
BATCH, LENGTH = 2, 6
WITH_ROUTER = [name for name in RECIPES if name != "soft_moe"]
# Recipes whose routing is not learned: their gate weight is always 1.
WITHOUT_TASK_GRADIENT = {"hash"}


def make(name, dispatch="sorted", dtype=np.float64, **settings):
    published = RECIPES[name]
    recipe = published(**(dict(published.small) | settings))
    layer = make_layer(recipe, D, F, E, dispatch=dispatch, rng=np.random.default_rng(0), dtype=dtype)
    for i, parameter in enumerate(layer.parameters()):  # biases and noise weights are zero at first
        parameter.data += 0.1 * np.random.default_rng(i).standard_normal(parameter.shape).astype(dtype)
    return layer


def inputs(dtype=np.float64, seed=1):
    return Tensor(np.random.default_rng(seed).standard_normal((BATCH, LENGTH, D)).astype(dtype), requires_grad=True)


def run(layer, x, seed=2):
    ids = np.random.default_rng(3).integers(0, 256, (BATCH, LENGTH))
    if getattr(layer, "pools", ()):
        return layer(x, np.random.default_rng(seed), ids, modality=np.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % 2)
    return layer(x, np.random.default_rng(seed), ids)


@pytest.mark.parametrize("name", WITH_ROUTER)
def test_every_dispatch_gives_the_same_output_and_every_gradient(name):
    results = {}
    for dispatch in STRATEGIES:
        layer, x = make(name, dispatch), inputs()
        y, routing = run(layer, x)
        y.backward(np.random.default_rng(4).standard_normal(y.shape), retain_graph=True)
        if routing.auxiliary_loss is not None:
            routing.auxiliary_loss.backward()
        results[dispatch] = {"y": y.data, "dx": x.grad} | {n: p.grad for n, p in layer.named_parameters()}
    for dispatch, result in results.items():
        for key, value in results["loop"].items():
            assert value is not None, f"{key} got no gradient"
            np.testing.assert_allclose(result[key], value, rtol=1e-8, atol=1e-11, err_msg=f"{dispatch} {key}")


@pytest.mark.parametrize("name", [name for name in WITH_ROUTER if name != "hierarchical"])
def test_the_output_is_the_weighted_sum_of_experts_by_hand(name):
    layer, x = make(name), inputs()
    y, routing = run(layer, x)
    tokens = x.data.reshape(-1, D)
    expected = combined(layer.experts, tokens, routing)
    if layer.shared is not None:
        always = layer.shared(Tensor(tokens)).data
        if layer.shared_gate is not None:
            always *= sigmoid(tokens @ layer.shared_gate.weight.data.T)
        expected += always
    np.testing.assert_allclose(y.data.reshape(-1, D), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_its_router_a_task_gradient_or_none_by_design(name):
    layer = make(name)
    y, _ = run(layer, inputs())
    y.backward(np.random.default_rng(4).standard_normal(y.shape))
    weight = layer.phi if isinstance(layer, SoftMoE) else layer.router.weight
    size = 0 if weight.grad is None else np.abs(weight.grad).max()
    assert (size > 1e-6) == (name not in WITHOUT_TASK_GRADIENT)


@pytest.mark.parametrize("name", RECIPES)
def test_float32_throughout_and_the_same_bits_from_the_same_seed(name):
    runs = []
    for _ in range(2):
        layer, x = make(name, dtype=np.float32), inputs(np.float32)
        y, routing = run(layer, x)
        y.backward(np.ones_like(y.data), retain_graph=True)
        if routing is not None and routing.auxiliary_loss is not None:
            assert routing.auxiliary_loss.dtype == np.float32
            routing.auxiliary_loss.backward()
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        assert {y.dtype, x.grad.dtype, *(g.dtype for g in gradients)} == {np.dtype(np.float32)}
        layer.after_step()
        runs.append([y.data, x.grad, *gradients, *(b.data for _, b in layer.named_buffers())])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dispatch", STRATEGIES)
def test_no_tokens_and_a_single_token(name, dispatch):
    layer = make(name, dispatch)
    for shape in ((1, 1), (0, 3)):
        x = Tensor(np.ones((*shape, D)), requires_grad=True)
        y, routing = layer(x, np.random.default_rng(0), np.zeros(shape, int))
        y.backward(np.ones_like(y.data))
        assert y.shape == x.grad.shape == (*shape, D)
        assert np.isfinite(y.data).all()
        if routing is not None and routing.auxiliary_loss is not None:
            assert np.isfinite(routing.auxiliary_loss.item())
        layer.after_step()


@pytest.mark.parametrize("name", RECIPES)
def test_evaluation_needs_no_generator_and_does_not_change_the_state(name):
    layer = make(name).eval()
    ids = np.zeros((BATCH, LENGTH), int)
    before = {name: buffer.data.copy() for name, buffer in layer.named_buffers()}
    first, second = (layer(inputs(), None, ids)[0].data for _ in range(2))
    layer.after_step()
    np.testing.assert_array_equal(first, second)
    for name_of, buffer in layer.named_buffers():
        np.testing.assert_array_equal(buffer.data, before[name_of])


# One by one


def test_jacobs_and_jordan_are_dense():
    layer = make("jacobs_1991")
    x = inputs().data.reshape(-1, D)
    g = softmax(x @ layer.router.weight.data.T)
    expected = [sum(g[t, e] * expert(layer.experts, e, row) for e in range(E)) for t, row in enumerate(x)]
    np.testing.assert_allclose(run(layer, inputs())[0].data.reshape(-1, D), expected, rtol=1e-9)


def test_the_hierarchy_is_the_flat_product_of_gates():
    layer = make("hierarchical")
    assert isinstance(layer, HierarchicalMoE)
    x = inputs().data.reshape(-1, D)
    outer = softmax(x @ layer.router.weight.data.T)
    expected = np.zeros_like(x)
    for g, group in enumerate(layer.groups):
        inner = softmax(x @ group.router.weight.data.T)
        for j in range(E // 2):
            answers = np.array([expert(group.experts, j, row) for row in x])
            expected += (outer[:, g] * inner[:, j])[:, None] * answers
    np.testing.assert_allclose(run(layer, inputs())[0].data.reshape(-1, D), expected, rtol=1e-9)


def test_gshard_loses_some_second_experts_only_in_training():
    layer = make("gshard", capacity_factor=None)
    assert len(run(layer, inputs())[1].token) < 2 * BATCH * LENGTH
    assert len(run(layer.eval(), inputs())[1].token) == 2 * BATCH * LENGTH


def test_gshard_has_2_t_over_e_places_for_each_expert():
    _, routing = run(make("gshard"), inputs())
    assert routing.statistics.dropped.capacity == 2 * BATCH * LENGTH // E


def test_st_moe_counts_places_without_k_and_sends_the_second_expert_by_its_threshold():
    capacity = recipes.st_moe().router.capacity
    assert [capacity.size(1024, 8, per_token=2, training=mode) for mode in (True, False)] == [160, 256]
    selection = recipes.st_moe().router.selection
    assert (selection, selection.k) == (RandomSecond(0.2), 2)
    assert recipes.st_moe(second_threshold=None).router.selection == TopK(2)
    with pytest.raises(ValueError, match="second_threshold is for top_k=2, got top_k=3; pass second_threshold=None"):
        recipes.st_moe(top_k=3)


def test_deepseek_v3_gate_weights_are_unbiased_renormalised_and_scaled():
    layer = make("deepseek_v3")
    layer.router.balancer_state.data[:] = np.random.default_rng(0).standard_normal(E)
    _, routing = run(layer, inputs())
    np.testing.assert_allclose(np.bincount(routing.token, routing.gate.data), 2.5)
    s = sigmoid(inputs().data.reshape(-1, D) @ layer.router.weight.data.T)
    for t in range(BATCH * LENGTH):
        mine = routing.token == t
        chosen = s[t, routing.expert[mine]]
        np.testing.assert_allclose(routing.gate.data[mine], 2.5 * chosen / chosen.sum())


def test_deepseek_v4_chooses_by_biased_and_weighs_by_unbiased_roots_of_softplus():
    layer = make("deepseek_v4")
    bias = layer.router.balancer_state.data
    bias[:] = np.random.default_rng(0).standard_normal(E)
    _, routing = run(layer, inputs())
    s = np.sqrt(np.log1p(np.exp(inputs().data.reshape(-1, D) @ layer.router.weight.data.T)))
    for t in range(BATCH * LENGTH):
        mine = routing.token == t
        assert set(routing.expert[mine]) == set(np.argsort(-(s + bias)[t])[:2])
        chosen = s[t, routing.expert[mine]]
        np.testing.assert_allclose(routing.gate.data[mine], 1.5 * chosen / chosen.sum())


def test_base_gives_every_expert_the_same_number_in_training():
    _, routing = run(make("base"), inputs())
    assert routing.statistics.load.max() <= -(-BATCH * LENGTH // E)


def test_expert_choice_is_perfectly_even():
    _, routing = run(make("expert_choice"), inputs())
    assert set(routing.statistics.load.tolist()) == {BATCH * 2}  # 2 · 6 / 8 = 1.5, rounded up, for each sequence


def test_longcat_sends_some_tokens_nowhere():
    layer = make("longcat")
    _, routing = run(layer, inputs())
    assert routing.num_experts == E + 4
    assert (routing.expert >= E).any()


def test_mixture_of_depths_with_one_expert_takes_an_eighth_of_the_tokens():
    layer = make_layer(recipes.mixture_of_depths(), D, F, 1, rng=np.random.default_rng(0), dtype=np.float64)
    x = Tensor(np.random.default_rng(1).standard_normal((1, 16, D)))
    y, routing = layer(x)
    r = x.data[0] @ layer.router.weight.data[0]
    taken = sorted(np.argsort(-r)[:2].tolist())
    assert routing.token.tolist() == taken
    for t in range(16):
        expected = r[t] * expert(layer.experts, 0, x.data[0, t]) if t in taken else np.zeros(D)
        np.testing.assert_allclose(y.data[0, t], expected, rtol=1e-9)


def test_remoe_uses_as_many_experts_as_there_are_positive_logits():
    layer = make("remoe")
    _, routing = run(layer, inputs())
    h = inputs().data.reshape(-1, D) @ layer.router.weight.data.T
    assert len(routing.token) == (h > 0).sum()
    np.testing.assert_allclose(routing.gate.data, h[routing.token, routing.expert])


def test_hash_gate_weights_are_one():
    _, routing = run(make("hash"), inputs())
    np.testing.assert_array_equal(routing.gate.data, 1)


def test_scaled_recipes_scale():
    for name, factor in (("deepseek_v2", 16.0), ("longcat", 6.0)):
        _, routing = run(make(name), inputs())
        p = routing.trace.scores.data
        np.testing.assert_allclose(routing.gate.data, factor * p[routing.token, routing.expert])


# The registry


def test_every_recipe_is_documented_dated_and_frozen():
    functions = [f for f in vars(recipes).values() if isfunction(f) and f.__annotations__.get("return") is Recipe]
    assert [published.build for published in RECIPES.values()] == functions
    for name, published in RECIPES.items():
        assert published.name == name
        assert 1991 <= published.year <= 2026
        assert published.paper
        assert published.build.__doc__.rstrip().endswith(".")
        assert isinstance(published(), Recipe)
        assert published() == published()
        assert set(published.small) <= set(published.settings)
    assert RECIPES["hash"].build is recipes.hash_


def test_a_coefficient_of_zero_leaves_the_loss_out():
    assert [loss.name for loss in recipes.mixtral(z=0.001).router.losses] == ["balance", "z"]
    assert [loss.name for loss in recipes.mixtral().router.losses] == ["balance"]
    assert recipes.mixtral(balance=0).router.losses == ()


def test_settings_reach_the_parts():
    assert recipes.switch(capacity_factor=None).router.capacity is None
    assert recipes.switch(capacity_factor=3.0).router.capacity == Capacity(3.0, eval_factor=2.0)
    for build in (recipes.gshard, recipes.switch, recipes.vmoe, recipes.glam, recipes.st_moe, recipes.mixtral):
        assert build(capacity_factor=1.0, eval_capacity_factor=4.0).router.capacity.eval_factor == 4
        assert build(capacity_factor=None, eval_capacity_factor=4.0).router.capacity is None
    assert (recipes.st_moe().router.capacity.eval_factor, recipes.vmoe().router.capacity.eval_factor) == (2, None)
    assert recipes.qwen2_moe(normalize=True).router.gates != recipes.qwen2_moe().router.gates
    assert recipes.qwen3_moe(normalize=False).router.gates == ()
    assert recipes.deepseek_v3(bias_rate=0.5).router.balancer.rate == 0.5
    assert recipes.glam().experts == "gelu"
    assert {field.name for field in fields(SwitchBalance)} >= {"coefficient", "scope"}


def test_a_setting_that_a_recipe_lacks_is_named_with_those_that_it_has():
    with pytest.raises(ValueError, match="recipe olmoe has no setting capacity, topk; it has: top_k, balance, z"):
        RECIPES["olmoe"](topk=2, capacity=1)
    with pytest.raises(ValueError, match=r"eval_capacity_factor=2\.0 needs a capacity_factor, and mixtral has none"):
        RECIPES["mixtral"](eval_capacity_factor=2.0)
    with pytest.raises(ValueError, match="recipe jacobs_1991 has no setting k; it has: none"):
        RECIPES["jacobs_1991"](k=2)


def test_names_are_found_and_near_misses_suggested():
    assert find("mixtral").build is recipes.mixtral
    with pytest.raises(ValueError, match="no recipe is called 'mixtrall'; did you mean mixtral"):
        find("mixtrall")
    with pytest.raises(ValueError, match="no recipe is called 'zzz'; there are: jacobs_1991, hierarchical, "):
        find("zzz")


OWN = """
from __future__ import annotations
from dataclasses import dataclass
from moe_numpy.moe import Recipe, RouterConfig
from moe_numpy.moe.selection import TopK

@dataclass(frozen=True)
class Best(TopK):
    k: int = 2

def router(*, top_k=3):
    '''The k best.'''
    return RouterConfig(Best(top_k))

def recipe():
    return Recipe(RouterConfig(Best()), shared_experts=1)

def nothing(): pass
def fails(): return {}["x"]
def needs(k): return k
number = 3
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path.resolve()


def test_a_recipe_of_ones_own_is_found_by_file_and_function(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    found = find("own.py:router")
    assert (found.name, found.year, found.paper, found.small) == (f"{own}:router", None, str(own), {})
    assert found.settings == {"top_k": 3}
    assert found.build.__doc__ == "The k best."
    assert found(top_k=4).router.selection.k == 4
    assert isinstance(found(), Recipe)
    with pytest.raises(ValueError, match=r"own.py:router has no setting k; it has: top_k"):
        found(k=4)
    assert find(f"{own}:recipe")().shared_experts == 1


def test_the_file_is_run_anew(own):
    assert find(f"{own}:router")().router.selection.k == 3
    own.write_text(OWN.replace("top_k=3", "top_k=1  "))
    assert find(f"{own}:router")().router.selection.k == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own.py", r"a recipe of your own is named FILE.py:FUNCTION, got 'own.py'"),
        (r"C:\own.py", r"a recipe of your own is named FILE.py:FUNCTION, got"),
        ("mixtral:router", r"a recipe of your own is named FILE.py:FUNCTION, got 'mixtral:router'"),
        ("other.py:router", r"there is no file .*other.py; expected a Python file with a function router that returns"),
        ("own.py:f", r"own.py: expected a function f that returns a Recipe or a RouterConfig, but there is none"),
        ("own.py:number", r"own.py: expected a function number that .*, but number is of type int"),
        ("own.py:needs", r"own.py: needs takes keyword settings with defaults only, got k"),
        ("own.py:nothing", r"own.py: nothing must return a Recipe or a RouterConfig, got NoneType"),
        ("own.py:fails", r"own.py: fails failed: KeyError: 'x' \(line 19\)"),
        ("syntax.py:f", r"syntax.py cannot be imported: SyntaxError: .*line 1"),
        ("missing.py:f", r"missing.py cannot be imported: ModuleNotFoundError: .*'no_such_module' \(line 1\)"),
        ("exits.py:f", r"exits.py cannot be imported: SystemExit: 1 \(line 1\)"),
    ],
)
def test_what_is_wrong_with_a_recipe_of_ones_own_is_named(own, monkeypatch, name, message):
    monkeypatch.chdir(own.parent)
    own.with_name("syntax.py").write_text("def f(:")
    own.with_name("missing.py").write_text("import no_such_module")
    own.with_name("exits.py").write_text("raise SystemExit(1)")
    with pytest.raises(ValueError, match=message):
        find(name)()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared_experts": -1}, "shared_experts must not be negative, got -1"),
        ({"zero_experts": -1}, "zero_experts must not be negative, got -1"),
        ({"groups": (-1,)}, "groups must be numbers of branches, each at least 1"),
        ({"slots": -1}, "slots must not be negative, got -1"),
        ({"gated_shared": True}, "gated_shared needs shared_experts of at least 1, got 0"),
    ],
)
def test_a_recipe_of_ones_own_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(recipes.mixtral().router, **settings)


def test_make_layer_finds_the_right_layer():
    kinds = {name: type(make(name)) for name in RECIPES}
    assert kinds.pop("soft_moe") is SoftMoE
    assert kinds.pop("hierarchical") is HierarchicalMoE
    assert set(kinds.values()) == {MoE}


def test_a_batch_is_what_a_router_may_know():
    assert Batch(3).training is False
    with pytest.raises(ValueError, match="Thing needs rng while training; pass rng="):
        Batch(3).need_rng("Thing")
