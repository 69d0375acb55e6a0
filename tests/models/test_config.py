import json

import pytest

from moe_numpy.models import ModelConfig


def test_json_round_trip():
    config = ModelConfig(num_layers=3, recipe="switch", recipe_settings={"capacity_factor": 1.5})
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ValueError, match="unknown settings in a model configuration: d_modle"):
        ModelConfig.from_json({"d_modle": 3})


@pytest.mark.parametrize(
    ("moe_every", "num_experts", "expected"),
    [
        (1, 4, [True] * 4),
        (2, 4, [False, True, False, True]),
        (3, 4, [True, False, False, True]),
        (1, 0, [False] * 4),
    ],
)
def test_which_layers_have_experts(moe_every, num_experts, expected):
    config = ModelConfig(num_layers=4, moe_every=moe_every, num_experts=num_experts)
    assert [config.is_sparse(i) for i in range(4)] == expected


@pytest.mark.parametrize(
    ("recipe", "settings", "width"),
    [
        ("mixtral", {}, 200),
        ("mixtral", {"top_k": 3}, 300),
        ("switch", {}, 67),  # two matrices instead of three
        ("deepseek_v3", {}, 300),  # two experts and the shared one
        ("soft_moe", {}, 549),  # all experts, and the slots' vectors
        ("expert_choice", {"capacity_factor": 0.5}, 34),
        ("remoe", {"average_k": 3.0}, 300),
    ],
)
def test_the_dense_twin_has_as_many_active_parameters(recipe, settings, width):
    twin = ModelConfig(d_ff=100, recipe=recipe, recipe_settings=settings).dense_twin()
    assert twin.num_experts == 0
    assert twin.d_ff == pytest.approx(width, abs=2)


@pytest.mark.parametrize(
    ("recipe", "routes", "per_token"),
    [
        ("mixtral", 8, 2),
        ("longcat", 12, 2),
        ("hierarchical", 2, 8),
        ("soft_moe", 0, 8),
        ("expert_choice", 8, 2),
        ("remoe", 8, 2),
    ],
)
def test_routes_and_experts_per_token(recipe, routes, per_token):
    config = ModelConfig(recipe=recipe)
    assert config.num_routes == routes
    assert config.experts_per_token == per_token
    assert config.routed_layers == (list(range(config.num_layers)) if routes else [])
    assert config.dense_twin().num_routes == config.dense_twin().experts_per_token == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_layers": 10**9}, "num_layers must be at most 100,000, got 1000000000"),
        ({"num_experts": 10**30}, "num_experts must be at most 100,000, got 1000"),
        ({"moe_every": 0}, "moe_every must be at least 1, got 0"),
        ({"num_experts": -1}, "num_experts must not be negative, got -1"),
        ({"recipe_settings": {"top_k": 9}}, "top_k must be between 1 and num_experts=8, got 9"),
        ({"recipe_settings": {"topk": 2}}, "recipe mixtral has no setting topk; it has: top_k, capacity_factor"),
        ({"d_model": 130}, "d_model=130 must be num_heads=4 times an even width per head"),
        ({"d_model": 12}, "d_model=12 must be num_heads=4 times an even width per head"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ({"recipe": "mixtrl"}, "no recipe is called 'mixtrl'; did you mean mixtral"),
        ({"recipe_settings": {"capacity_factor": 0.0}}, "capacity_factor must be positive, got 0"),
        ({"dense_d_ff": 0}, "dense_d_ff must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)
