import json

import pytest

from moe_numpy.models import ModelConfig


def test_json_round_trip():
    config = ModelConfig(num_layers=3, capacity_factor=1.5, recipe="switch", top_k=1)
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


def test_the_dense_twin_is_as_wide_as_the_active_experts():
    twin = ModelConfig(d_ff=100, top_k=2).dense_twin()
    assert (twin.num_experts, twin.d_ff) == (0, 200)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"moe_every": 0}, "moe_every must be at least 1, got 0"),
        ({"num_experts": -1}, "num_experts must not be negative, got -1"),
        ({"top_k": 9}, "top_k must be between 1 and num_experts=8, got 9"),
        ({"d_model": 130}, "d_model=130 must be num_heads=4 times an even width per head"),
        ({"d_model": 12}, "d_model=12 must be num_heads=4 times an even width per head"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ({"recipe": "mixtrl"}, "recipe must be one of mixtral, switch, got 'mixtrl'"),
        ({"experts": "tanh"}, "experts must be one of swiglu, relu, gelu, got 'tanh'"),
        ({"capacity_factor": 0.0}, "capacity_factor must be positive, got 0"),
        ({"dense_d_ff": 0}, "dense_d_ff must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)
