"""Settings one by one: types, limits, two names for one thing, what is left over."""

from pathlib import Path

import pytest
from published import recorded

from moe_numpy.pretrained import PretrainedError
from moe_numpy.pretrained.config import PublishedConfig
from moe_numpy.pretrained.families import FAMILIES, MISSING
from moe_numpy.pretrained.families.decoder import read_rotary
from moe_numpy.pretrained.fields import Fields, Limits


def fields(**values):
    return Fields(values, Path("config.json"), limits=Limits(axis=100, layers=3))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: fields().take(int, "a", "b"), "config.json lacks a"),
        (lambda: fields(a="x").take(int, "a"), "config.json: a is 'x': Expected `int`, got `str`"),
        (lambda: fields(a=1, b=2).take(int, "a", "b"), "config.json contradicts itself: a 1 and b 2"),
        (lambda: fields(a=0).size("a"), "config.json: a must be at least 1, got 0"),
        (lambda: fields(a=101).size("a"), "config.json: a is 101, but no axis of a tensor is longer than 100"),
        (lambda: fields(a=2**41).integer("a"), f"config.json: a must be at most {2**40}, got {2**41}"),
        (lambda: fields(a=4).layers("a"), "config.json: a is 4, but there are tensors of 3 layers"),
        (lambda: fields(a=0).number("a", above=0, below=1), "config.json: a must be above 0 and below 1, got 0.0"),
        (lambda: fields(a=-1).number("a", least=0), "config.json: a must be at least 0, got -1.0"),
        (lambda: fields(a=1e38).number("a"), r"config.json: a is 1e\+38, which float32 cannot hold"),
        (lambda: fields(a=1e-40).number("a"), "config.json: a is 1e-40, which float32 cannot hold"),
        (lambda: fields(a=1e7).factor("a", default=1.0), r"a must be above 0 and below 1e\+06, got 10000000.0"),
        (lambda: fields(a=1).flag("a"), "config.json: a is 1: Expected `bool`, got `int`"),
        (lambda: fields(a=True).expect("a", 1), "config.json: a is True, only 1 is supported"),
        (lambda: fields(a=2).expect("a", 1, None), "config.json: a is 2, only 1 or None is supported"),
        (lambda: fields(a=3).part("a"), "config.json: a is 3: Expected `object`, got `int`"),
        (lambda: fields(a={"b": "x"}).part("a").size("b"), "config.json: a.b is 'x'"),
        (lambda: fields(a={"b": 101}).part("a").size("b"), "config.json: a.b is 101, but no axis"),
        (lambda: fields(a=1).refuse("a", "why"), "config.json: a is 1: why"),
        (lambda: fields(a=1, b=2).finish(), "config.json sets 'a', 'b', not understood"),
        (lambda: fields(a={"b": 1}).part("a").finish(), "config.json sets a: 'b', not understood"),
    ],
)
def test_what_is_refused(read, message):
    with pytest.raises(PretrainedError, match=message):
        read()


def test_what_is_read():
    settings = fields(a=3, b=3, c=None, d=1, e=2.0, use_cache=True, f={"g": 1}, h=None)
    assert settings.take(int, "a", "b") == 3
    assert settings.size("c", default=None) is None
    assert settings.number("d") == 1.0
    assert settings.number("c", default=None, above=0) is None
    assert settings.expect("e", 2.0) == 2.0
    assert settings.expect("c", 5, default=5) == 5
    assert settings.part("c") is None
    settings.skip("f")
    settings.finish()


def rope(**values):
    settings = fields(**values)
    rotary = read_rotary(settings, 8, 4096, base=10000.0)
    settings.finish()
    return rotary


def test_two_dialects_of_rotation():
    old = rope(rope_theta=500, rope_scaling={"type": "linear", "factor": 4})
    new = rope(rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0})
    both = rope(
        rope_theta=500.0,
        rope_scaling={"type": "linear", "factor": 4.0},
        rope_parameters={"rope_type": "linear", "factor": 4.0},
    )
    assert old == new == both
    assert rope(rope_parameters={"rope_type": "default"}, rope_theta=500.0) == rope(rope_theta=500.0, rope_scaling=None)
    assert rope(rope_scaling={"type": "dynamic", "factor": 4.0}) == rope()  # the same up to the context


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}}, "rope_theta must be above 1"),
        ({"rope_theta": 3.0, "rope_parameters": {"rope_theta": 2.0}}, "rope_theta is 3.0: rope_parameters says 2.0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"factor": 3.0}}, "they must agree"),
        (
            {"rope_scaling": {"type": "longrope"}},
            "rope_scaling.type is 'longrope': .* only default, dynamic, linear, llama3, yarn are supported",
        ),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type is 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "config.json lacks rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "x": 1}}, "sets rope_scaling: 'x', not understood"),
        ({"partial_rotary_factor": 0.5}, "heads of this family rotate whole"),
    ],
)
def test_rotations_that_are_refused(values, message):
    with pytest.raises(PretrainedError, match=message):
        rope(**values)


def test_a_family_that_is_known_and_not_opened():
    said = "config.json: model_type 'qwen3_next' is not supported: it needs linear attention"
    with pytest.raises(PretrainedError, match=said):
        PublishedConfig({"model_type": "qwen3_next"}).transformer  # noqa: B018
    assert not MISSING.keys() & FAMILIES.keys()


def test_an_unknown_family():
    with pytest.raises(
        PretrainedError, match=r"config.json: model_type 'gpt2' is none of dbrx, deepseek_v2, .*qwen3_moe"
    ):
        PublishedConfig({"model_type": "gpt2"}).transformer  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("fp8", "quantization_config is 'fp8': Expected `object`"),
        (
            {"quant_method": "awq"},
            "quantization_config.quant_method is 'awq', only 'moe_numpy' or 'fp8' or 'mxfp4' is supported",
        ),
        ({}, "lacks quantization_config.quant_method"),
        ({"quant_method": "fp8"}, "lacks quantization_config.weight_block_size"),
        ({"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [2, 2]}, "fmt is 'e5m2'"),
        ({"quant_method": "fp8", "weight_block_size": [0, 2]}, "rows and columns must be at least 1"),
        ({"quant_method": "fp8", "weight_block_size": [2]}, "weight_block_size is"),
    ],
)
def test_number_formats_that_are_refused(settings, message):
    with pytest.raises(PretrainedError, match=message):
        PublishedConfig({"quantization_config": settings}).fp8_block  # noqa: B018


def test_number_formats():
    assert PublishedConfig({}).fp8_block is None
    assert PublishedConfig({"quantization_config": {"quant_method": "mxfp4"}}).fp8_block is None
    blocks = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 64]}
    config = PublishedConfig(recorded("mixtral")["plain"]["published"] | {"quantization_config": blocks})
    assert config.fp8_block == (128, 64)
    assert "quantization_config" not in config.written().to_json()


def test_what_is_left_out_of_a_model():
    names = [f"model.layers.{n}.input_layernorm.weight" for n in range(4)]
    names += ["model.layers.3.eh_proj.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.x.y"]
    deepseek, mixtral, ernie = (FAMILIES[name] for name in ("deepseek_v3", "mixtral", "ernie4_5_moe"))
    computed = "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert deepseek.num_layers(names) == 4
    assert deepseek.skipped(names, 3) == {computed, names[3], "model.layers.3.eh_proj.weight"}
    assert deepseek.skipped(names, 2) == deepseek.skipped(
        names, 3
    )  # layer 2 predicts nothing: it is missing, not extra
    assert mixtral.skipped(names, 3) == {computed}
    assert ernie.skipped(["model.mtp_block.0.x", "mtp.x", "model.norm.weight"], 1) == {"model.mtp_block.0.x", "mtp.x"}
